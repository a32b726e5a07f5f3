"""Finds invoices of ended subscriptions that were never paid, and calculates what is owed for them.

Only usage beyond the included quantity is a debt (the lines `feature_overage`), with the part of
the tax that belongs to it. A base price that was never paid is no debt.

A webhook says that an invoice became void, but none says that an invoice became uncollectible. So
reconcile reads the invoices of every ended subscription, until none waits for payment.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import TYPE_CHECKING

from billing.amounts import minor_digits
from billing.commet.answers import Invoice
from billing.commet.call_budget import Budget
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts.asking import ask_about_each
from billing.errors import CommetRefused

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

NEVER_PAID = frozenset({"void", "uncollectible"})
UNDECIDED = frozenset({"draft", "outstanding"})
# The invoice of a change of plan whose charge was declined. The next invoice bills the same usage
# again, because the subscription goes on as it was.
_BILLED_AGAIN = frozenset({"plan_change"})

# How many searches or invoices may be read while a person waits.
_AT_MOST = 5
# How many searches one statement of a run leases.
_BATCH = 20


@dataclass(frozen=True, slots=True)
class Owed:
    """Money that is owed, in major units. `amount` includes `tax`."""

    amount: Decimal
    tax: Decimal


@dataclass(frozen=True, slots=True)
class _Search:
    subscription_id: str
    user_id: str


def owed(invoice: Invoice) -> Owed:
    """Returns the usage on this invoice that was never paid, if the invoice was not paid.

    The part of the tax that belongs to the usage is rounded half up. Discounts and credits lower
    the result, so it is never more than the invoice's total.
    """
    overage = sum(li.amount for li in invoice.line_items if li.line_type == "feature_overage")
    asked = invoice.total - invoice.tax_amount
    net = max(min(overage, asked), 0)
    if invoice.invoice_type in _BILLED_AGAIN or not net:
        return Owed(Decimal(0), Decimal(0))
    tax = (Decimal(invoice.tax_amount) * net / asked).quantize(Decimal(1), ROUND_HALF_UP)
    scale = -minor_digits(invoice.currency)
    return Owed((net + tax).scaleb(scale), tax.scaleb(scale))


def find(
    db: Database, commet: "Commet", user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Reads the invoices of one user's ended subscriptions, while the user waits.

    Raises CommetUnavailable or CommetRefused. Debts that were found before the error are stored.
    """
    for row in db.all(_sql["searches_of"], {"user_id": user_id, "limit": _AT_MOST}):
        _search(db, commet, now, deadline, _Search(**row))


def find_collected(
    db: Database, commet: "Commet", user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Ends the user's debts whose invoices Commet has collected since.

    Raises CommetUnavailable or CommetRefused.
    """
    for row in db.all(_sql["read_of"], {"user_id": user_id, "limit": _AT_MOST}):
        invoice = invoice_of(commet, row["source"], deadline)
        if invoice is not None and invoice.status == "paid":
            db.execute(_sql["collected"], {"now": now, **row})


def run(
    db: Database, commet: "Commet", budget: Budget, *, now: datetime, deadline: Deadline
) -> int:
    """Does the searches that are due. Returns how many there were. Raises CommetUnavailable."""
    return ask_about_each(
        lambda: [_Search(**row) for row in db.all(_sql["lease_searches"], {"limit": _BATCH})],
        partial(_search, db, commet, now, deadline),
        budget,
        deadline,
    )


def invoice_of(commet: "Commet", invoice_id: str, deadline: Deadline) -> Invoice | None:
    """Returns the invoice, or None if Commet does not know it."""
    try:
        return commet.invoice(invoice_id, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        return None


def _search(
    db: Database, commet: "Commet", now: datetime, deadline: Deadline, search: _Search
) -> None:
    found = commet.invoices(search.subscription_id, deadline)
    for invoice_id in [each.id for each in found if each.status in NEVER_PAID]:
        db.execute(
            _sql["open_unread"], {"user_id": search.user_id, "source": invoice_id, "now": now}
        )
    undecided = any(each.status in UNDECIDED for each in found)
    statement = _sql["search_again"] if undecided else _sql["end_search"]
    db.execute(statement, {"subscription_id": search.subscription_id})
