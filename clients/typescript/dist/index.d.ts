import type { CheckedOut, Checked, Corrected, Entry, Held, Invoice, Spending, Subscription, Taken, User } from "./answers.js";
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
/**
 * The billing backend, called with a service key. Every call is repeated while the backend cannot
 * be reached or says "later" (429, 503). Then it throws Problem, or Unreachable if nothing
 * answered; 402 throws Refused. A service key is for backends: never ship it to a browser.
 */
export declare class Billing {
    #private;
    constructor(options?: Options);
    /** Reports usage. Without a key, one is made for this call and its attempts. */
    report(usage: Omit<Usage, "key"> & {
        key?: string;
    }): Promise<Taken>;
    /**
     * Reports many events, each with a verdict of its own, in their order. A refused event throws
     * nothing and stops no other. If the call throws, report all of them again with the same keys.
     */
    reportAll(usage: Iterable<Usage>): Promise<Taken[]>;
    /** Whether a quantity may be used now, and what it would cost. Nothing is held. */
    check(userId: string, feature: string, quantity?: Quantity): Promise<Checked>;
    /**
     * Holds a quantity before the work. `expiresIn` is in seconds, 300 unless given.
     *
     *     await using held = await billing.reserve({ userId, feature: "tokens", quantity: 4000 });
     *     await held.confirm(await work());
     *
     * The end of the block releases what was not confirmed.
     */
    reserve(usage: Omit<Usage, "key" | "occurredAt"> & {
        key?: string;
        expiresIn?: number;
    }): Promise<Reservation>;
    /** Adds to a user's total; a negative quantity is taken off it. `corrects` is an entry's key. */
    correct(usage: Omit<Usage, "key"> & {
        quantity: Quantity;
        reason: string;
        key?: string;
        corrects?: string;
    }): Promise<Corrected>;
    /** The ledger's entries in the order of booking, booked in [since, until). */
    ledger(of?: {
        userId?: string;
        feature?: string;
        since?: Date;
        until?: Date;
        pageSize?: number;
    }): AsyncGenerator<Entry, void>;
    /**
     * The JSON object that a route of your own answers (`make function`). One attempt may take 30
     * seconds, as long as API Gateway waits. The call is repeated like all others: send an
     * `idempotency_key` with what must count once.
     */
    call<T = Record<string, unknown>>(method: Call["method"], path: `/${string}`, body?: unknown, query?: Record<string, string>): Promise<T>;
    /** Registers a user of the product under the product's own id, or changes the user. */
    register(userId: string, email: string, name?: string): Promise<User>;
    /** Erases a user. Name and address go at once. */
    erase(userId: string): Promise<void>;
    /** What the user has, has used and owes, as the API answers it. */
    dashboard(userId: string): Promise<Record<string, unknown>>;
    /** The plans on sale, as the API answers them. */
    plans(): Promise<Record<string, unknown>[]>;
    /** Starts a checkout, or shows a change of plan, which the same call with its confirmation does. */
    checkOut(userId: string, planCode: string, options?: {
        billingInterval?: string;
        successUrl?: string;
        confirmation?: string;
    }): Promise<CheckedOut>;
    /** The address of Commet's portal for the user, good for 30 minutes. */
    portal(userId: string, returnUrl?: string): Promise<string>;
    /** The address on which the user pays an overdue payment. */
    recovery(userId: string): Promise<string>;
    /** Cancels at the end of the paid period, or at once. */
    cancel(userId: string, options?: {
        immediate?: boolean;
    }): Promise<Subscription>;
    /** Takes back a cancellation that has not happened yet. */
    keep(userId: string): Promise<Subscription>;
    /** Limits what the user's overage may cost in a period, in major units. Null: the default. */
    limitSpending(userId: string, limit: Quantity | null): Promise<Spending | null>;
    /** The user's invoices, the newest first. */
    invoices(userId: string): AsyncGenerator<Invoice, void>;
}
/** A quantity that is held for one unit of work. `held` is what the API said last. */
export declare class Reservation {
    #private;
    held: Held;
    constructor(sender: Sender, held: Held);
    /** Books the quantity that the work took; all of it if none is named. */
    confirm(quantity?: Quantity): Promise<Held>;
    /** Ends the reservation without booking anything. */
    release(): Promise<Held>;
    /** Releases what was neither confirmed nor released. If that fails, the reservation expires. */
    [Symbol.asyncDispose](): Promise<void>;
}
