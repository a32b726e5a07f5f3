export interface Call {
    method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
    path: string;
    body?: unknown;
    query?: Record<string, string>;
    /** How long one attempt may take, in milliseconds: 10,000 unless given. */
    timeout?: number;
}
/** Sends calls until they are answered, or the deadline of the call has passed. */
export declare class Sender {
    #private;
    constructor(url: string, key: string, deadline: number, send: typeof fetch, firstPause: number);
    /** The moment, as Date.now() counts, at which a call that begins now is given up. */
    until(): number;
    /**
     * The JSON object of the answer; an empty one where the answer has no body. The call is repeated
     * while no answer comes, and after 429, 503 (as `access_unconfirmed`), 504, and answers that do
     * not come from the backend itself. Throws Problem, or Unreachable.
     */
    send<T>(call: Call, until?: number): Promise<T>;
    /** Waits before another attempt. Answers false, at once, where the deadline would come first. */
    pause(attempt: number, until: number, atLeast?: number): Promise<boolean>;
}
