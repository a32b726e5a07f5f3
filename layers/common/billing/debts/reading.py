"""Reads the amount of a debt at Commet, if the webhook about the debt does not contain it.

An invoice that was never paid lists its lines. A disputed amount contains tax, and only the
transaction says how much. The tax must be known, because Commet adds tax to a payment link.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial
from typing import TYPE_CHECKING

from billing.amounts import decimals
from billing.commet.answers import Transaction
from billing.commet.call_budget import Budget
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts.asking import ask_about_each
from billing.debts.invoices import NEVER_PAID, UNDECIDED, Owed, invoice_of, owed
from billing.errors import CommetRefused

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

# How many debts are asked about while a person waits.
_AT_MOST = 5
# How many debts one statement of a run leases.
_BATCH = 20


@dataclass(frozen=True, slots=True)
class _Unread:
    id: int
    kind: str
    source: str
    disputed: Decimal | None  # of a dispute: the disputed amount, in major units
    currency: str | None  # the currency of `disputed`


def find_out(
    db: Database, commet: "Commet", user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Asks Commet for the amounts of one user's unread debts, while the user waits.

    Raises CommetUnavailable or CommetRefused. Amounts that were read before the error are stored.
    """
    for row in db.all(_sql["unread_of"], {"user_id": user_id, "limit": _AT_MOST}):
        _read(db, commet, now, deadline, _Unread(**row))


def run(
    db: Database, commet: "Commet", budget: Budget, *, now: datetime, deadline: Deadline
) -> int:
    """Reads the debts that are due. Returns how many there were. Raises CommetUnavailable."""
    return ask_about_each(
        lambda: [_Unread(**row) for row in db.all(_sql["lease_unread"], {"limit": _BATCH})],
        partial(_read, db, commet, now, deadline),
        budget,
        deadline,
    )


def share_of_tax(disputed: Decimal, transaction: Transaction, currency: str) -> Decimal | None:
    """Returns the tax in a disputed amount, rounded half up; None if Commet does not state it."""
    net, tax = transaction.subtotal, transaction.tax_amount
    if net is None or tax is None or net + tax <= 0:
        return None
    exact = disputed * tax / (net + tax)
    return exact.quantize(Decimal(1).scaleb(-decimals(currency)), ROUND_HALF_UP)


def _read(db: Database, commet: "Commet", now: datetime, deadline: Deadline, debt: _Unread) -> None:
    look = _invoice if debt.kind == "voided_invoice" else _dispute
    found = look(commet, debt, deadline)
    if found is None:
        db.execute(_sql["read_again"], {"id": debt.id})
        return
    amounts, currency = found
    values = {"amount": amounts.amount, "tax": amounts.tax, "currency": currency}
    db.execute(_sql["record"], {"id": debt.id, "now": now, **values})


def _invoice(commet: "Commet", debt: _Unread, deadline: Deadline) -> tuple[Owed, str] | None:
    """Returns what is owed for the invoice, and the currency; None while Commet has not decided."""
    invoice = invoice_of(commet, debt.source, deadline)
    if invoice is None or invoice.status in UNDECIDED:
        return None
    nothing = Owed(Decimal(0), Decimal(0))
    return (owed(invoice) if invoice.status in NEVER_PAID else nothing), invoice.currency


def _dispute(commet: "Commet", debt: _Unread, deadline: Deadline) -> tuple[Owed, str] | None:
    """Returns what is owed for the lost dispute, and the currency; None if the tax is not known."""
    if debt.disputed is None or debt.currency is None:
        return None
    try:
        transaction = commet.transaction(debt.source, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        return None
    tax = share_of_tax(debt.disputed, transaction, debt.currency)
    return None if tax is None else (Owed(debt.disputed, tax), debt.currency)
