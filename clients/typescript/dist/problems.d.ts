import type { WrongField } from "./answers.js";
/** Every error that a call of this package throws because of an answer, or of none. */
export declare class BillingError extends Error {
    name: string;
}
/**
 * No answer came before the deadline. The call may have taken effect: make it again. Usage and
 * reservations count once if their key is the same.
 */
export declare class Unreachable extends BillingError {
    name: string;
}
/** An answer with an error. Programs read `code`, which is stable; people read `detail`. */
export declare class Problem extends BillingError {
    name: string;
    readonly status: number;
    readonly code: string | null;
    readonly detail: string;
    readonly errors: WrongField[];
    /** Finds the request in the backend's log. */
    readonly requestId: string | null;
    /** In seconds. */
    readonly retryAfter: number | null;
    /** The whole document, such as the `amount` and `pay_url` of `debt_open`. */
    readonly document: Record<string, unknown>;
    constructor(status: number, document: Record<string, unknown>, retryAfter?: number | null);
}
/** 402: the user may not use this. `code` says why: the plan, a limit, a debt. */
export declare class Refused extends Problem {
    name: string;
}
