"""What the routes for usage share: who reports, making sure before refusing, and what to answer."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import wiring
from billing.accounts.accounts import User
from billing.errors import (
    AccessUnconfirmed,
    BillingError,
    Conflict,
    FieldError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from billing.http import api

BY_BACKEND_OR_USER: api.Security = [*api.by_service("usage:write"), *api.BY_USER]

# Refusals that Commet may know better about: somebody may have paid a second ago.
UNSURE = frozenset({"subscription_required", "access_unconfirmed"})

Answer = TypeVar("Answer")


def reporter(app: APIGatewayHttpResolver) -> User | None:
    """The signed-in user who reports their own usage, or None for a backend."""
    caller = api.caller(app)
    if not isinstance(caller, User):
        return None
    if not wiring.settings().allow_self_reported_usage:
        raise Forbidden(
            "Usage is reported by the product's backend, with a service key.",
            code="self_reported_usage_off",
        )
    return caller


def user_id(named: str | None, reported_by: User | None) -> str:
    """Whose usage it is; raises InvalidRequest or Forbidden where that may not be said so."""
    if reported_by is None:
        if named is None:
            raise InvalidRequest(
                errors=[FieldError("user_id", "missing", "A service key names the user.")]
            )
        return named
    if named not in (None, reported_by.id):
        raise Forbidden("A session reports usage of its own user only.")
    return reported_by.id


def make_sure(
    app: APIGatewayHttpResolver,
    user_id: str,
    decide: Callable[[], Answer],
    code_of: Callable[[Answer], str | None],
) -> Answer:
    """What `decide` answers; where it refuses for want of access, after asking Commet.

    Raises AccessUnconfirmed where Commet was to be asked and has not answered.
    """
    answer = decide()
    if code_of(answer) not in UNSURE:
        return answer
    doubts = wiring.access().settle({user_id}, api.deadline(app))
    if user_id in doubts.unconfirmed:
        raise AccessUnconfirmed(doubts.unconfirmed[user_id])
    return decide() if user_id in doubts.answered else answer


def log_refusals(codes: Iterable[str | None]) -> None:
    """Why usage was refused, and how often: no users, no keys."""
    counted = Counter(code for code in codes if code is not None)
    if counted:
        api.logger.info("usage.refused", extra={"codes": dict(counted)})


def refusal(code: str) -> BillingError:
    """The error that a refusal is answered with."""
    # The database may be ahead of this code, and know more reasons.
    kind, detail = _REFUSALS.get(code, (Conflict, "This cannot be done."))
    return kind(detail, code="idempotency_conflict" if code == "conflict" else code)


_REFUSALS: dict[str, tuple[type[BillingError], str]] = {
    "conflict": (Conflict, "This idempotency key was used for something else, which stands."),
    "already_counted": (Conflict, "This was counted under its key: nothing is left to hold for."),
    "unknown_user": (NotFound, "There is no user with this id."),
    "subscription_required": (
        PaymentRequired,
        "The user has no subscription that gives access.",
    ),
    "limit_reached": (PaymentRequired, "What the plan includes is used up."),
    "feature_not_in_plan": (PaymentRequired, "The user's plan does not have this feature."),
    "access_unconfirmed": (Unavailable, "The subscription is being confirmed. Try again."),
    "feature_not_metered": (InvalidRequest, "This feature is not counted."),
    "too_old": (InvalidRequest, "The event occurred more than 35 days ago."),
    "in_future": (InvalidRequest, "The event lies more than 5 minutes ahead."),
    "total_too_large": (InvalidRequest, "The running total would become too large."),
    "reservation_not_found": (NotFound, "There is no reservation with this id."),
    "reservation_expired": (Conflict, "The reservation has expired, and it no longer fits."),
    "reservation_released": (Conflict, "The reservation was released."),
    "reservation_confirmed": (Conflict, "The reservation was confirmed: correct it instead."),
    "below_zero": (
        Conflict,
        "Less than this was used in the period. Name the entry in corrects, or occurred_at.",
    ),
    "no_period": (
        Conflict,
        "No period of this user's runs now, or held occurred_at. Name the entry in corrects, or an"
        " occurred_at within one.",
    ),
    "entry_not_found": (
        NotFound,
        "The ledger has no entry of this user and feature with the key in corrects, or no longer.",
    ),
}
