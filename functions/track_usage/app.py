"""Usage: what was used, what may be, what is held, what is corrected, and the ledger of it all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter
from aws_lambda_powertools.metrics import MetricUnit
from pydantic import TypeAdapter, ValidationError, WrapValidator

from billing import amounts, wiring
from billing.accounts.accounts import User
from billing.credentials.service_keys import Service
from billing.deadline import LambdaContext
from billing.errors import (
    AccessUnconfirmed,
    BillingError,
    FieldError,
    InvalidRequest,
    Unauthenticated,
)
from billing.field_types import FEATURE_PATTERN, USER_ID_PATTERN, IdempotencyKey, OccurredAt
from billing.http import api
from billing.http.shapes import (
    Confirm,
    Correct,
    CorrectionTaken,
    LedgerEntry,
    LedgerPage,
    NeedsCredit,
    Release,
    ReservationReply,
    Reserve,
    UsageAllowed,
    UsageBatch,
    UsageCheck,
    UsageEvent,
    UsagePeriodReply,
    UsageTaken,
    UsageVerdict,
)
from billing.http.usage import (
    BY_BACKEND_OR_USER,
    UNSURE,
    log_refusals,
    make_sure,
    refusal,
    reporter,
    user_id,
)
from billing.usage import accepting, corrections, ledger, reservations
from billing.usage.accepting import Allowance, Event, Verdict
from billing.usage.corrections import Booking, Corrected, Correction, Credit
from billing.usage.reservations import Outcome, Reservation

MAX_BODY_BYTES = 4 * 1024 * 1024

app = api.resolver(max_body_bytes=MAX_BODY_BYTES)
metrics = Metrics()
_event = TypeAdapter(Event)
_events = TypeAdapter(list[Event])

_key = TypeAdapter(IdempotencyKey)
_INVALID = Verdict("refused", "invalid_event")
_NOT_TAKEN = ("refused", "conflict")
# So many are told of an event: of a thousand they fit into the 6 MB that Lambda answers with.
_MOST_ERRORS = 3

ReservationId = Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9_]{1,100}$")]


def _by_form(body: Any, _: object) -> UsageEvent | UsageBatch:
    # pydantic's own way to choose would put the name of the form before every field that is wrong.
    form = UsageBatch if isinstance(body, dict) and "events" in body else UsageEvent
    return form.model_validate(body)


UsageBody = Annotated[UsageEvent | UsageBatch, WrapValidator(_by_form)]


@app.post(
    "/usage",
    status_code=202,
    security=BY_BACKEND_OR_USER,
    responses=api.answers(UsageTaken, 202, 402, 403, 404, 409, 413) | api.answers(UsageTaken, 200),
)
def take_usage(body: Annotated[UsageBody, Body()]) -> Response[UsageTaken]:
    """Report usage: one event, or up to 1,000, each with its own verdict.

    Sending an event again with the same key is safe: it is counted once (200 `duplicate`).
    """
    reported_by = reporter(app)
    if isinstance(body, UsageEvent):
        event = _to_event(body, reported_by)
        verdict = make_sure(
            app, event.user_id, lambda: _accept([event])[0], lambda verdict: verdict.code
        )
        return _single(event, verdict)
    return _batch(body, reported_by)


@app.post(
    "/usage/check",
    security=BY_BACKEND_OR_USER,
    responses=api.answers(UsageAllowed, 200, 403),
)
def check_usage(body: Annotated[UsageCheck, Body()]) -> Response[UsageAllowed]:
    """May this much be used now, and what would it cost? Books and holds nothing."""
    whose = user_id(body.user_id, reporter(app))
    check = partial(_check, whose, body)
    try:
        found = make_sure(app, whose, check, lambda allowance: allowance.code)
    except AccessUnconfirmed:
        # Whatever has been heard of since: what comes with a refusal is a refusal's.
        found = replace(
            check(),
            allowed=False,
            remaining=None,
            overage_quantity=Decimal(0),
            cost=Decimal(0),
            code="access_unconfirmed",
        )
    return api.json_response(
        UsageAllowed(
            allowed=found.allowed,
            remaining=None if found.remaining is None else amounts.format_decimal(found.remaining),
            overage_quantity=amounts.format_decimal(found.overage_quantity),
            cost=None if found.cost is None else amounts.format_money(found.cost, found.currency),
            currency=found.currency,
            code=found.code,
        )
    )


@app.post(
    "/usage/reservations",
    status_code=201,
    security=BY_BACKEND_OR_USER,
    responses=api.answers(ReservationReply, 201, 402, 403, 404, 409)
    | api.answers(ReservationReply, 200),
)
def reserve_usage(body: Annotated[Reserve, Body()]) -> Response[ReservationReply]:
    """Hold an amount before the work. It counts against the limit until it expires.

    Asking again with the same key answers the same reservation while it is held, and once it is
    confirmed (200). One that has expired is held anew if it still fits (201), one that was released
    is not (409 `reservation_released`), nor anything for what was counted (409 `already_counted`).
    """
    held = Event(
        user_id=user_id(body.user_id, reporter(app)),
        feature=body.feature,
        quantity=body.quantity,
        idempotency_key=body.idempotency_key,
        properties=body.properties,
    )

    def reserve() -> Outcome:
        return reservations.reserve(
            wiring.database(),
            held,
            expires_in=timedelta(seconds=body.expires_in),
            statuses=wiring.settings().live_statuses,
            now=wiring.now(),
        )

    outcome = make_sure(app, held.user_id, reserve, lambda outcome: outcome.code)
    return _reservation(outcome, 200 if outcome.repeated else 201)


@app.post(
    "/usage/reservations/<reservation_id>/confirm",
    security=BY_BACKEND_OR_USER,
    responses=api.answers(ReservationReply, 200, 402, 403, 404, 409),
)
def confirm_reservation(
    reservation_id: ReservationId, body: Annotated[Confirm, Body()]
) -> Response[ReservationReply]:
    """Book what the work really took, which may be less or more than was held.

    Confirming again with the same quantity is safe. After the reservation expired it succeeds only
    if it still fits (409 `reservation_expired`).
    """
    held = _find(reservation_id)
    quantity = body.quantity or held.quantity

    def confirm() -> Outcome:
        return reservations.confirm(
            wiring.database(),
            held,
            quantity,
            statuses=wiring.settings().live_statuses,
            now=wiring.now(),
        )

    outcome = make_sure(app, held.user_id, confirm, lambda outcome: outcome.code)
    _count(
        accepted=int(outcome.code is None and not outcome.repeated),
        duplicates=int(outcome.repeated),
    )
    return _reservation(outcome, 200)


@app.post(
    "/usage/reservations/<reservation_id>/release",
    security=BY_BACKEND_OR_USER,
    responses=api.answers(ReservationReply, 200, 403, 404, 409),
)
def release_reservation(
    reservation_id: ReservationId,
    body: Annotated[Release, Body()],  # noqa: ARG001 - empty
) -> Response[ReservationReply]:
    """Give back what is held. Releasing again is safe."""
    held = _find(reservation_id)
    return _reservation(reservations.release(wiring.database(), held, now=wiring.now()), 200)


@app.post(
    "/usage/corrections",
    status_code=202,
    security=api.by_service("usage:correct"),
    responses=api.answers(CorrectionTaken, 202, 402, 403, 404, 409)
    | api.answers(CorrectionTaken, 200),
)
def correct_usage(body: Annotated[Correct, Body()]) -> Response[CorrectionTaken]:
    """Add to what a user used, or take off what was counted wrongly; signed, with a reason.

    `corrects`, the key of the entry that was wrong, or `occurred_at` says which period is meant. A
    total never falls below zero (409 `below_zero`). Where that period is over, its invoice stays as
    it is, and `needs_credit` says what to give back.
    """
    if body.corrects is not None and body.occurred_at is not None:
        both = "Say which period is meant by corrects or by occurred_at, not by both."
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
    corrected = make_sure(
        app, body.user_id, partial(_correct, correction), lambda corrected: corrected.code
    )
    if corrected.booking is None:
        raise _refused(str(corrected.code))
    _count(accepted=int(not corrected.repeated), duplicates=int(corrected.repeated))
    return _corrected(correction, corrected.booking, repeated=corrected.repeated)


_LEDGER_ANSWERS = api.answers(LedgerPage, 200, 403)
_LEDGER_ANSWERS[200]["content"]["text/csv"] = {"schema": {"type": "string"}}


@app.get("/usage/events", security=api.by_service("read"), responses=_LEDGER_ANSWERS)
def list_usage(
    *,
    whose: Annotated[str | None, Query(alias="user_id", pattern=USER_ID_PATTERN)] = None,
    feature: Annotated[str | None, Query(pattern=FEATURE_PATTERN)] = None,
    since: Annotated[OccurredAt | None, Query(alias="from")] = None,
    until: Annotated[OccurredAt | None, Query(alias="to")] = None,
    cursor: Annotated[str | None, Query(max_length=2000)] = None,
    limit: Annotated[int, Query(ge=1, le=ledger.MAX_PAGE)] = 100,
    form: Annotated[Literal["json", "csv"] | None, Query(alias="format")] = None,
) -> Response[LedgerPage | str]:
    """The ledger in the order of booking: events, confirmed reservations and corrections.

    `from` (inclusive) and `to` (exclusive) are times of booking. Follow `next_cursor`, or the
    `Link` header, until there is none. `format=csv`, or `Accept: text/csv`, for a spreadsheet.
    """
    page = ledger.page(
        wiring.database(),
        ledger.Query(user_id=whose, feature=feature, since=since, until=until),
        cursor=cursor,
        limit=limit,
        now=wiring.now(),
    )
    headers = {}
    if page.next_cursor is not None:
        asked = app.current_event.query_string_parameters | {"cursor": page.next_cursor}
        headers["Link"] = f'</usage/events?{urlencode(asked)}>; rel="next"'
    accept = app.current_event.headers.get("accept", "")
    if form == "csv" or (form is None and accept.split(",")[0].split(";")[0] == "text/csv"):
        return Response(
            200,
            content_type="text/csv; charset=utf-8; header=present",
            body=ledger.to_csv(page.entries),
            headers=headers | {"Content-Disposition": 'attachment; filename="usage.csv"'},
        )
    events = [_entry(entry) for entry in page.entries]
    return Response(
        200,
        content_type="application/json",
        body=LedgerPage(events=events, next_cursor=page.next_cursor).model_dump_json(),
        headers=headers,
    )


@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    metrics.add_metric("UsageRequests", MetricUnit.Count, 1)
    return api.handle(app, event, context)


# --- one event, or many ----------------------------------------------------------------------


def _to_event(body: UsageEvent, reported_by: User | None) -> Event:
    return Event(
        user_id=user_id(body.user_id, reported_by),
        feature=body.feature,
        quantity=body.quantity,
        idempotency_key=body.idempotency_key,
        occurred_at=body.occurred_at,
        properties=body.properties,
    )


def _single(event: Event, verdict: Verdict) -> Response[UsageTaken]:
    if verdict.status in _NOT_TAKEN:
        raise _refused(verdict.code or verdict.status)
    taken = _taken([_verdict(0, event.idempotency_key, verdict)])
    return api.json_response(taken, 202 if verdict.status == "accepted" else 200)


def _batch(body: UsageBatch, reported_by: User | None) -> Response[UsageTaken]:
    events = _read(body.events, reported_by)
    decided = iter(_decide([event for event in events if isinstance(event, Event)]))
    results = [
        _verdict(index, event.idempotency_key, next(decided))
        if isinstance(event, Event)
        else _invalid(index, body.events[index], event)
        for index, event in enumerate(events)
    ]
    log_refusals(r["code"] or r["status"] for r in results if r["status"] in _NOT_TAKEN)
    return api.json_response(_taken(results), 202)


def _read(items: list[Any], reported_by: User | None) -> Sequence[Event | list[FieldError]]:
    """Each event, or what is wrong with it. One by one costs twice as much as all at once."""
    owned = items if reported_by is None else [_of_user(item, reported_by) for item in items]
    try:
        return _events.validate_python(owned)
    except ValidationError:
        return [_read_one(mine, item, reported_by) for mine, item in zip(owned, items, strict=True)]


def _read_one(owned: object, item: object, reported_by: User | None) -> Event | list[FieldError]:
    try:
        return _event.validate_python(owned)
    except ValidationError:
        pass
    try:  # the other way, to say of it what would have been said had it come alone
        return _to_event(UsageEvent.model_validate(item), reported_by)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [api.field_error(each, each["loc"]) for each in found[:_MOST_ERRORS]]
    except BillingError as error:  # whose it is said to be
        return list(error.errors) or [FieldError("user_id", error.code, error.detail)]


def _of_user(item: object, reported_by: User) -> object:
    """What a signed-in user reports is their own; None where it is said to be somebody else's."""
    if not isinstance(item, dict) or item.get("user_id") not in (None, reported_by.id):
        return None
    return item | {"user_id": reported_by.id}


