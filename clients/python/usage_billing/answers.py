"""The answers of the API. Quantities and money are decimals, times are in UTC.

Fields that the API adds later are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from usage_billing.problems import WrongField

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class User:
    """A user of the product."""

    id: str
    email: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one usage event: `accepted`, `duplicate`, `conflict` or `refused`.

    `code` says why an event was refused.
    """

    key: str | None
    status: str
    code: str | None
    errors: tuple[WrongField, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether the event is in the ledger, now or from an earlier report."""
        return self.status in ("accepted", "duplicate")


@dataclass(frozen=True, slots=True)
class Spending:
    """What a user's overage costs in the running period, and its limit. Null: no limit."""

    spent: Decimal
    limit: Decimal | None
    set_by: str
    currency: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Whether a quantity may be used now, and what the part beyond the included one would cost.

    Money is in major units of `currency`. `code` says why the quantity may not be used.
    """

    allowed: bool
    code: str | None
    remaining: Decimal | None
    overage_quantity: Decimal
    unit_price: Decimal | None
    cost: Decimal | None
    currency: str
    spending: Spending | None


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation as the API knows it. `state` is held, confirmed, released or expired."""

    id: str
    key: str
    quantity: Decimal
    expires_at: datetime
    state: str
    booked: Decimal | None


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` (inclusive) to `end` (exclusive)."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Credit:
    """What Commet was told too much of a period that is over; `amount` is null if not known."""

    quantity: Decimal
    amount: Decimal | None
    currency: str


@dataclass(frozen=True, slots=True)
class Corrected:
    """What became of a correction. `used` is the corrected total of `period`."""

    key: str
    status: str
    used: Decimal
    period: Period
    needs_credit: Credit | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the ledger. `kind` is event, confirm or correction."""

    user_id: str
    feature: str
    kind: str
    quantity: Decimal
    key: str
    occurred_at: datetime
    booked_at: datetime
    period_id: str
    period: Period
    subscription_id: str
    plan_id: str | None
    late: bool
    reason: str | None
    author: str | None
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """A checkout. Send the user's browser to `url`; it is null where nothing is to be paid.

    `change` is null unless the user has a subscription: what the change of plan means. Its
    `confirmation`, sent with the same request, performs the change.
    """

    subscription_id: str
    status: str
    url: str | None
    change: Document | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription. `ends_at` is null if it is not canceled."""

    id: str
    status: str
    cancel_at_period_end: bool
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of Commet. Money is in major units of `currency`."""

    id: str
    number: str | None
    status: str
    currency: str
    subtotal: Decimal
    tax: Decimal
    total: Decimal
    period: Period | None
    issued_at: datetime | None
    due_at: datetime | None


def user(found: Document) -> User:
    return User(found["id"], found["email"], found["name"])


def taken(found: Document) -> Taken:
    wrong = tuple(
        WrongField(e["field"], e["code"], e["message"]) for e in found.get("errors") or ()
    )
    return Taken(found["idempotency_key"], found["status"], found["code"], wrong)


def spending(found: Document) -> Spending:
    return Spending(
        spent=Decimal(found["spent"]),
        limit=_decimal(found["limit"]),
        set_by=found["set_by"],
        currency=found["currency"],
    )


def checked(found: Document) -> Checked:
    return Checked(
        allowed=found["allowed"],
        code=found["code"],
        remaining=_decimal(found["remaining"]),
        overage_quantity=Decimal(found["overage_quantity"]),
        unit_price=_decimal(found["unit_price"]),
        cost=_decimal(found["cost"]),
        currency=found["currency"],
        spending=spending(found["spending"]) if found["spending"] else None,
    )


def held(found: Document) -> Held:
    return Held(
        id=found["id"],
        key=found["idempotency_key"],
        quantity=Decimal(found["quantity"]),
        expires_at=_time(found["expires_at"]),
        state=found["state"],
        booked=_decimal(found["booked"]),
    )


def corrected(found: Document) -> Corrected:
    credit = found["needs_credit"]
    return Corrected(
        key=found["idempotency_key"],
        status=found["status"],
        used=Decimal(found["used"]),
        period=_period(found["period"]),
        needs_credit=Credit(
            Decimal(credit["quantity"]), _decimal(credit["amount"]), credit["currency"]
        )
        if credit
        else None,
    )


def entry(found: Document) -> Entry:
    period = found["period"]
    return Entry(
        user_id=found["user_id"],
        feature=found["feature"],
        kind=found["kind"],
        quantity=Decimal(found["quantity"]),
        key=found["idempotency_key"],
        occurred_at=_time(found["occurred_at"]),
        booked_at=_time(found["booked_at"]),
        period_id=period["id"],
        period=_period(period),
        subscription_id=period["subscription_id"],
        plan_id=period["plan_id"],
        late=found["late"],
        reason=found["reason"],
        author=found["author"],
        properties=found["properties"],
    )


def checked_out(found: Document) -> CheckedOut:
    subscription = found["subscription"]
    return CheckedOut(
        subscription_id=subscription["id"],
        status=subscription["status"],
        url=found["checkout_url"],
        change=found["change"],
    )


def subscription(found: Document) -> Subscription:
    return Subscription(
        id=found["id"],
        status=found["status"],
        cancel_at_period_end=found["cancel_at_period_end"],
        ends_at=_time(found["ends_at"]) if found["ends_at"] else None,
    )


def invoice(found: Document) -> Invoice:
    return Invoice(
        id=found["id"],
        number=found["number"],
        status=found["status"],
        currency=found["currency"],
        subtotal=Decimal(found["subtotal"]),
        tax=Decimal(found["tax"]),
        total=Decimal(found["total"]),
        period=_period(found["period"]) if found["period"] else None,
        issued_at=_time(found["issued_at"]) if found["issued_at"] else None,
        due_at=_time(found["due_at"]) if found["due_at"] else None,
    )


def _period(found: Document) -> Period:
    return Period(_time(found["start"]), _time(found["end"]))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
