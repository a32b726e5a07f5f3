"""Finds invoices of ended subscriptions that were never paid, and says what they leave owed.

Only usage beyond the included quantity is a debt, with its part of the tax: the lines
`feature_overage`. A base price that was never paid is none.

A webhook tells of an invoice that became void, and of none that became uncollectible. So the
invoices of every subscription that has ended are looked through, until none waits to be paid.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from billing.amounts import minor_digits
from billing.commet.answers import Invoice
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts.asking import ask_about_each
from billing.errors import CommetRefused

_sql = Statements(__file__)

NEVER_PAID = frozenset({"void", "uncollectible"})
UNDECIDED = frozenset({"draft", "outstanding"})
# The invoice of a change of plans that was declined. It bills usage that the next invoice bills
# again, because the subscription goes on as it was.
_BILLED_AGAIN = frozenset({"plan_change"})

# So many are asked about while a person waits.
_AT_MOST = 5
# So many are leased by one statement of a run.
_BATCH = 20


@dataclass(frozen=True, slots=True)
class Owed:
    """What is owed, in major units. `amount` includes `tax`."""

    amount: Decimal
    tax: Decimal


@dataclass(frozen=True, slots=True)
class _Search:
    subscription_id: str
    user_id: str


def owed(invoice: Invoice) -> Owed:
    """What usage on this invoice was never paid, if the invoice was not.

    Its part of the tax is rounded half up. Discounts and credits lower what is owed: it is never
    more than the invoice asked for.
    """
    overage = sum(li.amount for li in invoice.line_items if li.line_type == "feature_overage")
    asked = invoice.total - invoice.tax_amount
    net = max(min(overage, asked), 0)
    if invoice.invoice_type in _BILLED_AGAIN or not net:
        return Owed(Decimal(0), Decimal(0))
    tax = (Decimal(invoice.tax_amount) * net / asked).quantize(Decimal(1), ROUND_HALF_UP)
    scale = -minor_digits(invoice.currency)
    return Owed((net + tax).scaleb(scale), tax.scaleb(scale))


def find(db: Database, commet: Commet, user_id: str, *, now: datetime, deadline: Deadline) -> None:
    """Looks through the invoices of one user's ended subscriptions, while the user waits.

    Raises CommetUnavailable or CommetRefused; what was found before that is written.
    """
    for row in db.all(_sql["searches_of"], {"user_id": user_id, "limit": _AT_MOST}):
        _search(db, commet, now, deadline, _Search(**row))


def find_collected(
    db: Database, commet: Commet, user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Ends those of the user's debts whose invoices Commet has collected meanwhile.

    Raises CommetUnavailable or CommetRefused.
    """
    for row in db.all(_sql["read_of"], {"user_id": user_id, "limit": _AT_MOST}):
        invoice = invoice_of(commet, row["source"], deadline)
        if invoice is not None and invoice.status == "paid":
            db.execute(_sql["collected"], {"now": now, **row})


def run(db: Database, commet: Commet, budget: Budget, *, now: datetime, deadline: Deadline) -> int:
    """Looks through what is due. Returns how many calls were made. Raises CommetUnavailable."""
    return ask_about_each(
        lambda: [_Search(**row) for row in db.all(_sql["lease_searches"], {"limit": _BATCH})],
        partial(_search, db, commet, now, deadline),
        budget,
        deadline,
    )


def invoice_of(commet: Commet, invoice_id: str, deadline: Deadline) -> Invoice | None:
    """The invoice, or None where Commet does not know it."""
    try:
        return commet.invoice(invoice_id, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        return None


def _search(
    db: Database, commet: Commet, now: datetime, deadline: Deadline, search: _Search
) -> None:
    found = commet.invoices(search.subscription_id, deadline)
    for invoice_id in [each.id for each in found if each.status in NEVER_PAID]:
        db.execute(
            _sql["open_unread"], {"user_id": search.user_id, "source": invoice_id, "now": now}
        )
    undecided = any(each.status in UNDECIDED for each in found)
    statement = _sql["search_again"] if undecided else _sql["end_search"]
    db.execute(statement, {"subscription_id": search.subscription_id})
