"""The problem for each code with which usage is refused."""

from collections import Counter
from collections.abc import Iterable

from billing.errors import (
    BillingError,
    Conflict,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from billing.http import api


def refusal(code: str) -> BillingError:
    """Returns the error to raise for a refusal's code."""
    # The database may be newer than this code and use a code that is not in the table.
    kind, detail = _REFUSALS.get(code, (Conflict, "The current state forbids the request."))
    return kind(detail, code="idempotency_conflict" if code == "conflict" else code)


def log_refusals(codes: Iterable[str]) -> Counter[str]:
    """Logs how many times each code refused usage in this request. Returns the counts.

    Never logs users or keys.
    """
    counted = Counter(codes)
    if counted:
        api.logger.info("usage.refused", extra={"codes": dict(counted)})
    return counted


_REFUSALS: dict[str, tuple[type[BillingError], str]] = {
    "conflict": (
        Conflict,
        "This idempotency key was already used with different content. The first request remains"
        " in effect.",
    ),
    "already_counted": (
        Conflict,
        "Usage was already counted under this idempotency key, so nothing can be reserved under"
        " it.",
    ),
    "unknown_user": (NotFound, "There is no user with this id."),
    "subscription_required": (
        PaymentRequired,
        "The user has no subscription that gives access.",
    ),
    "limit_reached": (PaymentRequired, "Less of the included quantity is left than was asked for."),
    "payment_overdue": (
        PaymentRequired,
        "A payment is overdue, disputed or owed, so only the quantity included in the plan may be"
        " used.",
    ),
    "spend_limit_reached": (
        PaymentRequired,
        "The cost beyond the included quantities would pass the user's spending limit.",
    ),
    "price_unknown": (
        PaymentRequired,
        "The billing provider has not named a price for usage beyond the included quantity.",
    ),
    "feature_not_in_plan": (PaymentRequired, "The user's plan has no feature with this code."),
    "access_unconfirmed": (
        Unavailable,
        "The subscription is being confirmed. Try again in a few seconds.",
    ),
    "feature_not_metered": (InvalidRequest, "This feature is not metered."),
    "too_old": (InvalidRequest, "The event occurred more than 35 days ago."),
    "before_subscription": (
        InvalidRequest,
        "The event occurred before the user's access began, or while the user had no access.",
    ),
    "in_future": (InvalidRequest, "The event lies more than 5 minutes in the future."),
    "total_too_large": (InvalidRequest, "The total of the period would become too large."),
    "reservation_not_found": (NotFound, "There is no reservation with this id."),
    "reservation_expired": (
        Conflict,
        "The reservation has expired, and the quantity no longer fits the limit.",
    ),
    "reservation_released": (Conflict, "The reservation was released."),
    "reservation_confirmed": (
        Conflict,
        "The reservation was confirmed. To change what was counted, send a correction.",
    ),
    "below_zero": (
        Conflict,
        "The user used less than this in the period. For another period, name the wrong entry in"
        " corrects, or send occurred_at.",
    ),
    "no_period": (
        Conflict,
        "The user has no running period, and none that contains occurred_at. Name the wrong entry"
        " in corrects, or send an occurred_at within a period.",
    ),
    "entry_not_found": (
        NotFound,
        "The ledger has no entry of this user and feature with the key in corrects.",
    ),
}
