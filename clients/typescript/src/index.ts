import type {
  CheckedOut,
  Checked,
  Corrected,
  Entry,
  Held,
  Invoice,
  Spending,
  Subscription,
  Taken,
  User,
} from "./answers.js";
import { type Call, Sender } from "./sending.js";

export type * from "./answers.js";
export { type Event, readEvent, WrongSignature } from "./events.js";
export { BillingError, Problem, Refused, Unreachable } from "./problems.js";

/** A decimal text ("1.5") or a whole number. Other numbers are refused: 0.1 + 0.2 is not 0.3. */
export type Quantity = string | number | bigint;

/** Something that was used. Report it again with the same key, and it is counted once. */
export interface Usage {
  userId: string;
  feature: string;
  quantity?: Quantity;
  key: string;
  occurredAt?: Date;
  properties?: Record<string, string>;
}

export interface Options {
  /** The backend's address; else BILLING_URL. */
  url?: string;
  /** The service key; else BILLING_KEY. */
  key?: string;
  /** For how long a call is repeated, in milliseconds: 30,000 unless given. */
  deadline?: number;
  /** The first pause between attempts, in milliseconds: 250 unless given. */
  firstPause?: number;
  fetch?: typeof fetch;
}

const BATCH = 1000; // events in one request, as the API allows
const LONGEST_ATTEMPT = 30_000; // milliseconds; API Gateway answers 503 by itself after that

/**
 * The billing backend, called with a service key. Every call is repeated while the backend cannot
 * be reached or says "later" (429, 503). Then it throws Problem, or Unreachable if nothing
 * answered; 402 throws Refused. A service key is for backends: never ship it to a browser.
 */
export class Billing {
  readonly #sender: Sender;

