import type { WrongField } from "./answers.js";

/** Every error that a call of this package throws because of an answer, or of none. */
export class BillingError extends Error {
  override name = "BillingError";
}

/**
 * No answer came before the deadline. The call may have taken effect: make it again. Usage and
 * reservations count once if their key is the same.
 */
export class Unreachable extends BillingError {
  override name = "Unreachable";
}

/** An answer with an error. Programs read `code`, which is stable; people read `detail`. */
export class Problem extends BillingError {
  override name = "Problem";
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

  constructor(status: number, document: Record<string, unknown>, retryAfter: number | null = null) {
    const code = typeof document.code === "string" ? document.code : null;
    const detail = String(document.detail ?? document.title ?? "The answer is no problem document.");
    const errors = Array.isArray(document.errors) ? (document.errors as WrongField[]) : [];
    const wrong = errors.map((each) => `${each.field}: ${each.message}`).join("; ");
    const said = wrong ? `${detail.replace(/\.$/, "")} (${wrong})` : detail;
    super(`${status} ${code ?? "unknown"}: ${said}`);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.errors = errors;
    this.requestId = typeof document.request_id === "string" ? document.request_id : null;
    this.retryAfter = retryAfter;
    this.document = document;
  }
}

/** 402: the user may not use this. `code` says why: the plan, a limit, a debt. */
export class Refused extends Problem {
  override name = "Refused";
}
