/** A request to an endpoint of yours was not sent by the backend. Answer it with 400. */
export declare class WrongSignature extends Error {
    name: string;
}
/**
 * Something that became true for a user. `data` depends on `type` (docs/events). An event may come
 * more than once: keep its `id`. `sequence` numbers the events of one user.
 */
export interface Event {
    id: string;
    type: string;
    userId: string;
    sequence: number;
    occurredAt: Date;
    data: Record<string, unknown>;
}
/**
 * The event of a request to your endpoint, signed after Standard Webhooks. Throws WrongSignature
 * unless the backend sent it. `body` is the request's body as it came, before any JSON is read.
 * `secret` begins with `whsec_`; while you change it, give both.
 */
export declare function readEvent(body: string | Uint8Array, headers: Headers | Record<string, string | string[] | undefined>, secret: string | string[]): Promise<Event>;
