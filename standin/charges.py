"""Charging saved cards."""

from standin import events, invoices
from standin.cards import failure_message
from standin.events import ChargeReason, Recovery
from standin.models import Card, Customer, Invoice, Transaction
from standin.transactions import Failure, of_invoice, payment_context
from standin.world import World


def charge(
    world: World,
    invoice: Invoice,
    customer: Customer,
    reason: ChargeReason,
    *,
    recovery: Recovery | None = None,
    payable_later: bool = True,
    every_card: bool = False,
) -> bool:
    """Charge the customer's card for an invoice, and send payment.received or payment.failed.

    An invoice of 0 is settled without a charge and without an event. With `payable_later`, the
    event of a decline contains the address on which the invoice can be paid by hand. With
    `every_card`, the other saved cards are tried if the default one is declined. Each try is a
    transaction, and all tries together send one event.
    """
    if invoice.total == 0:
        invoices.settle(world, invoice, None)
        return True
    context = payment_context(reason, recovery)
    declined: list[Transaction] = []
    for card in _cards(customer, every_card=every_card):
        transaction = of_invoice(
            world, invoice, customer, context, card=card, failure=failure_of(card)
        )
        if transaction.status == "succeeded":
            invoices.settle(world, invoice, transaction)
            events.payment_received(world, invoice, customer, transaction)
            return True
        declined.append(transaction)
    url = recovery_url(world, invoice) if payable_later else None
    events.payment_failed(world, invoice, customer, declined[0], recovery_url=url)
    return False


def _cards(customer: Customer, *, every_card: bool) -> list[Card | None]:
    """Returns the cards to charge, first to last. None stands for a missing card."""
    return [*customer.cards] if every_card and customer.cards else [customer.card]


def recovery_url(world: World, invoice: Invoice) -> str:
    """Returns the address on which an unpaid invoice can be paid by hand."""
    return f"{world.public_url}/recover/{invoice.recovery_token}"


def failure_of(card: Card | None) -> Failure | None:
    """Returns why a charge of the card would fail now; None if it would succeed."""
    if card is None:
        return "card_declined", "There is no card on file."
    code = card.charge_failure
    return (code, failure_message(code)) if code else None
