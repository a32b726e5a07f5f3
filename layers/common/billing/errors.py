"""Every error that this package raises on purpose, and what each error means to a caller.

    BillingError
    ├── UnreadableBody              400  the body is not UTF-8 text, or not JSON
    ├── UnknownEvent                400  a function was invoked with something that is no request
    ├── InvalidRequest              422  a field or the query is not valid
    │   └── UnsupportedMediaType    415
    │       └── UnsupportedEncoding 415  the body is compressed
    ├── Unauthenticated             401  no credentials, or credentials that we do not know
    │   ├── InvalidCredentials      401  sign-in failed; never says whether the account exists
    │   └── BadSignature            401  Commet did not sign this webhook
    ├── Forbidden                   403  the caller is known and may not do this
    ├── NotFound                    404
    ├── MethodNotAllowed            405
    ├── Conflict                    409  the current state forbids the request; see `code`
    │   └── AlreadySubscribed       409  the user has a subscription, whose plan may be changed
    ├── PayloadTooLarge             413
    ├── PaymentRequired             402  the plan's limit, or a missing subscription, forbids it
    │   └── DebtOpen                402  the user owes; says how much and where it is paid
    ├── TooManyRequests             429  try again after `retry_after` seconds
    ├── CommetRefused               502  Commet refused; the same request will be refused again
    └── Unavailable                 503  a dependency does not answer; trying again may help
        ├── AccessUnconfirmed       503  the user may have paid; Commet has not confirmed it yet
        ├── DatabaseUnavailable     503
        ├── IdentityProviderUnavailable 503  the key of a token is not known, nor is its issuer up
        ├── UsagePending            503  usage has to be delivered first, and could not be
        └── CommetUnavailable       503  no answer, HTTP 5xx or rate limit; 502 if unreadable
            └── CallBudgetSpent     503  the stack has no call to Commet left; none was made

An error carries its HTTP status, a stable `code`, a title and a `detail`. All of these are safe to
show. SQL and Commet's own messages are not: they stay in `__cause__` and in the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

# The title of every problem code. Every code that is raised anywhere has its own title here
# (tests/unit/billing/test_problem_titles.py).
TITLES = {
    # the request
    "invalid_request": "The request is not valid",
    "invalid_encoding": "The body is not UTF-8 text",
    "invalid_json": "The body is not valid JSON",
    "unsupported_media_type": "The body must be sent as application/json",
    "unsupported_encoding": "The body must be sent uncompressed",
    "payload_too_large": "The body is too large",
    "not_found": "There is nothing at this address",
    "unknown_event": "The event is no HTTP request of payload format 2.0",
    "method_not_allowed": "This address does not accept this method",
    "too_many_requests": "There were too many requests",
    # the caller
    "unauthenticated": "The credentials are missing or not valid",
    "invalid_credentials": "The email or the password is wrong",
    "sign_in_link_required": "A link from a mail is needed to sign in",
    "link_expired": "The link is not valid any more",
    "bad_signature": "The webhook's signature does not match",
    "forbidden": "The caller may not do this",
    "missing_scope": "The service key lacks a scope",
    "service_key_required": "A service key is required",
    "own_account_required": "The user has no password here",
    "recent_sign_in_required": "The user has to sign in again first",
    "identity_provider_unavailable": "The identity provider does not answer",
    "origin_not_allowed": "The request does not come from an allowed origin",
    # users, plans and subscriptions
    "unknown_user": "There is no user with this id",
    "email_taken": "Another account has this email address",
    "own_account": "The user signed up here",
    "email_missing": "The user has no email address yet",
    "email_unverified": "The email address is not confirmed yet",
    "not_an_own_account": "The user did not sign up here",
    "session_not_found": "There is no session with this id",
    "being_erased": "The account with this id is being erased",
    "free_period_used": "The free plan was used already",
    "plan_not_found": "There is no plan with this code",
    "already_subscribed": "The user already has a subscription",
    "checkout_in_progress": "Another checkout is being started",
    "dispute_open": "A disputed payment has to be settled first",
    "billing_email_taken": "Another customer is billed at this email address",
    "plan_change_not_offered": "The subscription cannot change to this plan",
    "plan_change_not_possible": "The plan cannot be changed now",
    "confirmation_expired": "The confirmation is not valid any more",
    "cancellation_not_possible": "The subscription cannot be canceled or kept",
    "nothing_to_recover": "No payment is overdue",
    "invoice_not_found": "There is no invoice with this id",
    "usage_pending": "Usage has to be reported to the billing provider first",
    "payment_failed": "The payment failed",
    "payment_method_missing": "There is no payment method",
    "no_billing_account": "The user has no billing account yet",
    "unknown_customer": "The billing provider has no such customer",
    "customer_of_another": "The customer is another user's",
    "has_a_customer": "The user has a customer already",
    "subscription_required": "A subscription is required",
    "access_unconfirmed": "The user's access is not confirmed yet",
    "debt_open": "The user has an open debt",
    "debt_payment_processing": "The payment of the debt is being processed",
    # usage
    "feature_not_in_plan": "The plan does not have this feature",
    "feature_not_metered": "The feature is not metered",
    "limit_reached": "The plan's included quantity is used up",
    "payment_overdue": "A payment is overdue",
    "spend_limit_reached": "The spending limit is reached",
    "price_unknown": "The price of this usage is not known",
    "total_too_large": "The total would become too large",
    "too_old": "The event occurred too long ago",
    "before_subscription": "The event occurred before the subscription",
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
    # outgoing events
    "endpoint_not_found": "There is no endpoint with this id",
    "event_not_found": "There is no event with this id",
    "range_too_long": "The range of events is too long for one request",
    "too_many_endpoints": "There are too many endpoints",
    "threshold_exists": "There is an equal threshold already",
    "threshold_not_found": "There is no threshold with this id",
    "too_many_thresholds": "There are too many thresholds",
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
    """One field that is wrong. It never contains the field's value, which may be a password."""

    field: str
    code: str
    message: str


