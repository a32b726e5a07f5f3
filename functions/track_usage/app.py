"""POST /usage and POST /usage/check: what was used, and what may be."""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body
from aws_lambda_powertools.metrics import MetricUnit
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from billing import amounts, api, subscriptions, usage, wiring
from billing.access import Access
from billing.accounts import User
from billing.deadline import LambdaContext
from billing.errors import (
    BillingError,
    Conflict,
    FieldError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PaymentRequired,
    Unavailable,
)
from billing.schemas import (
    UsageAllowed,
    UsageBatch,
    UsageCheck,
    UsageEvent,
    UsageTaken,
    UsageVerdict,
)
from billing.usage import Event, Verdict

MAX_BODY_BYTES = 4 * 1024 * 1024

# Before users are refused, Commet is asked about so many of them; the rest may come again.
_ASK_AT_MOST = 5
_ASKING_SECONDS = 6.0

_BY_BACKEND_OR_USER: api.Security = [*api.by_service("usage:write"), *api.BY_USER]
_UNSURE = frozenset({"subscription_required", "access_unconfirmed"})

app = api.resolver(max_body_bytes=MAX_BODY_BYTES)
metrics = Metrics()
_event = TypeAdapter(UsageEvent)


def _form(body: Any) -> str:
    return "batch" if isinstance(body, dict) and "events" in body else "single"


UsageBody = Annotated[
    Annotated[UsageEvent, Tag("single")] | Annotated[UsageBatch, Tag("batch")],
    Discriminator(_form),
]


@app.post(
    "/usage",
    status_code=202,
    security=_BY_BACKEND_OR_USER,
    responses=api.answers(UsageTaken, 202, 402, 403, 404, 409, 413) | api.answers(UsageTaken, 200),
)
def take_usage(body: Annotated[UsageBody, Body()]) -> Response[UsageTaken]:
    """Report usage: one event, or up to 1,000, each with its own verdict.

    Sending an event again with the same key is safe: it is counted once (200 `duplicate`).
    """
    reported_by = _reporter()
    if isinstance(body, UsageEvent):
        event = _to_event(body, reported_by)
        (verdict,) = _decide([event])
        return _single(event, verdict)
    return _batch(body, reported_by)


@app.post(
    "/usage/check",
    security=_BY_BACKEND_OR_USER,
    responses=api.answers(UsageAllowed, 200, 403),
)
def check_usage(body: Annotated[UsageCheck, Body()]) -> Response[UsageAllowed]:
    """May this much be used now, and what would it cost? Books and holds nothing."""
    user_id = _user_id(body.user_id, _reporter())
    found = _check(user_id, body)
    if found.code in _UNSURE and _access().ask(user_id, api.deadline(app)):
        found = _check(user_id, body)
    return api.json_response(
        UsageAllowed(
            allowed=found.allowed,
            remaining=None if found.remaining is None else amounts.format_decimal(found.remaining),
            overage_quantity=amounts.format_decimal(found.overage_quantity),
            cost=amounts.format_money(found.cost, found.currency),
            currency=found.currency,
            code=found.code,
        )
    )


@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    metrics.add_metric("UsageRequests", MetricUnit.Count, 1)
    return api.handle(app, event, context)


# --- who reports -----------------------------------------------------------------------------


def _reporter() -> User | None:
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


def _user_id(named: str | None, reported_by: User | None) -> str:
    if reported_by is None:
        if named is None:
            raise InvalidRequest(
                errors=[FieldError("user_id", "missing", "A service key names the user.")]
            )
        return named
    if named not in (None, reported_by.id):
        raise Forbidden("A session reports usage of its own user only.")
    return reported_by.id


def _to_event(body: UsageEvent, reported_by: User | None) -> Event:
    return Event(
        user_id=_user_id(body.user_id, reported_by),
        feature=body.feature,
        quantity=body.quantity,
        idempotency_key=body.idempotency_key,
        occurred_at=body.occurred_at,
        properties=body.properties,
    )


# --- one event, or many ----------------------------------------------------------------------


