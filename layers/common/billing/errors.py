"""Every error that this package raises on purpose, and what each error means to a caller.

    BillingError
    ├── InvalidRequest              422  a field, the query or the body is not valid
    │   └── UnsupportedMediaType    415
    ├── Unauthenticated             401  no credentials, or credentials that we do not know
    │   ├── InvalidCredentials      401  sign-in failed; never says whether the account exists
    │   └── BadSignature            401  Commet did not sign this webhook
    ├── Forbidden                   403  the caller is known and may not do this
    ├── NotFound                    404
    ├── MethodNotAllowed            405
    ├── Conflict                    409  the current state forbids the request; see `code`
    ├── PayloadTooLarge             413
    ├── PaymentRequired             402  the plan's limit, or a missing subscription, forbids it
    ├── TooManyRequests             429  try again after `retry_after` seconds
    ├── CommetRefused               502  Commet refused; the same request will be refused again
    └── Unavailable                 503  a dependency does not answer; trying again may help
        ├── AccessUnconfirmed       503  the user may have paid; Commet has not confirmed it yet
        ├── DatabaseUnavailable     503
        └── CommetUnavailable       503  no answer, HTTP 5xx or rate limit; 502 if unreadable

An error carries its HTTP status, a stable `code`, a title and a `detail`. All of these are safe to
show. SQL and Commet's own messages are not: they stay in `__cause__` and in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

# The title of every problem code. A code that is raised anywhere has its own title here
# (tests/unit/billing/test_problem_titles.py).
TITLES = {
    # the request
    "invalid_request": "The request is not valid",
    "invalid_encoding": "The body is not UTF-8 text",
    "invalid_json": "The body is not valid JSON",
    "unsupported_media_type": "The body must be sent as application/json",
    "payload_too_large": "The body is too large",
    "not_found": "There is nothing at this address",
    "method_not_allowed": "This address does not accept this method",
    "too_many_requests": "There were too many requests",
    # the caller
    "unauthenticated": "The credentials are missing or not valid",
    "invalid_credentials": "The email or the password is wrong",
    "bad_signature": "The webhook's signature does not match",
    "forbidden": "The caller may not do this",
    "missing_scope": "The service key lacks a scope",
    "service_key_required": "A service key is required",
    "origin_not_allowed": "The request does not come from an allowed origin",
    # users, plans and subscriptions
    "unknown_user": "There is no user with this id",
    "email_taken": "Another account has this email address",
    "plan_not_found": "There is no plan with this code",
    "already_subscribed": "The user already has a subscription",
    "checkout_in_progress": "Another checkout is being started",
    "billing_email_taken": "Another customer is billed at this email address",
    "no_billing_account": "The user has no billing account yet",
    "subscription_required": "A subscription is required",
    "access_unconfirmed": "The user's access is not confirmed yet",
    # usage
    "feature_not_in_plan": "The plan does not have this feature",
    "feature_not_metered": "The feature is not metered",
    "limit_reached": "The plan's included quantity is used up",
    "total_too_large": "The total would become too large",
    "too_old": "The event occurred too long ago",
    "in_future": "The event lies in the future",
    "idempotency_conflict": "The idempotency key was used with different content",
    "already_counted": "Usage was already counted under this idempotency key",
    "reservation_not_found": "There is no reservation with this id",
    "reservation_expired": "The reservation has expired",
    "reservation_released": "The reservation was released",
    "reservation_confirmed": "The reservation was already confirmed",
    "below_zero": "The total would fall below zero",
    "no_period": "There is no allowance period for this correction",
    "entry_not_found": "The ledger has no such entry",
    "conflict": "The current state forbids the request",
    # our side
    "billing_provider_error": "The billing provider did not carry out the request",
    "billing_provider_unavailable": "The billing provider does not answer right now",
    "database_unavailable": "The database does not answer right now",
    "unavailable": "The service is not available right now",
    "internal_error": "Something went wrong on our side",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is wrong. Never holds the field's value, which may be a password."""

    field: str
    code: str
    message: str


class BillingError(Exception):
    """Base of all our errors; answered as an RFC 9457 problem document.

    Without a `detail`, the title is the detail.
    """

    status = 500
    code = "internal_error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        self.code = code or self.code
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.errors = tuple(errors)
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        """The title of this code. A code that this release does not know has its class's title."""
        return TITLES.get(self.code) or TITLES[type(self).code]


class InvalidRequest(BillingError):
    status = 422
    code = "invalid_request"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class Unauthenticated(BillingError):
    status = 401
    code = "unauthenticated"


class InvalidCredentials(Unauthenticated):
    code = "invalid_credentials"


class BadSignature(Unauthenticated):
    code = "bad_signature"


class Forbidden(BillingError):
    status = 403
    code = "forbidden"


class NotFound(BillingError):
    status = 404
    code = "not_found"


class MethodNotAllowed(BillingError):
    status = 405
    code = "method_not_allowed"
    allow = "POST"


class Conflict(BillingError):
    status = 409
    code = "conflict"


class PayloadTooLarge(BillingError):
    status = 413
    code = "payload_too_large"


class PaymentRequired(BillingError):
    status = 402
    code = "subscription_required"


class TooManyRequests(BillingError):
    status = 429
    code = "too_many_requests"


class Unavailable(BillingError):
    status = 503
    code = "unavailable"

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, retry_after: int | None = 5
    ) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class AccessUnconfirmed(Unavailable):
    """Commet has not said whether the user has paid, so the answer is neither yes nor no.

    `as_of` is the time of the newest information we have about the user's subscription.
    """

    code = "access_unconfirmed"

    def __init__(self, as_of: datetime | None = None) -> None:
        super().__init__("The subscription is being confirmed. Try again in a few seconds.")
        self.as_of = as_of


class CommetUnavailable(Unavailable):
    """Commet gave no usable answer, so the outcome of a write is unknown.

    Trying again with the same idempotency key is safe and may help. `asked_retry_after` is the
    number of seconds that Commet asked for, or None. `nonsense`: Commet answered, and the answer
    cannot be read. `commet_code` and `request_id` are for the log.
    """

    code = "billing_provider_unavailable"

    def __init__(
        self,
        detail: str | None = None,
        *,
        nonsense: bool = False,
        retry_after: int | None = None,
        commet_code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(
            detail,
            code="billing_provider_error" if nonsense else None,
            retry_after=retry_after or 5,
        )
        self.is_nonsense = nonsense
        self.asked_retry_after = retry_after
        self.commet_code = commet_code
        self.request_id = request_id
        if nonsense:
            self.status = 502


class CommetRefused(BillingError):
    """Commet refused the request. `commet_code` is its reason (commet-api error catalogue)."""

    status = 502
    code = "billing_provider_error"

    def __init__(
        self, commet_code: str, *, commet_status: int, request_id: str | None = None
    ) -> None:
        super().__init__()
        self.commet_code = commet_code
        self.commet_status = commet_status
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.commet_code} (HTTP {self.commet_status}, request {self.request_id})"
