"""Every error this package raises on purpose, and what each means to a caller.

    BillingError
    ├── InvalidRequest              422  the request cannot be understood as it is
    │   └── UnsupportedMediaType    415
    ├── Unauthenticated             401  nobody we know
    │   ├── InvalidCredentials      401  sign-in failed; never says whether the account exists
    │   └── BadSignature            401  not sent by Commet
    ├── Forbidden                   403  known, but not allowed to do this
    ├── NotFound                    404
    ├── MethodNotAllowed            405
    ├── Conflict                    409  the state of things forbids it; `code` says which
    ├── PayloadTooLarge             413
    ├── PaymentRequired             402  a limit or a missing subscription forbids it
    ├── TooManyRequests             429  try again after `retry_after` seconds
    ├── CommetRefused               502  Commet said no; the same request will not do better
    └── Unavailable                 503  a dependency does not answer; trying again may help
        ├── AccessUnconfirmed       503  they may have paid, and Commet does not say
        ├── DatabaseUnavailable
        └── CommetUnavailable       503  network, timeout, 5xx, rate limit, or nonsense (502)

An error carries its HTTP status, a stable `code` and a `detail` that is safe to show. What is
not safe to show (SQL, Commet's messages) stays in `__cause__` and the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is wrong. Never holds the value itself: it may be a password."""

    field: str
    code: str
    message: str


class BillingError(Exception):
    """Base of all errors of ours; answered as an RFC 9457 problem document."""

    status = 500
    code = "internal_error"
    title = "Something went wrong on our side"

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.code = code or self.code
        self.retry_after = retry_after
        self.errors = tuple(errors)


class InvalidRequest(BillingError):
    status = 422
    code = "invalid_request"
    title = "The request is not valid"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"
    title = "Send the body as application/json"


class Unauthenticated(BillingError):
    status = 401
    code = "unauthenticated"
    title = "Sign in first"


class InvalidCredentials(Unauthenticated):
    code = "invalid_credentials"
    title = "Email or password is wrong"


class BadSignature(Unauthenticated):
    code = "bad_signature"
    title = "The signature does not match"


class Forbidden(BillingError):
    status = 403
    code = "forbidden"
    title = "This key may not do that"


class NotFound(BillingError):
    status = 404
    code = "not_found"
    title = "There is nothing at this address"


class MethodNotAllowed(BillingError):
    status = 405
    code = "method_not_allowed"
    title = "This address does not take that method"
    allow = "POST"


class Conflict(BillingError):
    status = 409
    code = "conflict"
    title = "The request conflicts with the current state"


class PayloadTooLarge(BillingError):
    status = 413
    code = "payload_too_large"
    title = "The body is too large"


class PaymentRequired(BillingError):
    status = 402
    code = "subscription_required"
    title = "A subscription is required"


class TooManyRequests(BillingError):
    status = 429
    code = "too_many_requests"
    title = "Too many requests"


class Unavailable(BillingError):
    status = 503
    code = "unavailable"
    title = "The service is not available right now"

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, retry_after: int | None = 5
    ) -> None:
        super().__init__(detail, code=code, retry_after=retry_after)


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    title = "The database does not answer right now"


class AccessUnconfirmed(Unavailable):
    """Refusing for want of a subscription would be wrong: Commet was asked and has not answered.

    `as_of` is how old the newest that is known of the user is.
    """

    code = "access_unconfirmed"
    title = "The subscription is being confirmed"

    def __init__(self, as_of: datetime | None = None) -> None:
        super().__init__("The subscription is being confirmed. Try again.")
        self.as_of = as_of


class CommetUnavailable(Unavailable):
    """Commet gave no usable answer, so the outcome of a write is unknown.

    Trying again with the same idempotency key is safe and may help. `retry_after` is what Commet
    asked for, in seconds, where it did. `commet_code` and `request_id` are for the log.
    """

    code = "billing_provider_unavailable"
    title = "The billing provider does not answer right now"

    def __init__(
        self,
        detail: str | None = None,
        *,
        nonsense: bool = False,
        retry_after: int | None = None,
        commet_code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail, retry_after=retry_after or 5)
        self.is_nonsense = nonsense
        self.asked_retry_after = retry_after
        self.commet_code = commet_code
        self.request_id = request_id
        if nonsense:
            self.status = 502
            self.code = "billing_provider_error"


class CommetRefused(BillingError):
    """A business answer of Commet's; `commet_code` says which (commet-api error catalogue)."""

    status = 502
    code = "billing_provider_error"
    title = "The billing provider did not accept the request"

    def __init__(
        self, commet_code: str, *, commet_status: int, request_id: str | None = None
    ) -> None:
        super().__init__()
        self.commet_code = commet_code
        self.commet_status = commet_status
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.commet_code} (HTTP {self.commet_status}, request {self.request_id})"
