"""Reads at Commet how much a debt is, where the webhook that told of it does not say enough.

An invoice that was never paid names its lines. A disputed amount contains tax, and the transaction
says how much: Commet adds tax to a payment link, so a debt has to know its own.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from billing.amounts import decimals
from billing.commet.answers import Transaction
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts.asking import ask_about_each
from billing.debts.invoices import NEVER_PAID, UNDECIDED, Owed, invoice_of, owed
from billing.errors import CommetRefused

_sql = Statements(__file__)

# So many are asked about while a person waits.
_AT_MOST = 5
# So many are leased by one statement of a run.
_BATCH = 20


@dataclass(frozen=True, slots=True)
class _Unread:
    id: int
    kind: str
    source: str
    disputed: Decimal | None  # of a dispute: the amount, in major units
    currency: str | None  # of that amount


def find_out(
    db: Database, commet: Commet, user_id: str, *, now: datetime, deadline: Deadline
) -> None:
    """Asks how much one user's unread debts are, while the user waits.

    Raises CommetUnavailable or CommetRefused; what was read before that is written.
    """
    for row in db.all(_sql["unread_of"], {"user_id": user_id, "limit": _AT_MOST}):
        _read(db, commet, now, deadline, _Unread(**row))


def run(db: Database, commet: Commet, budget: Budget, *, now: datetime, deadline: Deadline) -> int:
    """Reads what is due. Returns how many calls were made. Raises CommetUnavailable."""
    return ask_about_each(
        lambda: [_Unread(**row) for row in db.all(_sql["lease_unread"], {"limit": _BATCH})],
        partial(_read, db, commet, now, deadline),
        budget,
        deadline,
    )


def share_of_tax(disputed: Decimal, transaction: Transaction, currency: str) -> Decimal | None:
    """The tax in a disputed amount, rounded half up; None where Commet does not say it."""
    net, tax = transaction.subtotal, transaction.tax_amount
    if net is None or tax is None or net + tax <= 0:
        return None
    exact = disputed * tax / (net + tax)
    return exact.quantize(Decimal(1).scaleb(-decimals(currency)), ROUND_HALF_UP)


def _read(db: Database, commet: Commet, now: datetime, deadline: Deadline, debt: _Unread) -> None:
    look = _invoice if debt.kind == "voided_invoice" else _dispute
    found = look(commet, debt, deadline)
    if found is None:
        db.execute(_sql["read_again"], {"id": debt.id})
        return
    amounts, currency = found
    values = {"amount": amounts.amount, "tax": amounts.tax, "currency": currency}
    db.execute(_sql["record"], {"id": debt.id, "now": now, **values})


def _invoice(commet: Commet, debt: _Unread, deadline: Deadline) -> tuple[Owed, str] | None:
    """What the invoice leaves owed, with the currency; None where Commet has not decided it."""
    invoice = invoice_of(commet, debt.source, deadline)
    if invoice is None or invoice.status in UNDECIDED:
        return None
    nothing = Owed(Decimal(0), Decimal(0))
    return (owed(invoice) if invoice.status in NEVER_PAID else nothing), invoice.currency


def _dispute(commet: Commet, debt: _Unread, deadline: Deadline) -> tuple[Owed, str] | None:
    """What the lost dispute leaves owed, with the currency; None where the tax is not known."""
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
