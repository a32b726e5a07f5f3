"""Charging saved cards."""

from local.commet import events, invoices
from local.commet.cards import failure_message
from local.commet.events import ChargeReason
from local.commet.models import Customer, Invoice
from local.commet.world import World


def charge(
    world: World,
    invoice: Invoice,
    customer: Customer,
    reason: ChargeReason,
    *,
    dunning_attempt: int = 0,
    max_attempts: int = 0,
) -> bool:
    """Charge the customer's card for an invoice; tells payment.received or payment.failed.

    An invoice of nothing is settled without a charge and without an event.
    """
    if invoice.total == 0:
        invoices.settle(world, invoice)
        return True
    failure = _failure(customer)
    if failure is None:
        invoices.settle(world, invoice)
        events.payment_received(
            world,
            invoice,
            customer,
            reason,
            dunning_attempt=dunning_attempt,
            max_attempts=max_attempts,
        )
        return True
    events.payment_failed(
        world,
        invoice,
        customer,
        reason,
        failure,
        recovery_url=f"{world.public_url}/recover/{invoice.id}",
        dunning_attempt=dunning_attempt,
        max_attempts=max_attempts,
    )
    return False


def _failure(customer: Customer) -> tuple[str, str] | None:
    if customer.card is None:
        return "card_declined", "There is no card on file."
    code = customer.card.charge_failure
    return (code, failure_message(code)) if code else None
