"""Sends an event about a payment on demand, although nothing happened.

For testing receivers that must handle an event that comes twice, late or without its cause.
"""

from collections.abc import Callable
from typing import Literal

from standin import events, transactions
from standin.charges import recovery_url
from standin.errors import ApiError, invalid
from standin.models import Customer, Dispute, Invoice, Transaction
from standin.world import World

Outcome = Literal["won", "lost"]
Send = Callable[[World, Invoice, Customer, Transaction], None]


def _failed(world: World, invoice: Invoice, customer: Customer, transaction: Transaction) -> None:
    url = recovery_url(world, invoice)
    events.payment_failed(world, invoice, customer, transaction, recovery_url=url)


def _recovered(world: World, invoice: Invoice, customer: Customer, _: Transaction) -> None:
    events.payment_recovered(world, invoice, customer)


def _retry_failed(world: World, invoice: Invoice, customer: Customer, _: Transaction) -> None:
    events.payment_retry_failed(world, invoice, customer, "dunning_exhausted")


OF_PAYMENTS: dict[str, Send] = {
    "payment.received": events.payment_received,
    "payment.failed": _failed,
    "payment.recovered": _recovered,
    "payment.retry_failed": _retry_failed,
}
OF_TRANSACTIONS = ("payment.refunded", "payment.disputed", "payment.dispute_resolved")
OF_INVOICES = {
    "invoice.created": "outstanding",
    "invoice.overdue": "outstanding",
    "invoice.voided": "void",
}
EVENTS = (*OF_PAYMENTS, *OF_TRANSACTIONS, *OF_INVOICES)


def announce(world: World, name: str, about: str, outcome: Outcome = "won") -> None:
    """Send an event about a transaction or an invoice, given by its id. No record changes.

    `outcome` is that of payment.dispute_resolved. For an invoice, the event is about its newest
    transaction. Raises ApiError: validation_error for an event that cannot be sent about that
    record, transaction_not_found, invoice_not_found.
    """
    if name not in EVENTS:
        raise invalid("event", f"must be one of {', '.join(EVENTS)}")
    transaction, invoice = _records(world, about)
    if name in OF_INVOICES:
        _announce_invoice(world, name, invoice)
    elif transaction is None:
        raise invalid("about", "no payment of that invoice was tried, so there is no transaction")
    elif send := OF_PAYMENTS.get(name):
        if invoice is None:
            raise invalid("about", "the transaction has no invoice, and the event names one")
        send(world, invoice, world.customer(invoice.customer_id), transaction)
    else:
        _announce_transaction(world, name, transaction, outcome)


def _records(world: World, about: str) -> tuple[Transaction | None, Invoice | None]:
    if about.startswith("inv_"):
        invoice = world.store.invoices.get(about)
        if invoice is None:
            raise ApiError("invoice_not_found", "Invoice not found", param="about")
        return world.store.transactions.first("invoice_id = ?", invoice.id), invoice
    transaction = transactions.find(world, about)
    return transaction, world.store.invoices.get(transaction.invoice_id or "")


def _announce_invoice(world: World, name: str, invoice: Invoice | None) -> None:
    if invoice is None:
        raise invalid("about", "the transaction has no invoice, and the event names one")
    told = invoice.model_copy(update={"status": OF_INVOICES[name]})
    events.invoice_event(world, name, told, world.customer(invoice.customer_id))


def _announce_transaction(
    world: World, name: str, transaction: Transaction, outcome: Outcome
) -> None:
    if name == "payment.refunded":
        events.refunded(world, transaction, transaction.refunded_amount or transaction.total)
        return
    known = transaction.dispute
    dispute = Dispute(
        amount=known.amount if known else transaction.total,
        reason=known.reason if known else "fraudulent",
        opened_at=world.now(),
        outcome=outcome,
    )
    if name == "payment.disputed":
        events.disputed(world, transaction, dispute)
    else:
        events.dispute_resolved(world, transaction, dispute)