def _decide(events: Sequence[Event]) -> list[Verdict]:
    """The verdicts, after asking Commet about users who would be refused for want of access."""
    verdicts = _accept(events)
    unsure = [i for i, verdict in enumerate(verdicts) if verdict.code in UNSURE]
    if not unsure:
        return verdicts
    doubts = wiring.access().settle({events[i].user_id for i in unsure}, api.deadline(app))
    again = [i for i in unsure if events[i].user_id in doubts.answered]
    for i, verdict in zip(again, _accept([events[i] for i in again]), strict=True):
        verdicts[i] = verdict
    for i in unsure:
        if events[i].user_id in doubts.unconfirmed:
            verdicts[i] = Verdict("refused", "access_unconfirmed")
    return verdicts


def _accept(events: Sequence[Event]) -> list[Verdict]:
    return accepting.accept(
        wiring.database(),
        events,
        statuses=wiring.settings().live_statuses,
        now=wiring.now(),
    )


def _verdict(index: int, key: str | None, verdict: Verdict) -> UsageVerdict:
    return {
        "index": index,
        "idempotency_key": key,
        "status": verdict.status,
        "code": verdict.code,
    }


def _invalid(index: int, item: object, wrong: list[FieldError]) -> UsageVerdict:
    verdict = _verdict(index, _key_of(item), _INVALID)
    verdict["errors"] = [
        {"field": each.field, "code": each.code, "message": each.message} for each in wrong
    ]
    return verdict


