"""The requests of the API, as steps that either client can do.

Each function returns steps whose result is the typed answer. Quantities are decimals: a float is
refused, because it seldom is the number that was meant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

from usage_billing import answers
from usage_billing.answers import Document
from usage_billing.retries import (
    LONGEST_ATTEMPT,
    Call,
    Deadline,
    Pause,
    Steps,
    answered,
    backoff,
)

Quantity = Decimal | int | str

T = TypeVar("T")

BATCH = 1000  # events in one request, as the API allows


def new_key() -> str:
    """An idempotency key that nobody else has."""
    return uuid4().hex


@dataclass(frozen=True, slots=True)
class Usage:
    """Something that was used. Report it again with the same key, and it is counted once.

    `key` is made once, with the object. Better name your own unit of work: then a process that
    starts anew still has the same key. `occurred_at` needs a time zone; without it the time of the
    report counts.
    """

    user_id: str
    feature: str
    quantity: Quantity = 1
    key: str = field(default_factory=new_key)
    occurred_at: datetime | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def call(
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    query: Mapping[str, str] | None,
    deadline: Deadline,
) -> Steps[dict[str, Any]]:
    """The JSON object that a route answers."""
    if not path.startswith("/"):
        raise ValueError("The path begins with a slash: /summarize")
    return answered(Call(method, path, body, query or {}, LONGEST_ATTEMPT), deadline)


def report(usage: Usage, deadline: Deadline) -> Steps[answers.Taken]:
    found = yield from answered(Call("POST", "/usage", _event(usage)), deadline)
    return answers.taken(found["results"][0])


def report_batch(batch: Sequence[Usage], deadline: Deadline) -> Steps[list[answers.Taken]]:
    """The verdicts in the order of `batch`, which has at most BATCH events.

    Events that are `access_unconfirmed` are sent again until the deadline.
    """
    events = [_event(usage) for usage in batch]
    verdicts: dict[int, answers.Taken] = {}
    waiting = list(range(len(events)))
    for attempt in count():
        call = Call("POST", "/usage", {"events": [events[at] for at in waiting]})
        found = yield from answered(call, deadline)
        for at, each in zip(waiting, found["results"], strict=True):
            verdicts[at] = answers.taken(each)
        waiting = [at for at in waiting if verdicts[at].code == "access_unconfirmed"]
        pause = backoff(attempt)
        if not waiting or pause >= deadline.left():
            break
        yield Pause(pause)
    return [verdicts[at] for at in range(len(events))]


def check(
    user_id: str, feature: str, quantity: Quantity, deadline: Deadline
) -> Steps[answers.Checked]:
    body = {"user_id": user_id, "feature": feature, "quantity": amount(quantity)}
    return _of(Call("POST", "/usage/check", body), answers.checked, deadline)


def reserve(usage: Usage, expires_in: int, deadline: Deadline) -> Steps[answers.Held]:
    body = _event(usage) | {"expires_in": expires_in}
    return _of(Call("POST", "/usage/reservations", body), answers.held, deadline)


def confirm(
    reservation_id: str, quantity: Quantity | None, deadline: Deadline
) -> Steps[answers.Held]:
    body = {} if quantity is None else {"quantity": amount(quantity)}
    path = f"/usage/reservations/{_part(reservation_id)}/confirm"
    return _of(Call("POST", path, body), answers.held, deadline)


def release(reservation_id: str, deadline: Deadline) -> Steps[answers.Held]:
    path = f"/usage/reservations/{_part(reservation_id)}/release"
    return _of(Call("POST", path, {}), answers.held, deadline)


def correct(
    usage: Usage, reason: str, corrects: str | None, deadline: Deadline
) -> Steps[answers.Corrected]:
    body = _event(usage) | _given(reason=reason, corrects=corrects)
    return _of(Call("POST", "/usage/corrections", body), answers.corrected, deadline)


def ledger_page(
    query: Mapping[str, str], deadline: Deadline
) -> Steps[tuple[list[answers.Entry], str | None]]:
    """One page of the ledger and the cursor of the next page, if there is one."""
    found = yield from answered(Call("GET", "/usage/events", query=query), deadline)
    return [answers.entry(each) for each in found["events"]], found["next_cursor"]


def ledger_query(
    user_id: str | None,
    feature: str | None,
    since: datetime | None,
    until: datetime | None,
    page_size: int,
) -> dict[str, str]:
    """The parameters of the first page."""
    times = {"from": since and time(since), "to": until and time(until)}
    named = _given(user_id=user_id, feature=feature, limit=str(page_size))
    return named | {name: value for name, value in times.items() if value}


def invoice_page(
    query: Mapping[str, str], deadline: Deadline
) -> Steps[tuple[list[answers.Invoice], str | None]]:
    found = yield from answered(Call("GET", "/invoices", query=query), deadline)
    return [answers.invoice(each) for each in found["invoices"]], found["next_cursor"]


def register(user_id: str, email: str, name: str | None, deadline: Deadline) -> Steps[answers.User]:
    call = Call("PUT", f"/users/{_part(user_id)}", _given(email=email, name=name))
    return _of(call, lambda found: answers.user(found["user"]), deadline)


def erase(user_id: str, deadline: Deadline) -> Steps[None]:
    call = Call("DELETE", f"/users/{_part(user_id)}")
    return _of(call, lambda _: None, deadline)


def dashboard(user_id: str, deadline: Deadline) -> Steps[dict[str, Any]]:
    return answered(Call("GET", f"/users/{_part(user_id)}/dashboard"), deadline)


def plans(deadline: Deadline) -> Steps[list[dict[str, Any]]]:
    return _of(Call("GET", "/plans"), lambda found: list(found["plans"]), deadline)


def check_out(
    user_id: str,
    plan_code: str,
    deadline: Deadline,
    *,
    billing_interval: str | None,
    success_url: str | None,
    confirmation: str | None,
) -> Steps[answers.CheckedOut]:
    body = _given(
        user_id=user_id,
        plan_code=plan_code,
        billing_interval=billing_interval,
        success_url=success_url,
        confirmation=confirmation,
    )
    return _of(Call("POST", "/checkout", body), answers.checked_out, deadline)


def portal(user_id: str, return_url: str | None, deadline: Deadline) -> Steps[str]:
    call = Call("POST", "/portal", _given(user_id=user_id, return_url=return_url))
    return _of(call, lambda found: str(found["portal_url"]), deadline)


def recovery(user_id: str, deadline: Deadline) -> Steps[str]:
    call = Call("POST", "/recovery", {"user_id": user_id})
    return _of(call, lambda found: str(found["recovery_url"]), deadline)


def cancel(user_id: str, deadline: Deadline, *, immediate: bool) -> Steps[answers.Subscription]:
    call = Call("POST", "/subscription/cancel", {"user_id": user_id, "immediate": immediate})
    return _of(call, lambda found: answers.subscription(found["subscription"]), deadline)


def keep(user_id: str, deadline: Deadline) -> Steps[answers.Subscription]:
    call = Call("POST", "/subscription/keep", {"user_id": user_id})
    return _of(call, lambda found: answers.subscription(found["subscription"]), deadline)


def limit_spending(
    user_id: str, limit: Quantity | None, deadline: Deadline
) -> Steps[answers.Spending | None]:
    body = {"amount": None if limit is None else amount(limit)}
    call = Call("PUT", f"/users/{_part(user_id)}/spend-limit", body)
    return _of(
        call,
        lambda found: answers.spending(found["spending"]) if found["spending"] else None,
        deadline,
    )


def amount(quantity: Quantity) -> str:
    """The quantity as the API reads it. Raises TypeError for a float, ValueError for no number."""
    if isinstance(quantity, bool) or not isinstance(quantity, Decimal | int | str):
        raise TypeError(f"Send a quantity as Decimal, int or str, not {type(quantity).__name__}.")
    try:
        found = Decimal(quantity)
    except ArithmeticError:
        found = Decimal("NaN")
    if not found.is_finite():
        raise ValueError(f"{quantity!r} is no quantity: send a number such as 1.5.")
    return f"{found:f}"


def time(moment: datetime) -> str:
    """The time as the API reads it. Raises ValueError for a time without a time zone."""
    if moment.utcoffset() is None:
        raise ValueError("A time needs a time zone: datetime.now(UTC), for example.")
    return moment.isoformat()


def _event(usage: Usage) -> dict[str, Any]:
    event: dict[str, Any] = {
        "user_id": usage.user_id,
        "feature": usage.feature,
        "quantity": amount(usage.quantity),
        "idempotency_key": usage.key,
    }
    if usage.occurred_at is not None:
        event["occurred_at"] = time(usage.occurred_at)
    if usage.properties:
        event["properties"] = dict(usage.properties)
    return event


def _of(call: Call, read: Callable[[Document], T], deadline: Deadline) -> Steps[T]:
    found = yield from answered(call, deadline)
    return read(found)


def _given(**fields: str | None) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _part(text: str) -> str:
    return quote(text, safe=":")
