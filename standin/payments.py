"""Charging saved cards."""

from standin import events, invoices
from standin.cards import failure_message
from standin.events import ChargeReason, Recovery
from standin.models import Customer, Invoice
from standin.world import World


def charge(
    world: World,
    invoice: Invoice,
    customer: Customer,
    reason: ChargeReason,
    *,
    recovery: Recovery | None = None,
    payable_later: bool = True,
) -> bool:
    """Charge the customer's card for an invoice; tells payment.received or payment.failed.

    An invoice of nothing is settled without a charge and without an event. With `payable_later`
    a decline tells where the invoice can be paid by hand.
    """
    if invoice.total == 0:
        invoices.settle(world, invoice)
        return True
    failure = _failure(customer)
    if failure is None:
        invoices.settle(world, invoice)
        events.payment_received(world, invoice, customer, reason, recovery=recovery)
        return True
    events.payment_failed(
        world,
        invoice,
        customer,
        reason,
        failure,
        recovery_url=recovery_url(world, invoice) if payable_later else None,
        recovery=recovery,
    )
    return False


def recovery_url(world: World, invoice: Invoice) -> str:
    """Where an unpaid invoice can be paid by hand."""
    return f"{world.public_url}/recover/{invoice.recovery_token}"


def _failure(customer: Customer) -> tuple[str, str] | None:
    if customer.card is None:
        return "card_declined", "There is no card on file."
    code = customer.card.charge_failure
    return (code, failure_message(code)) if code else None
