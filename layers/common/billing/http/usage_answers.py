"""Turns results of `billing.usage` into the answers of the usage routes."""

from collections.abc import Sequence
from decimal import Decimal

from billing.amounts import format_decimal, format_exact, format_money, format_unit_price
from billing.errors import FieldError
from billing.http.shapes.base import UsagePeriodReply
from billing.http.shapes.ledger import LedgerEntry, LedgerPeriodReply, UsageSum
from billing.http.shapes.limits import SpendingReply
from billing.http.shapes.usage import (
    CorrectionTaken,
    NeedsCredit,
    ReservationReply,
    UsageAllowed,
    UsageTaken,
    UsageVerdict,
)
from billing.http.usage_batch import key_of
from billing.usage.accepting import Allowance, Verdict
from billing.usage.corrections import Booking, Correction, Credit
from billing.usage.ledger import Entry
from billing.usage.reservations import Reservation
from billing.usage.spending import Spending
from billing.usage.sums import Sum

REFUSED = ("refused", "conflict")


def verdict(index: int, key: str | None, found: Verdict) -> UsageVerdict:
    """Returns the verdict on one event of a request."""
    return {"index": index, "idempotency_key": key, "status": found.status, "code": found.code}


def invalid(index: int, item: object, wrong: Sequence[FieldError]) -> UsageVerdict:
    """Returns the verdict on an item that is not a valid event, with its wrong fields."""
    refused = verdict(index, key_of(item), Verdict("refused", "invalid_event"))
    refused["errors"] = [{"field": e.field, "code": e.code, "message": e.message} for e in wrong]
    return refused


def taken(results: list[UsageVerdict]) -> UsageTaken:
    """Returns all verdicts of one request, and how many of each kind there are."""
    statuses = [result["status"] for result in results]
    accepted, duplicates = statuses.count("accepted"), statuses.count("duplicate")
    return {
        "accepted": accepted,
        "duplicates": duplicates,
        "refused": len(results) - accepted - duplicates,
        "results": results,
    }


def allowance(found: Allowance) -> UsageAllowed:
    """Returns whether a quantity may be used, and its price."""
    return UsageAllowed(
        allowed=found.allowed,
        remaining=None if found.remaining is None else format_decimal(found.remaining),
        overage_quantity=format_decimal(found.overage_quantity),
        unit_price=None
        if found.unit_price is None
        else format_unit_price(found.unit_price, found.currency),
        cost=None if found.cost is None else format_exact(found.cost, found.currency),
        currency=found.currency,
        spending=spending(found.spending),
        code=found.code,
    )


def spending(found: Spending | None) -> SpendingReply | None:
    """Returns what a user spends, and the limit."""
    if found is None:
        return None
    return SpendingReply(
        spent=format_money(found.spent, found.currency),
        limit=None if found.limit is None else format_money(found.limit, found.currency),
        set_by=found.set_by,
        currency=found.currency,
    )


def unconfirmed(found: Allowance) -> UsageAllowed:
    """Returns the answer while Commet has not confirmed whether the user has access.

    Nothing is allowed, `remaining` and `unit_price` are null and `cost` is zero.
    """
    return UsageAllowed(
        allowed=False,
        remaining=None,
        overage_quantity=format_decimal(Decimal(0)),
        unit_price=None,
        cost=format_money(Decimal(0), found.currency),
        currency=found.currency,
        spending=None,
        code="access_unconfirmed",
    )


def reservation(found: Reservation) -> ReservationReply:
    """A reservation in its current state."""
    return ReservationReply(
        id=found.id,
        user_id=found.user_id,
        feature=found.feature,
        idempotency_key=found.idempotency_key,
        quantity=format_decimal(found.quantity),
        expires_at=found.expires_at,
        state=found.state,
        booked=None if found.booked is None else format_decimal(found.booked),
    )


def corrected(
    correction: Correction, booking: Booking, *, repeated: bool, currency: str
) -> CorrectionTaken:
    """Returns the answer to a correction. `currency` is used if Commet has named none."""
    period = UsagePeriodReply(start=booking.period_start, end=booking.period_end)
    credit = booking.needs_credit
    return CorrectionTaken(
        idempotency_key=correction.idempotency_key,
        status="duplicate" if repeated else "accepted",
        quantity=format_decimal(correction.quantity),
        period=period,
        used=format_decimal(booking.used),
        needs_credit=_credit(credit, period, currency) if credit else None,
    )


def _credit(credit: Credit, period: UsagePeriodReply, currency: str) -> NeedsCredit:
    currency = credit.currency or currency
    return NeedsCredit(
        quantity=format_decimal(credit.quantity),
        amount=None if credit.amount is None else format_money(credit.amount, currency),
        currency=currency,
        period=period,
    )


def entry(found: Entry) -> LedgerEntry:
    """One entry of the ledger."""
    return LedgerEntry(
        booked_at=found.booked_at,
        occurred_at=found.occurred_at,
        user_id=found.user_id,
        feature=found.feature,
        kind=found.kind,
        quantity=format_decimal(found.quantity),
        idempotency_key=found.idempotency_key,
        period=_period(found),
        late=found.late,
        reason=found.reason,
        author=found.author,
        needs_credit=found.needs_credit,
        properties=dict(found.properties),
    )


def summed(found: Sum) -> UsageSum:
    """One sum of a user's ledger."""
    return UsageSum(
        day=found.day,
        feature=found.feature,
        value=found.value,
        quantity=format_decimal(found.quantity),
        late=format_decimal(found.late),
        corrected=format_decimal(found.corrected),
        period=_period(found),
    )


def _period(of: Entry | Sum) -> LedgerPeriodReply:
    return LedgerPeriodReply(
        id=of.period_id,
        start=of.period_start,
        end=of.period_end,
        subscription_id=of.subscription_id,
        plan_id=of.plan_id,
    )