def _taken(results: list[UsageVerdict]) -> UsageTaken:
    statuses = Counter(result["status"] for result in results)
    accepted, duplicates = statuses["accepted"], statuses["duplicate"]
    refused = len(results) - accepted - duplicates
    _count(accepted=accepted, duplicates=duplicates, refused=refused)
    return {
        "accepted": accepted,
        "duplicates": duplicates,
        "refused": refused,
        "results": results,
    }


def _key_of(item: object) -> str | None:
    """The key of what is no event, so that its sender finds it; None where it is no key either."""
    key = item.get("idempotency_key") if isinstance(item, dict) else None
    try:
        return _key.validate_python(key, strict=True)
    except ValidationError:
        return None


# --- the rest ---------------------------------------------------------------------------------


def _check(whose: str, body: UsageCheck) -> Allowance:
    return accepting.check(
        wiring.database(),
        user_id=whose,
        feature=body.feature,
        quantity=body.quantity,
        statuses=wiring.settings().live_statuses,
        currency=wiring.settings().currency,
        now=wiring.now(),
    )


def _find(reservation_id: str) -> Reservation:
    reported_by = reporter(app)
    found = reservations.find(
        wiring.database(),
        reservation_id,
        user_id=reported_by.id if reported_by else None,
        now=wiring.now(),
    )
    if found is None:
        raise refusal("reservation_not_found")
    return found


