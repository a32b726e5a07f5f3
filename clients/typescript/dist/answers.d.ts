export interface WrongField {
    field: string;
    code: string;
    message: string;
}
export interface User {
    id: string;
    email: string | null;
    name: string | null;
}
/** What became of one usage event. `code` says why it was refused. */
export interface Taken {
    index: number;
    idempotency_key: string | null;
    status: "accepted" | "duplicate" | "conflict" | "refused";
    code: string | null;
    errors?: WrongField[];
}
/** What a user's overage costs in the running period, and its limit (null: none). */
export interface Spending {
    spent: string;
    limit: string | null;
    set_by: "default" | "product" | "user";
    currency: string;
}
/** Whether a quantity may be used now, and what the part beyond the included one would cost. */
export interface Checked {
    allowed: boolean;
    code: string | null;
    remaining: string | null;
    overage_quantity: string;
    unit_price: string | null;
    cost: string | null;
    currency: string;
    spending: Spending | null;
}
export interface Held {
    id: string;
    user_id: string;
    feature: string;
    idempotency_key: string;
    quantity: string;
    expires_at: string;
    state: "held" | "confirmed" | "released" | "expired";
    booked: string | null;
}
export interface Period {
    start: string;
    end: string;
}
export interface Corrected {
    idempotency_key: string;
    status: "accepted" | "duplicate";
    quantity: string;
    period: Period;
    used: string;
    needs_credit: {
        quantity: string;
        amount: string | null;
        currency: string;
        period: Period;
    } | null;
}
/** One entry of the ledger. */
export interface Entry {
    booked_at: string;
    occurred_at: string;
    user_id: string;
    feature: string;
    kind: "event" | "confirm" | "correction";
    quantity: string;
    idempotency_key: string;
    period: Period & {
        id: string;
        subscription_id: string;
        plan_id: string | null;
    };
    late: boolean;
    reason: string | null;
    author: string | null;
    needs_credit: boolean;
    properties: Record<string, string>;
}
/** Send the user's browser to `checkout_url`; null where nothing is to be paid. */
export interface CheckedOut {
    subscription: {
        id: string;
        status: string;
        plan: {
            id: string | null;
            name: string | null;
        };
    };
    checkout_url: string | null;
    /** What a change of plan means. Its `confirmation`, sent with the same call, performs it. */
    change: (Record<string, unknown> & {
        state: string;
        confirmation: string | null;
    }) | null;
}
export interface Subscription {
    id: string;
    status: string;
    cancel_at_period_end: boolean;
    ends_at: string | null;
}
export interface Invoice {
    id: string;
    number: string | null;
    status: string;
    type: string | null;
    currency: string;
    subtotal: string;
    tax: string;
    total: string;
    period: Period | null;
    issued_at: string | null;
    due_at: string | null;
}
