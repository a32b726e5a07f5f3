"""The usage routes: report, check, reserve, correct and export usage."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, cast

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter
from aws_lambda_powertools.metrics import MetricUnit
from pydantic import WrapValidator

from billing import wiring
from billing.accounts.accounts import User
from billing.credentials.service_keys import Service
from billing.deadline import LambdaContext
from billing.errors import (
    AccessUnconfirmed,
    FieldError,
    Forbidden,
    InvalidRequest,
    Unauthenticated,
)
from billing.field_types import FEATURE_PATTERN, TEXT_PATTERN, USER_ID_PATTERN, OccurredAt
from billing.http import api, usage_answers, usage_batch, usage_export
from billing.http.refusals import log_refusals, refusal
from billing.http.shapes import usage as shapes
from billing.http.shapes.ledger import LedgerPage
from billing.http.shapes.usage import (
    Confirm,
    Correct,
    CorrectionTaken,
    Release,
    ReservationReply,
    Reserve,
    UsageAllowed,
    UsageBatch,
    UsageCheck,
    UsageTaken,
)
from billing.metric import Metric
from billing.subscriptions.access import Decided, Decision
from billing.usage import accepting, corrections, ledger, reservations, thresholds
from billing.usage.accepting import UsageEvent, Verdict
from billing.usage.corrections import Correction
from billing.usage.reservations import Reservation, ReservationResult
from billing.usage.thresholds import Refusal

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_CURSOR = 2000

app = api.resolver(max_body_bytes=MAX_BODY_BYTES)
metrics = Metrics()

_COUNTED = {
    "accepted": Metric.USAGE_EVENTS_ACCEPTED,
    "duplicate": Metric.USAGE_EVENTS_DUPLICATE,
    "refused": Metric.USAGE_EVENTS_REFUSED,
}

D = TypeVar("D", bound=Decision)

ReservationId = Annotated[
    str,
    PathParameter(
        pattern=r"^[A-Za-z0-9_]{1,100}$",
        description="The reservation's id, from the answer that made it.",
        examples=["rsv_6d1e80"],
    ),
]


def _by_form(body: Any, _: object) -> UsageEvent | UsageBatch:
    # If pydantic chose the form, it would try both, and put the form's name before each wrong
    # field's name.
    if isinstance(body, dict) and "events" in body:
        return UsageBatch.model_validate(body)
    return usage_batch.read_single(body)


# The OpenAPI document shows the forms that are named here.
UsageBody = Annotated[shapes.UsageEvent | UsageBatch, WrapValidator(_by_form)]


@app.post(
    "/usage",
    status_code=202,
    security=api.by_service("usage:write"),
    responses=api.answers(UsageTaken, 202, "Counted, or, of a batch, decided one by one")
    | api.answers(UsageTaken, 200, "Counted before, under the same key"),
)
@api.may_answer(
    "access_unconfirmed",
    "before_subscription",
    "feature_not_in_plan",
    "feature_not_metered",
    "idempotency_conflict",
    "in_future",
    "limit_reached",
    "payment_overdue",
    "price_unknown",
    "spend_limit_reached",
    "subscription_required",
    "too_old",
    "total_too_large",
    "unknown_user",
)
def report_usage(body: Annotated[UsageBody, Body()]) -> Response[UsageTaken]:
    """Report one usage event, or up to 1,000 at once.

    Each event of a batch gets its own verdict. An event that is sent again with the same
    idempotency key is counted once (200 `duplicate`).
    """
    if isinstance(body, UsageBatch):
        return _take_batch(body.events)
    event = cast("UsageEvent", body)
    verdict = _only(_accept([event]))
    if verdict.status in usage_answers.REFUSED:
        raise _refused(verdict.code or verdict.status)
    taken = usage_answers.taken([usage_answers.verdict(0, event.idempotency_key, verdict)])
    return _taken(taken, 202 if verdict.status == "accepted" else 200)


@app.post(
    "/usage/check",
    security=[*api.by_service("usage:write"), *api.BY_USER],
    responses=api.answers(UsageAllowed, 200),
)
@api.may_answer("forbidden")
def check_usage(body: Annotated[UsageCheck, Body()]) -> Response[UsageAllowed]:
    """Check whether a quantity may be used now, and what it would cost.

    Nothing is booked or held. A signed-in user checks their own usage and leaves `user_id` out.
    """
    user_id = _user_to_check(body.user_id)
    check = partial(
        accepting.check,
        wiring.database(),
        user_id=user_id,
        feature=body.feature,
        quantity=body.quantity,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    try:
        found = usage_answers.allowance(_only(_decide([user_id], lambda _: [check()])))
    except AccessUnconfirmed:
        found = usage_answers.unconfirmed(check())
    return api.json_response(found)


@app.post(
    "/usage/reservations",
    status_code=201,
    security=api.by_service("usage:write"),
    responses=api.answers(ReservationReply, 201, "The quantity is held")
    | api.answers(ReservationReply, 200, "It was held before, under the same key"),
)
@api.may_answer(
    "access_unconfirmed",
    "already_counted",
    "feature_not_in_plan",
    "feature_not_metered",
    "idempotency_conflict",
    "limit_reached",
    "payment_overdue",
    "price_unknown",
    "reservation_released",
    "spend_limit_reached",
    "subscription_required",
    "total_too_large",
    "unknown_user",
)
def reserve_usage(body: Annotated[Reserve, Body()]) -> Response[ReservationReply]:
    """Hold a quantity before the work.

    It counts against the limit until it expires.
    The same idempotency key again answers the same reservation while it is held, and once it is
    confirmed (200). An expired reservation is held again if its quantity still fits (201). A
    released one is not (409 `reservation_released`). A key under which usage was counted reserves
    nothing (409 `already_counted`).
    """
    usage = UsageEvent(
        user_id=body.user_id,
        feature=body.feature,
        quantity=body.quantity,
        idempotency_key=body.idempotency_key,
        properties=body.properties,
    )
    reserve = partial(
        reservations.reserve,
        wiring.database(),
        usage,
        expires_in=timedelta(seconds=body.expires_in),
        rules=wiring.rules(),
        now=wiring.now(),
    )
    outcome = _only(_decide([usage.user_id], lambda _: [reserve()]))
    _tell_refused([Refusal(usage.user_id, usage.feature, outcome.code)])
    return _reservation(outcome, 200 if outcome.repeated else 201)


@app.post(
    "/usage/reservations/<reservation_id>/confirm",
    security=api.by_service("usage:write"),
    responses=api.answers(ReservationReply, 200),
)
@api.may_answer(
    "access_unconfirmed",
    "feature_not_in_plan",
    "feature_not_metered",
    "idempotency_conflict",
    "limit_reached",
    "payment_overdue",
    "price_unknown",
    "reservation_expired",
    "reservation_not_found",
    "reservation_released",
    "spend_limit_reached",
    "subscription_required",
    "total_too_large",
)
def confirm_reservation(
    reservation_id: ReservationId, body: Annotated[Confirm, Body()]
) -> Response[ReservationReply]:
    """Book the quantity that the work took, which may be less or more than the held quantity.

    Confirming again with the same quantity is safe. An expired reservation can be confirmed only if
    the quantity still fits the limit (else 409 `reservation_expired`).
    """
    held = _find(reservation_id)
    confirm = partial(
        reservations.confirm,
        wiring.database(),
        held,
        body.quantity or held.quantity,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    outcome = _only(_decide([held.user_id], lambda _: [confirm()]))
    _tell_refused([Refusal(held.user_id, held.feature, outcome.code)])
    _count(
        accepted=int(outcome.code is None and not outcome.repeated),
        duplicates=int(outcome.repeated),
    )
    return _reservation(outcome, 200)


@app.post(
    "/usage/reservations/<reservation_id>/release",
    security=api.by_service("usage:write"),
    responses=api.answers(ReservationReply, 200),
)
@api.may_answer("reservation_confirmed", "reservation_not_found")
def release_reservation(
    reservation_id: ReservationId,
    body: Annotated[Release, Body()],  # noqa: ARG001 - empty
) -> Response[ReservationReply]:
    """End a reservation without booking. Releasing again is safe."""
    held = _find(reservation_id)
    return _reservation(reservations.release(wiring.database(), held, now=wiring.now()), 200)


@app.post(
    "/usage/corrections",
    status_code=202,
    security=api.by_service("usage:correct"),
    responses=api.answers(CorrectionTaken, 202, "Booked")
    | api.answers(CorrectionTaken, 200, "Booked before, under the same key"),
)
@api.may_answer(
    "access_unconfirmed",
    "before_subscription",
    "below_zero",
    "entry_not_found",
    "feature_not_in_plan",
    "feature_not_metered",
    "idempotency_conflict",
    "in_future",
    "limit_reached",
    "no_period",
    "payment_overdue",
    "price_unknown",
    "spend_limit_reached",
    "subscription_required",
    "too_old",
    "total_too_large",
    "unknown_user",
)
def correct_usage(body: Annotated[Correct, Body()]) -> Response[CorrectionTaken]:
    """Add a quantity to a user's total, or take a wrongly counted one off, with a reason.

    `corrects` is the idempotency key of the wrong entry, whose period is corrected. Instead,
    `occurred_at` may name a time in the period. A total never falls below zero (409 `below_zero`).
    Where the period is over, its invoice stays as it is, and `needs_credit` says what to give back.
    """
    if body.corrects is not None and body.occurred_at is not None:
        both = "Send corrects or occurred_at, not both."
        raise InvalidRequest(errors=[FieldError("corrects", "one_of_two", both)])
    correction = Correction(
        user_id=body.user_id,
        feature=body.feature,
        quantity=body.quantity,
        idempotency_key=body.idempotency_key,
        reason=body.reason,
        occurred_at=body.occurred_at,
        corrects=body.corrects,
    )
    correct = partial(
        corrections.correct,
        wiring.database(),
        correction,
        author=_service().name,
        rules=wiring.rules(),
        now=wiring.now(),
    )
    corrected = _only(_decide([body.user_id], lambda _: [correct()]))
    _tell_refused([Refusal(body.user_id, body.feature, corrected.code, body.occurred_at)])
    if corrected.booking is None:
        raise _refused(str(corrected.code))
    repeated = corrected.repeated
    _count(accepted=int(not repeated), duplicates=int(repeated))
    answer = usage_answers.corrected(
        correction, corrected.booking, repeated=repeated, currency=wiring.settings().currency
    )
    return api.json_response(answer, 200 if repeated else 202)


@app.get(
    "/usage/events",
    security=api.by_service("read"),
    responses=usage_export.or_csv(api.answers(LedgerPage, 200), usage_export.COLUMNS),
)
def list_usage_events(
    *,
    user_id: Annotated[
        str | None,
        Query(
            pattern=USER_ID_PATTERN,
            description="Only entries of this user.",
            examples=["customer-42"],
        ),
    ] = None,
    feature: Annotated[
        str | None,
        Query(
            pattern=FEATURE_PATTERN,
            description="Only entries of this feature.",
            examples=["storage"],
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=200,
            pattern=TEXT_PATTERN,
            description="Only entries with this key. It needs `user_id`.",
            examples=["render-2026-03-01-0001"],
        ),
    ] = None,
    since: Annotated[
        OccurredAt | None,
        Query(
            alias="from",
            description="Only entries booked at this time or later.",
            examples=["2026-03-01T00:00:00Z"],
        ),
    ] = None,
    until: Annotated[
        OccurredAt | None,
        Query(
            alias="to",
            description="Only entries booked before this time.",
            examples=["2026-04-01T00:00:00Z"],
        ),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(
            max_length=MAX_CURSOR,
            description="`next_cursor` of the page before. Left out: the first page.",
            examples=["eyJhZnRlciI6IDQyfQ"],
        ),
    ] = None,
    limit: Annotated[
        int | None,
        Query(
            ge=1,
            le=ledger.MAX_PAGE,
            description="The most entries on the page. Left out: 100.",
            examples=[100],
        ),
    ] = None,
    form: Annotated[
        Literal["json", "csv"] | None,
        Query(
            alias="format",
            description="The form of the answer. Left out: as the header `Accept` says.",
            examples=["json"],
        ),
    ] = None,
) -> Response[LedgerPage | str]:
    """List the ledger in the order of booking.

    It has events, confirmed reservations and corrections. `from` (inclusive) and `to` (exclusive)
    are times of booking. Follow `next_cursor`, or the `Link` header, until there is none.
    `idempotency_key`, with `user_id`, finds the entries with one key, all on one page. `format=csv`
    or `Accept: text/csv` gives a spreadsheet.
    """
    query = ledger.Query(user_id=user_id, feature=feature, since=since, until=until)
    db, now = wiring.database(), wiring.now()
    if idempotency_key is None:
        page = ledger.page(db, query, cursor=cursor, limit=limit or 100, now=now)
    else:
        if user_id is None or cursor is not None or limit is not None:
            raise _wrong_with_key(user_id)
        page = ledger.entries_of_key(db, user_id, idempotency_key, query, now=now)
    return usage_export.ledger_answer(app, page, form=form)


@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    metrics.add_metric(Metric.USAGE_REQUESTS, MetricUnit.Count, 1)
    return api.handle(app, event, context)


def _take_batch(items: list[Any]) -> Response[UsageTaken]:
    events = usage_batch.read(items)
    decided = _accept([event for event in events if isinstance(event, UsageEvent)])
    verdicts = list(decided.decisions)
    for position in decided.unconfirmed:
        verdicts[position] = Verdict("refused", "access_unconfirmed")
    in_order = iter(verdicts)
    results = [
        usage_answers.verdict(index, event.idempotency_key, next(in_order))
        if isinstance(event, UsageEvent)
        else usage_answers.invalid(index, items[index], event)
        for index, event in enumerate(events)
    ]
    _log_refusals(r["code"] or r["status"] for r in results if r["status"] in usage_answers.REFUSED)
    return _taken(usage_answers.taken(results), 202)


def _accept(events: list[UsageEvent]) -> Decided[Verdict]:
    accept = partial(
        accepting.accept,
        wiring.database(),
        rules=wiring.rules(),
        now=wiring.now(),
    )
    users = [event.user_id for event in events]
    decided = _decide(users, lambda positions: accept([events[i] for i in positions]))
    _tell_refused(
        Refusal(event.user_id, event.feature, verdict.code, event.occurred_at)
        for i, (event, verdict) in enumerate(zip(events, decided.decisions, strict=True))
        if i not in decided.unconfirmed
    )
    return decided


def _tell_refused(refusals: Iterable[Refusal]) -> None:
    thresholds.tell_refused(wiring.database(), refusals, rules=wiring.rules(), now=wiring.now())


def _taken(taken: UsageTaken, status: int) -> Response[UsageTaken]:
    _count(accepted=taken["accepted"], duplicates=taken["duplicates"], refused=taken["refused"])
    return api.json_response(taken, status)


def _decide(users: list[str], decide: Callable[[Sequence[int]], Sequence[D]]) -> Decided[D]:
    return wiring.access().decide(users, decide, api.deadline(app))


def _only(decided: Decided[D]) -> D:
    """Returns the decision about a single user. Raises AccessUnconfirmed if Commet did not
    answer.
    """
    if decided.unconfirmed:
        raise AccessUnconfirmed(decided.unconfirmed[0])
    return decided.decisions[0]


def _wrong_with_key(user_id: str | None) -> InvalidRequest:
    if user_id is None:
        missing = "A key is unique for its user only: name the user."
        return InvalidRequest(errors=[FieldError("user_id", "missing", missing)])
    one_page = "The entries with one key are one page: send neither cursor nor limit."
    return InvalidRequest(errors=[FieldError("idempotency_key", "one_page", one_page)])


def _user_to_check(named: str | None) -> str:
    caller = api.caller(app)
    if isinstance(caller, User):
        if named not in (None, caller.id):
            raise Forbidden("A session reads the usage of its own user only.")
        return caller.id
    if named is None:
        missing = "A request with a service key must name the user."
        raise InvalidRequest(errors=[FieldError("user_id", "missing", missing)])
    return named


def _service() -> Service:
    caller = api.caller(app)
    if not isinstance(caller, Service):
        raise Unauthenticated
    return caller


def _find(reservation_id: str) -> Reservation:
    found = reservations.find(wiring.database(), reservation_id, now=wiring.now())
    if found is None:
        raise refusal("reservation_not_found")
    return found


def _reservation(outcome: ReservationResult, status: int) -> Response[ReservationReply]:
    if outcome.code is not None or outcome.reservation is None:
        raise _refused(str(outcome.code))
    return api.json_response(usage_answers.reservation(outcome.reservation), status)


def _refused(code: str) -> Exception:
    _count(refused=1)
    _log_refusals([code])
    return refusal(code)


def _log_refusals(codes: Iterable[str]) -> None:
    counted = log_refusals(codes)
    if unknown := counted["price_unknown"]:
        metrics.add_metric(Metric.USAGE_PRICE_UNKNOWN, MetricUnit.Count, unknown)


def _count(*, accepted: int = 0, duplicates: int = 0, refused: int = 0) -> None:
    for what, events in (("accepted", accepted), ("duplicate", duplicates), ("refused", refused)):
        if events:
            metrics.add_metric(_COUNTED[what], MetricUnit.Count, events)
