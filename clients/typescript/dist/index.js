import { Sender } from "./sending.js";
export { readEvent, WrongSignature } from "./events.js";
export { BillingError, Problem, Refused, Unreachable } from "./problems.js";
const BATCH = 1000; // events in one request, as the API allows
const LONGEST_ATTEMPT = 30_000; // milliseconds; API Gateway answers 503 by itself after that
/**
 * The billing backend, called with a service key. Every call is repeated while the backend cannot
 * be reached or says "later" (429, 503). Then it throws Problem, or Unreachable if nothing
 * answered; 402 throws Refused. A service key is for backends: never ship it to a browser.
 */
export class Billing {
    #sender;
    constructor(options = {}) {
        this.#sender = new Sender(address(options.url ?? environment("BILLING_URL")), options.key ?? environment("BILLING_KEY") ?? missing("A service key", "BILLING_KEY"), options.deadline ?? 30_000, options.fetch ?? fetch, options.firstPause ?? 250);
    }
    /** Reports usage. Without a key, one is made for this call and its attempts. */
    async report(usage) {
        const found = await this.#post("/usage", event(withKey(usage)));
        return found.results[0];
    }
    /**
     * Reports many events, each with a verdict of its own, in their order. A refused event throws
     * nothing and stops no other. If the call throws, report all of them again with the same keys.
     */
    async reportAll(usage) {
        const events = [...usage].map(event);
        const taken = [];
        for (let start = 0; start < events.length; start += BATCH) {
            taken.push(...(await this.#batch(events.slice(start, start + BATCH))));
        }
        return taken.map((each, index) => ({ ...each, index }));
    }
    /** Whether a quantity may be used now, and what it would cost. Nothing is held. */
    check(userId, feature, quantity = 1) {
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
    async reserve(usage) {
        const { expiresIn = 300, ...rest } = usage;
        const body = { ...event(withKey(rest)), expires_in: expiresIn };
        return new Reservation(this.#sender, await this.#post("/usage/reservations", body));
    }
    /** Adds to a user's total; a negative quantity is taken off it. `corrects` is an entry's key. */
    correct(usage) {
        const { reason, corrects, ...rest } = usage;
        const body = { ...event(withKey(rest)), reason, ...(corrects === undefined ? {} : { corrects }) };
        return this.#post("/usage/corrections", body);
    }
    /** The ledger's entries in the order of booking, booked in [since, until). */
    ledger(of = {}) {
        const query = given({
            user_id: of.userId,
            feature: of.feature,
            from: of.since?.toISOString(),
            to: of.until?.toISOString(),
            limit: String(of.pageSize ?? 500),
        });
        return this.#pages("/usage/events", "events", query);
    }
    /**
     * The JSON object that a route of your own answers (`make function`). One attempt may take 30
     * seconds, as long as API Gateway waits. The call is repeated like all others: send an
     * `idempotency_key` with what must count once.
     */
    async call(method, path, body, query) {
        return this.#sender.send({ method, path, body, ...(query ? { query } : {}), timeout: LONGEST_ATTEMPT });
    }
    /** Registers a user of the product under the product's own id, or changes the user. */
    async register(userId, email, name) {
        const path = `/users/${encodeURIComponent(userId)}`;
        return (await this.#sender.send({ method: "PUT", path, body: given({ email, name }) })).user;
    }
    /** Erases a user. Name and address go at once. */
    async erase(userId) {
        await this.#sender.send({ method: "DELETE", path: `/users/${encodeURIComponent(userId)}` });
    }
    /** What the user has, has used and owes, as the API answers it. */
    dashboard(userId) {
        return this.#sender.send({ method: "GET", path: `/users/${encodeURIComponent(userId)}/dashboard` });
    }
    /** The plans on sale, as the API answers them. */
    async plans() {
        const call = { method: "GET", path: "/plans" };
        return (await this.#sender.send(call)).plans;
    }
    /** Starts a checkout, or shows a change of plan, which the same call with its confirmation does. */
    checkOut(userId, planCode, options = {}) {
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
    async portal(userId, returnUrl) {
        const body = given({ user_id: userId, return_url: returnUrl });
        return (await this.#post("/portal", body)).portal_url;
    }
    /** The address on which the user pays an overdue payment. */
    async recovery(userId) {
        return (await this.#post("/recovery", { user_id: userId })).recovery_url;
    }
    /** Cancels at the end of the paid period, or at once. */
    async cancel(userId, options = {}) {
        const body = { user_id: userId, immediate: options.immediate ?? false };
        return (await this.#post("/subscription/cancel", body)).subscription;
    }
    /** Takes back a cancellation that has not happened yet. */
    async keep(userId) {
        const body = { user_id: userId };
        return (await this.#post("/subscription/keep", body)).subscription;
    }
    /** Limits what the user's overage may cost in a period, in major units. Null: the default. */
    async limitSpending(userId, limit) {
        const path = `/users/${encodeURIComponent(userId)}/spend-limit`;
        const body = { amount: limit === null ? null : amount(limit) };
        return (await this.#sender.send({ method: "PUT", path, body })).spending;
    }
    /** The user's invoices, the newest first. */
    invoices(userId) {
        return this.#pages("/invoices", "invoices", { user_id: userId });
    }
    /** Sends events again that are `access_unconfirmed`, and no others, until the deadline. */
    async #batch(events) {
        const until = this.#sender.until();
        const verdicts = [];
        let waiting = events.map((_, index) => index);
        for (let attempt = 0;; attempt++) {
            const body = { events: waiting.map((index) => events[index]) };
            const found = await this.#sender.send({ method: "POST", path: "/usage", body }, until);
            found.results.forEach((each, at) => (verdicts[waiting[at] ?? at] = each));
            waiting = waiting.filter((index) => verdicts[index]?.code === "access_unconfirmed");
            if (waiting.length === 0 || !(await this.#sender.pause(attempt, until)))
                return verdicts;
        }
    }
    async *#pages(path, field, query) {
        for (let cursor = ""; cursor !== null;) {
            const asked = cursor ? { ...query, cursor } : query;
            const page = await this.#sender.send({ method: "GET", path, query: asked });
            yield* page[field];
            cursor = page.next_cursor;
        }
    }
    #post(path, body) {
        return this.#sender.send({ method: "POST", path, body });
    }
}
/** A quantity that is held for one unit of work. `held` is what the API said last. */
export class Reservation {
    #sender;
    held;
    constructor(sender, held) {
        this.#sender = sender;
        this.held = held;
    }
    /** Books the quantity that the work took; all of it if none is named. */
    async confirm(quantity) {
        return this.#end("confirm", quantity === undefined ? {} : { quantity: amount(quantity) });
    }
    /** Ends the reservation without booking anything. */
    async release() {
        return this.#end("release", {});
    }
    /** Releases what was neither confirmed nor released. If that fails, the reservation expires. */
    async [Symbol.asyncDispose]() {
        if (this.held.state === "held")
            await this.release().catch(() => undefined);
    }
    async #end(how, body) {
        const path = `/usage/reservations/${encodeURIComponent(this.held.id)}/${how}`;
        this.held = await this.#sender.send({ method: "POST", path, body });
        return this.held;
    }
}
function event(usage) {
    return {
        user_id: usage.userId,
        feature: usage.feature,
        quantity: amount(usage.quantity ?? 1),
        idempotency_key: usage.key,
        ...(usage.occurredAt ? { occurred_at: usage.occurredAt.toISOString() } : {}),
        ...(usage.properties ? { properties: usage.properties } : {}),
    };
}
function withKey(usage) {
    return { ...usage, key: usage.key ?? crypto.randomUUID() };
}
function amount(quantity) {
    if (typeof quantity === "number" && !Number.isSafeInteger(quantity)) {
        throw new TypeError(`Send ${quantity} as a text: numbers of JavaScript are not exact.`);
    }
    return String(quantity);
}
function given(fields) {
    return Object.fromEntries(Object.entries(fields).filter((each) => each[1] !== undefined));
}
function address(url) {
    if (!url)
        return missing("The backend's address", "BILLING_URL");
    const { protocol, hostname } = new URL(url);
    const local = protocol === "http:" && ["127.0.0.1", "[::1]", "localhost"].includes(hostname);
    // Otherwise the key would travel unencrypted.
    if (protocol !== "https:" && !local)
        throw new TypeError("The billing backend's address begins with https://.");
    return url.replace(/\/+$/, "");
}
function environment(name) {
    const { process } = globalThis;
    return process?.env[name] || undefined;
}
function missing(what, variable) {
    throw new TypeError(`${what} is missing: give it, or set ${variable}.`);
}