def _single(event: Event, verdict: Verdict) -> Response[UsageTaken]:
    if verdict.status == "refused":
        raise _refusal(str(verdict.code))
    if verdict.status == "conflict":
        raise Conflict(
            "This idempotency key was used for different usage. The first one stands.",
            code="idempotency_conflict",
        )
    taken = _taken([_verdict(0, event.idempotency_key, verdict)])
    return api.json_response(taken, 202 if verdict.status == "accepted" else 200)


def _batch(body: UsageBatch, reported_by: User | None) -> Response[UsageTaken]:
    results: list[UsageVerdict | None] = []
    events: list[tuple[int, Event]] = []
    for index, item in enumerate(body.events):
        try:
            events.append((index, _to_event(_event.validate_python(item), reported_by)))
            results.append(None)
        except (ValidationError, ValueError, InvalidRequest, Forbidden):
            results.append(
                UsageVerdict(
                    index=index,
                    idempotency_key=_key_of(item),
                    status="refused",
                    code="invalid_event",
                )
            )
    for (index, event), verdict in zip(
        events, _decide([event for _, event in events]), strict=True
    ):
        results[index] = _verdict(index, event.idempotency_key, verdict)
    return api.json_response(_taken([r for r in results if r is not None]), 202)


def _decide(events: Sequence[Event]) -> list[Verdict]:
    """The verdicts, after asking Commet about users who would be refused for want of access."""
    verdicts = _accept(events)
    unsure = [i for i, verdict in enumerate(verdicts) if verdict.code in _UNSURE]
    if not unsure:
        return verdicts
    askable = subscriptions.askable(
        wiring.database(), {events[i].user_id for i in unsure}, wiring.clock()()
    )
    deadline = api.deadline(app).within(_ASKING_SECONDS)
    answered = {user for user in askable[:_ASK_AT_MOST] if _access().ask(user, deadline)}
    again = [i for i in unsure if events[i].user_id in answered]
    for i, verdict in zip(again, _accept([events[i] for i in again]), strict=True):
        verdicts[i] = verdict
    for i in unsure:
        if events[i].user_id in askable and events[i].user_id not in answered:
            verdicts[i] = Verdict("refused", "access_unconfirmed")
    return verdicts


def _accept(events: Sequence[Event]) -> list[Verdict]:
    return usage.accept(
        wiring.database(),
        events,
        statuses=wiring.settings().live_statuses,
        now=wiring.clock()(),
    )


def _check(user_id: str, body: UsageCheck) -> usage.Allowance:
    return usage.check(
        wiring.database(),
        user_id=user_id,
        feature=body.feature,
        quantity=body.quantity,
        statuses=wiring.settings().live_statuses,
        currency=wiring.settings().currency,
        now=wiring.clock()(),
    )


@cache
def _access() -> Access:
    return Access(wiring.database(), wiring.settings(), wiring.commet, wiring.clock())


# --- what is answered ---------------------------------------------------------------------------


def _verdict(index: int, key: str, verdict: Verdict) -> UsageVerdict:
    return UsageVerdict(index=index, idempotency_key=key, status=verdict.status, code=verdict.code)


def _taken(results: list[UsageVerdict]) -> UsageTaken:
    accepted = sum(r.status == "accepted" for r in results)
    duplicates = sum(r.status == "duplicate" for r in results)
    metrics.add_metric("UsageEventsAccepted", MetricUnit.Count, accepted)
    return UsageTaken(
        accepted=accepted,
        duplicates=duplicates,
        refused=len(results) - accepted - duplicates,
        results=results,
    )


def _key_of(item: object) -> str | None:
    key = item.get("idempotency_key") if isinstance(item, dict) else None
    return key if isinstance(key, str) and len(key) <= usage.MAX_KEY_LENGTH else None


def _refusal(code: str) -> BillingError:
    kind, detail = _REFUSALS[code]
    return kind(detail, code=code)


_REFUSALS: dict[str, tuple[type[BillingError], str]] = {
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
}