  constructor(options: Options = {}) {
    this.#sender = new Sender(
      address(options.url ?? environment("BILLING_URL")),
      options.key ?? environment("BILLING_KEY") ?? missing("A service key", "BILLING_KEY"),
      options.deadline ?? 30_000,
      options.fetch ?? fetch,
      options.firstPause ?? 250,
    );
  }

  /** Reports usage. Without a key, one is made for this call and its attempts. */
  async report(usage: Omit<Usage, "key"> & { key?: string }): Promise<Taken> {
    const found = await this.#post<{ results: [Taken] }>("/usage", event(withKey(usage)));
    return found.results[0];
  }

  /**
   * Reports many events, each with a verdict of its own, in their order. A refused event throws
   * nothing and stops no other. If the call throws, report all of them again with the same keys.
   */
  async reportAll(usage: Iterable<Usage>): Promise<Taken[]> {
    const events = [...usage].map(event);
    const taken: Taken[] = [];
    for (let start = 0; start < events.length; start += BATCH) {
      taken.push(...(await this.#batch(events.slice(start, start + BATCH))));
    }
    return taken.map((each, index) => ({ ...each, index }));
  }

  /** Whether a quantity may be used now, and what it would cost. Nothing is held. */
  check(userId: string, feature: string, quantity: Quantity = 1): Promise<Checked> {
    return this.#post("/usage/check", { user_id: userId, feature, quantity: amount(quantity) });
  }

  /**
   * Holds a quantity before the work. `expiresIn` is in seconds, 300 unless given.
   *
   *     await using held = await billing.reserve({ userId, feature: "tokens", quantity: 4000 });
   *     await held.confirm(await work());
   *
   * The end of the block releases what was not confirmed.
   */
  async reserve(
    usage: Omit<Usage, "key" | "occurredAt"> & { key?: string; expiresIn?: number },
  ): Promise<Reservation> {
    const { expiresIn = 300, ...rest } = usage;
    const body = { ...event(withKey(rest)), expires_in: expiresIn };
    return new Reservation(this.#sender, await this.#post<Held>("/usage/reservations", body));
  }

  /** Adds to a user's total; a negative quantity is taken off it. `corrects` is an entry's key. */
  correct(
    usage: Omit<Usage, "key"> & { quantity: Quantity; reason: string; key?: string; corrects?: string },
  ): Promise<Corrected> {
    const { reason, corrects, ...rest } = usage;
    const body = { ...event(withKey(rest)), reason, ...(corrects === undefined ? {} : { corrects }) };
    return this.#post("/usage/corrections", body);
  }

  /** The ledger's entries in the order of booking, booked in [since, until). */
  ledger(
    of: { userId?: string; feature?: string; since?: Date; until?: Date; pageSize?: number } = {},
  ): AsyncGenerator<Entry, void> {
    const query = given({
      user_id: of.userId,
      feature: of.feature,
      from: of.since?.toISOString(),
      to: of.until?.toISOString(),
      limit: String(of.pageSize ?? 500),
    });
    return this.#pages<Entry>("/usage/events", "events", query);
  }

  /**
   * The JSON object that a route of your own answers (`make function`). One attempt may take 30
   * seconds, as long as API Gateway waits. The call is repeated like all others: send an
   * `idempotency_key` with what must count once.
   */
  async call<T = Record<string, unknown>>(
    method: Call["method"],
    path: `/${string}`,
    body?: unknown,
    query?: Record<string, string>,
  ): Promise<T> {
    return this.#sender.send<T>({ method, path, body, ...(query ? { query } : {}), timeout: LONGEST_ATTEMPT });
  }

  /** Registers a user of the product under the product's own id, or changes the user. */
  async register(userId: string, email: string, name?: string): Promise<User> {
    const path = `/users/${encodeURIComponent(userId)}`;
    return (await this.#sender.send<{ user: User }>({ method: "PUT", path, body: given({ email, name }) })).user;
  }

  /** Erases a user. Name and address go at once. */
  async erase(userId: string): Promise<void> {
    await this.#sender.send({ method: "DELETE", path: `/users/${encodeURIComponent(userId)}` });
  }

  /** What the user has, has used and owes, as the API answers it. */
  dashboard(userId: string): Promise<Record<string, unknown>> {
    return this.#sender.send({ method: "GET", path: `/users/${encodeURIComponent(userId)}/dashboard` });
  }

  /** The plans on sale, as the API answers them. */
  async plans(): Promise<Record<string, unknown>[]> {
    const call = { method: "GET", path: "/plans" } as const;
    return (await this.#sender.send<{ plans: Record<string, unknown>[] }>(call)).plans;
  }

  /** Starts a checkout, or shows a change of plan, which the same call with its confirmation does. */
  checkOut(
    userId: string,
    planCode: string,
    options: { billingInterval?: string; successUrl?: string; confirmation?: string } = {},
  ): Promise<CheckedOut> {
    const body = given({
      user_id: userId,
      plan_code: planCode,
      billing_interval: options.billingInterval,
      success_url: options.successUrl,
      confirmation: options.confirmation,
    });
    return this.#post("/checkout", body);
  }

  /** The address of Commet's portal for the user, good for 30 minutes. */
  async portal(userId: string, returnUrl?: string): Promise<string> {
    const body = given({ user_id: userId, return_url: returnUrl });
    return (await this.#post<{ portal_url: string }>("/portal", body)).portal_url;
  }

  /** The address on which the user pays an overdue payment. */
  async recovery(userId: string): Promise<string> {
    return (await this.#post<{ recovery_url: string }>("/recovery", { user_id: userId })).recovery_url;
  }

  /** Cancels at the end of the paid period, or at once. */
  async cancel(userId: string, options: { immediate?: boolean } = {}): Promise<Subscription> {
    const body = { user_id: userId, immediate: options.immediate ?? false };
    return (await this.#post<{ subscription: Subscription }>("/subscription/cancel", body)).subscription;
  }

  /** Takes back a cancellation that has not happened yet. */
  async keep(userId: string): Promise<Subscription> {
    const body = { user_id: userId };
    return (await this.#post<{ subscription: Subscription }>("/subscription/keep", body)).subscription;
  }

  /** Limits what the user's overage may cost in a period, in major units. Null: the default. */
  async limitSpending(userId: string, limit: Quantity | null): Promise<Spending | null> {
    const path = `/users/${encodeURIComponent(userId)}/spend-limit`;
    const body = { amount: limit === null ? null : amount(limit) };
    return (await this.#sender.send<{ spending: Spending | null }>({ method: "PUT", path, body })).spending;
  }

  /** The user's invoices, the newest first. */
  invoices(userId: string): AsyncGenerator<Invoice, void> {
    return this.#pages<Invoice>("/invoices", "invoices", { user_id: userId });
  }

  /** Sends events again that are `access_unconfirmed`, and no others, until the deadline. */
  async #batch(events: object[]): Promise<Taken[]> {
    const until = this.#sender.until();
    const verdicts: Taken[] = [];
    let waiting = events.map((_, index) => index);
    for (let attempt = 0; ; attempt++) {
      const body = { events: waiting.map((index) => events[index]) };
      const found = await this.#sender.send<{ results: Taken[] }>({ method: "POST", path: "/usage", body }, until);
      found.results.forEach((each, at) => (verdicts[waiting[at] ?? at] = each));
      waiting = waiting.filter((index) => verdicts[index]?.code === "access_unconfirmed");
      if (waiting.length === 0 || !(await this.#sender.pause(attempt, until))) return verdicts;
    }
  }

  async *#pages<T>(path: string, field: string, query: Record<string, string>): AsyncGenerator<T, void> {
    for (let cursor: string | null = ""; cursor !== null; ) {
      const asked = cursor ? { ...query, cursor } : query;
      const page: Record<string, unknown> = await this.#sender.send({ method: "GET", path, query: asked });
      yield* page[field] as T[];
      cursor = page.next_cursor as string | null;
    }
  }

  #post<T>(path: string, body: unknown): Promise<T> {
    return this.#sender.send<T>({ method: "POST", path, body });
  }
}

/** A quantity that is held for one unit of work. `held` is what the API said last. */
export class Reservation {
  readonly #sender: Sender;
  held: Held;

  constructor(sender: Sender, held: Held) {
    this.#sender = sender;
    this.held = held;
  }

  /** Books the quantity that the work took; all of it if none is named. */
  async confirm(quantity?: Quantity): Promise<Held> {
    return this.#end("confirm", quantity === undefined ? {} : { quantity: amount(quantity) });
  }

  /** Ends the reservation without booking anything. */
  async release(): Promise<Held> {
    return this.#end("release", {});
  }

  /** Releases what was neither confirmed nor released. If that fails, the reservation expires. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.held.state === "held") await this.release().catch(() => undefined);
  }

  async #end(how: "confirm" | "release", body: object): Promise<Held> {
    const path = `/usage/reservations/${encodeURIComponent(this.held.id)}/${how}`;
    this.held = await this.#sender.send<Held>({ method: "POST", path, body });
    return this.held;
  }
}

function event(usage: Usage): Record<string, unknown> {
  return {
    user_id: usage.userId,
    feature: usage.feature,
    quantity: amount(usage.quantity ?? 1),
    idempotency_key: usage.key,
    ...(usage.occurredAt ? { occurred_at: usage.occurredAt.toISOString() } : {}),
    ...(usage.properties ? { properties: usage.properties } : {}),
  };
}

function withKey<T extends { key?: string }>(usage: T): T & { key: string } {
  return { ...usage, key: usage.key ?? crypto.randomUUID() };
}

function amount(quantity: Quantity): string {
  if (typeof quantity === "number" && !Number.isSafeInteger(quantity)) {
    throw new TypeError(`Send ${quantity} as a text: numbers of JavaScript are not exact.`);
  }
  return String(quantity);
}

function given(fields: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(fields).filter((each): each is [string, string] => each[1] !== undefined),
  );
}

function address(url: string | undefined): string {
  if (!url) return missing("The backend's address", "BILLING_URL");
  const { protocol, hostname } = new URL(url);
  const local = protocol === "http:" && ["127.0.0.1", "[::1]", "localhost"].includes(hostname);
  // Otherwise the key would travel unencrypted.
  if (protocol !== "https:" && !local) throw new TypeError("The billing backend's address begins with https://.");
  return url.replace(/\/+$/, "");
}

function environment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  return process?.env[name] || undefined;
}

function missing(what: string, variable: string): never {
  throw new TypeError(`${what} is missing: give it, or set ${variable}.`);
}
