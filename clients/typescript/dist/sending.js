import { BillingError, Problem, Refused, Unreachable } from "./problems.js";
// In milliseconds.
const ATTEMPT = 10_000;
const LONGEST_PAUSE = 8_000;
/** Sends calls until they are answered, or the deadline of the call has passed. */
export class Sender {
    // Private fields of the language: neither logs nor JSON show the key.
    #url;
    #key;
    #deadline;
    #fetch;
    #firstPause;
    constructor(url, key, deadline, send, firstPause) {
        this.#url = url;
        this.#key = key;
        this.#deadline = deadline;
        this.#fetch = send;
        this.#firstPause = firstPause;
    }
    /** The moment, as Date.now() counts, at which a call that begins now is given up. */
    until() {
        return Date.now() + this.#deadline;
    }
    /**
     * The JSON object of the answer; an empty one where the answer has no body. The call is repeated
     * while no answer comes, and after 429, 503 (as `access_unconfirmed`), 504, and answers that do
     * not come from the backend itself. Throws Problem, or Unreachable.
     */
    async send(call, until = this.until()) {
        for (let attempt = 0;; attempt++) {
            const came = await this.#once(call, Math.max(1, Math.min(call.timeout ?? ATTEMPT, until - Date.now())));
            if (!(came instanceof BillingError))
                return came;
            if (!mayPass(came))
                throw came;
            const asked = came instanceof Problem ? (came.retryAfter ?? 0) * 1000 : 0;
            if (!(await this.pause(attempt, until, asked)))
                throw came;
        }
    }
    /** Waits before another attempt. Answers false, at once, where the deadline would come first. */
    async pause(attempt, until, atLeast = 0) {
        const most = Math.min(LONGEST_PAUSE, this.#firstPause * 2 ** attempt);
        // Half of it is random, so that many clients do not come back at the same moment.
        const wait = atLeast + (most * (1 + Math.random())) / 2;
        if (Date.now() + wait >= until)
            return false;
        await new Promise((resolve) => setTimeout(resolve, wait));
        return true;
    }
    async #once(call, timeout) {
        const query = call.query && Object.keys(call.query).length ? `?${new URLSearchParams(call.query)}` : "";
        let status, text, retryAfter;
        try {
            const answer = await this.#fetch(this.#url + call.path + query, {
                method: call.method,
                headers: {
                    authorization: `Bearer ${this.#key}`,
                    accept: "application/json",
                    ...(call.body === undefined ? {} : { "content-type": "application/json" }),
                },
                ...(call.body === undefined ? {} : { body: JSON.stringify(call.body) }),
                redirect: "manual", // the key goes nowhere else
                signal: AbortSignal.timeout(timeout), // until the whole body is here
            });
            [status, text, retryAfter] = [answer.status, await answer.text(), answer.headers.get("retry-after")];
        }
        catch (error) {
            return new Unreachable(`The billing backend did not answer: ${reason(error)} at ${new URL(this.#url).origin}.`);
        }
        const document = text === "" && status < 300 ? {} : parsed(text);
        if (status >= 200 && status < 300) {
            return document ?? new BillingError(`What answered with ${status} is not the billing backend: its body is no JSON object. Is the address right?`);
        }
        const wait = retryAfter !== null && /^\d+$/.test(retryAfter) ? Number(retryAfter) : null;
        return new (status === 402 ? Refused : Problem)(status, document ?? {}, wait);
    }
}
function mayPass(error) {
    if (error instanceof Unreachable)
        return true;
    if (!(error instanceof Problem))
        return false;
    // An answer without a code is not the backend's, but of something in front of it.
    return [429, 503, 504].includes(error.status) || (error.status >= 500 && error.code === null);
}
function parsed(text) {
    try {
        const found = JSON.parse(text);
        return typeof found === "object" && found !== null && !Array.isArray(found)
            ? found
            : null;
    }
    catch {
        return null;
    }
}
function reason(error) {
    const cause = error instanceof Error ? error.cause : undefined;
    return cause?.code ?? (error instanceof Error ? error.name : "unknown");
}