class BillingError(Exception):
    """Base of all our errors, which are answered as an RFC 9457 problem document.

    Without a `detail`, the title is the detail. `is_expected` is true for a 5xx answer that asks
    the caller to try again soon, while nothing is broken or another alarm covers the cause. Such an
    answer does not count as an error of the function.
    """

    status = 500
    code = "internal_error"
    is_expected = False

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
        """The title of this code. If this release does not know the code, the title of its
        class.
        """
        return TITLES.get(self.code) or TITLES[type(self).code]


class UnknownEvent(BillingError):
    status = 400
    code = "unknown_event"


class UnreadableBody(BillingError):
    status = 400
    code = "invalid_json"


class InvalidRequest(BillingError):
    status = 422
    code = "invalid_request"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMediaType):
    code = "unsupported_encoding"


class Unauthenticated(BillingError):
    status = 401
    code = "unauthenticated"


class InvalidCredentials(Unauthenticated):
    """The password is wrong. `of_user` is the account's user, for the audit trail only."""

    code = "invalid_credentials"

    def __init__(self, *, of_user: str | None = None) -> None:
        super().__init__()
        self.of_user = of_user


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


class AlreadySubscribed(Conflict):
    """The user has a subscription. `may_change`: its plan may be changed instead."""

    code = "already_subscribed"

    def __init__(self, detail: str | None = None, *, may_change: bool = False) -> None:
        super().__init__(detail)
        self.may_change = may_change


class PayloadTooLarge(BillingError):
    status = 413
    code = "payload_too_large"


class PaymentRequired(BillingError):
    status = 402
    code = "subscription_required"


class DebtOpen(PaymentRequired):
    """The user owes `amount` in `currency`, in major units, and can pay it at `pay_url`.

    `pay_url` is None if Commet created no payment link.
    """

    code = "debt_open"

    def __init__(self, amount: str, currency: str, pay_url: str | None) -> None:
        super().__init__("Usage of an earlier subscription has not been paid. Pay it first.")
        self.amount = amount
        self.currency = currency
        self.pay_url = pay_url


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


class IdentityProviderUnavailable(Unavailable):
    """A token is signed with an unknown key, and its issuer does not publish its keys now."""

    code = "identity_provider_unavailable"
    # A stranger who sends a token with an unknown key while the provider is down gets this error
    # too. The provider's failures have an alarm of their own.
    is_expected = True


class UsagePending(Unavailable):
    """The subscription would end or change before its usage is billed. Deliveries have their
    own alarm.
    """

    code = "usage_pending"
    is_expected = True

    def __init__(self) -> None:
        super().__init__("Usage is still being reported. Try again in a few seconds.")


class AccessUnconfirmed(Unavailable):
    """Commet has not said whether the user has paid, so the answer is neither yes nor no.

    `as_of` is the time of our newest information about the user's subscription.
    """

    code = "access_unconfirmed"
    is_expected = True

    def __init__(self, as_of: datetime | None = None) -> None:
        super().__init__("The subscription is being confirmed. Try again in a few seconds.")
        self.as_of = as_of


class CommetUnavailable(Unavailable):
    """Commet gave no usable answer, so the outcome of a write is unknown.

    A second attempt with the same idempotency key is safe and may help. `asked_retry_after` is the
    number of seconds that Commet asked for, or None. `nonsense`: Commet answered, but the answer
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


class CallBudgetSpent(CommetUnavailable):
    """The call was not made, because the call budget is used up or Commet has asked for a pause."""


class CommetRefused(BillingError):
    """Commet refused the request. `commet_code` is Commet's code (commet-api error catalogue)."""

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
