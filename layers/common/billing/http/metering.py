"""Metered routes of a product: hold a quantity, do the work, count the quantity that it used.

    held = metering.hold(app, user.id, "pages", Decimal(10), key=body.idempotency_key)
    found, took = work(body.text)
    metering.confirm(app, held, took)

`hold` checks the user: access, limit, spend limit, debt. The error that it raises is the route's
answer.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import metric, wiring
from billing.errors import AccessUnconfirmed
from billing.http import api
from billing.http.refusals import log_refusals, refusal
from billing.metric import Metric
from billing.usage import reservations, thresholds
from billing.usage.accepting import UsageEvent
from billing.usage.reservations import Reservation, ReservationResult
from billing.usage.thresholds import Refusal

# Longer than a function of this stack may run, and short enough for a user who waits to try again.
EXPIRES_IN = timedelta(minutes=1)

# The problems that a metered route can answer, for `api.may_answer`.
PROBLEMS = (
    "access_unconfirmed",
    "already_counted",
    "feature_not_in_plan",
    "feature_not_metered",
    "forbidden",
    "idempotency_conflict",
    "limit_reached",
    "payment_overdue",
    "price_unknown",
    "reservation_expired",
    "reservation_released",
    "spend_limit_reached",
    "subscription_required",
    "total_too_large",
    "unknown_user",
)


def hold(
    app: APIGatewayHttpResolver, user_id: str, feature: str, quantity: Decimal, *, key: str
) -> Reservation:
    """Holds a quantity for a user until the work is done.

    If the work fails, nothing is counted, and the same request with the same key may be sent again.
    A minute after `hold` the quantity is free again, unless `confirm` was called. A key whose work
    was counted is refused, because otherwise one key would pay for any amount of work. If a caller
    must be able to fetch the result again, store it yourself.

    Raises the problem that refuses the user (402, 404, 409, 422), and AccessUnconfirmed.
    """
    usage = UsageEvent(user_id, feature, quantity, key)
    reserve = partial(
        reservations.reserve,
        wiring.database(),
        usage,
        expires_in=EXPIRES_IN,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    held = _decide(app, user_id, feature, reserve)
    if held.booked is not None:
        raise _refused("already_counted")
    return held


def confirm(app: APIGatewayHttpResolver, held: Reservation, took: Decimal) -> None:
    """Counts the quantity that the work used, which may be less or more than was held.

    A quantity up to the held one is always counted. The part above it is checked like new usage.
    Raises the problem that refuses that part.
    """
    book = partial(
        reservations.confirm,
        wiring.database(),
        held,
        took,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    _decide(app, held.user_id, held.feature, book)


def _decide(
    app: APIGatewayHttpResolver,
    user_id: str,
    feature: str,
    decide: Callable[[], ReservationResult],
) -> Reservation:
    """Returns the reservation after a decision. Asks Commet before a refusal that may be out of
    date.

    The first refusal of a period because of a limit emits an outgoing event.
    """
    decided = wiring.access().decide([user_id], lambda _: [decide()], api.deadline(app))
    if decided.unconfirmed:
        raise AccessUnconfirmed(decided.unconfirmed[0])
    outcome = decided.decisions[0]
    if outcome.code is not None or outcome.reservation is None:
        thresholds.tell_refused(
            wiring.database(),
            [Refusal(user_id, feature, outcome.code)],
            rules=wiring.rules(),
            now=wiring.now(),
        )
        raise _refused(str(outcome.code))
    return outcome.reservation


def _refused(code: str) -> Exception:
    if log_refusals([code])["price_unknown"]:
        metric.count(Metric.USAGE_PRICE_UNKNOWN, service="track_usage")
    return refusal(code)