def _reservation(outcome: Outcome, status: int) -> Response[ReservationReply]:
    held = outcome.reservation
    if outcome.code is not None or held is None:
        raise _refused(str(outcome.code))
    return api.json_response(
        ReservationReply(
            id=held.id,
            user_id=held.user_id,
            feature=held.feature,
            idempotency_key=held.idempotency_key,
            quantity=amounts.format_decimal(held.quantity),
            expires_at=held.expires_at,
            state=held.state,
            booked=None if held.booked is None else amounts.format_decimal(held.booked),
        ),
        status,
    )


def _correct(correction: Correction) -> Corrected:
    author = api.caller(app)
    if not isinstance(author, Service):
        raise Unauthenticated
    return corrections.correct(
        wiring.database(),
        correction,
        author=author.name,
        statuses=wiring.settings().live_statuses,
        now=wiring.now(),
    )


def _corrected(
    correction: Correction, booking: Booking, *, repeated: bool
) -> Response[CorrectionTaken]:
    period = UsagePeriodReply(start=booking.period_start, end=booking.period_end)
    return api.json_response(
        CorrectionTaken(
            idempotency_key=correction.idempotency_key,
            status="duplicate" if repeated else "accepted",
            quantity=_plain(correction.quantity),
            period=period,
            used=_plain(booking.used),
            needs_credit=_credit(booking.needs_credit, period) if booking.needs_credit else None,
        ),
        200 if repeated else 202,
    )


def _credit(credit: Credit, period: UsagePeriodReply) -> NeedsCredit:
    currency = credit.currency or wiring.settings().currency
    return NeedsCredit(
        quantity=_plain(credit.quantity),
        amount=None if credit.amount is None else amounts.format_money(credit.amount, currency),
        currency=currency,
        period=period,
    )


def _entry(entry: ledger.Entry) -> LedgerEntry:
    return LedgerEntry(
        booked_at=entry.booked_at,
        occurred_at=entry.occurred_at,
        user_id=entry.user_id,
        feature=entry.feature,
        kind=entry.kind,
        quantity=_plain(entry.quantity),
        idempotency_key=entry.idempotency_key,
        period=UsagePeriodReply(start=entry.period_start, end=entry.period_end),
        late=entry.late,
        reason=entry.reason,
        author=entry.author,
        needs_credit=entry.needs_credit,
        properties=dict(entry.properties),
    )


def _plain(value: Decimal) -> str:
    return amounts.format_decimal(value)


def _refused(code: str) -> Exception:
    _count(refused=1)
    log_refusals([code])
    return refusal(code)


def _count(*, accepted: int = 0, duplicates: int = 0, refused: int = 0) -> None:
    metrics.add_metric("UsageEventsAccepted", MetricUnit.Count, accepted)
    metrics.add_metric("UsageEventsDuplicate", MetricUnit.Count, duplicates)
    metrics.add_metric("UsageEventsRefused", MetricUnit.Count, refused)
