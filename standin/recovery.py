"""Collecting what is owed, and bringing back what has ended."""

from typing import Literal

from standin import events
from standin.billing import collect
from standin.cards import CardForm, CardRefusedError, accept
from standin.clock import midnight
from standin.errors import ApiError
from standin.events import Recovery
from standin.invoices import base_line, close_unpaid, draw_up
from standin.models import Card, Customer, Invoice, Subscription
from standin.payments import charge, recovery_url
from standin.periods import open_period
from standin.world import World


def outstanding_invoice(world: World, sub: Subscription) -> Invoice:
    """The renewal a past due subscription owes. Raises ApiError: no_outstanding_invoice."""
    invoice = owed(world, sub)
    if invoice is None or sub.status != "past_due":
        raise ApiError("no_outstanding_invoice", "Subscription has no outstanding invoice")
    return invoice


def owed(world: World, sub: Subscription) -> Invoice | None:
    """The invoice dunning is about: a renewal, or the resume of a paused subscription."""
    return world.store.invoices.get(sub.dunning.invoice_id) if sub.dunning else None


def payable(world: World, token: str) -> tuple[Invoice, Subscription] | None:
    """What a recovery link leads to: a renewal or a resume that was declined.

    None when there is nothing to pay any more.
    """
    invoice = world.store.invoices.first("recovery_token = ?", token)
    sub = world.store.subscriptions.get(invoice.subscription_id or "") if invoice else None
    if invoice is None or sub is None or invoice.status != "outstanding":
        return None
    due = sub.dunning and sub.dunning.invoice_id == invoice.id
    return (invoice, sub) if due else None


def pay_with(world: World, invoice: Invoice, sub: Subscription, form: CardForm) -> None:
    """Save a card and pay what is owed with it. Raises CardFormError, CardRefusedError."""
    customer = world.owner(sub)
    card = accept(form, world.now())
    if card.charge_failure:
        raise CardRefusedError(card.charge_failure)
    customer.card = card
    world.store.customers.put(customer)
    events.payment_method(world, "payment_method.updated", customer, None)
    collect(world, invoice, sub, customer, Recovery())


def note_declined(
    world: World, invoice: Invoice, sub: Subscription, failure: tuple[str, str]
) -> None:
    """Tell of another card that was declined; the link stays valid."""
    events.payment_failed(
        world,
        invoice,
        world.owner(sub),
        "subscription_resume" if sub.status == "paused" else "recurring_billing",
        failure,
        recovery_url=recovery_url(world, invoice),
        recovery=Recovery(),
    )


def replace_card(
    world: World, customer: Customer, card: Card
) -> Literal["saved", "paid", "still_owed"]:
    """Charge another card from now on, and at once for a renewal that is owed."""
    customer.card = card
    world.store.customers.put(customer)
    events.payment_method(world, "payment_method.updated", customer, None)
    sub = world.current_subscription(customer)
    if sub is None or sub.status != "past_due":
        return "saved"
    invoice = outstanding_invoice(world, sub)
    return "paid" if collect(world, invoice, sub, customer, Recovery()) else "still_owed"


def reactivate(world: World, sub: Subscription) -> tuple[Invoice, bool]:
    """Charge a past due subscription again, or start a canceled one anew; whether it was paid.

    A declined attempt to start anew leaves a void invoice and the subscription canceled.
    Raises ApiError: invalid_subscription_status, already_has_active_subscription,
    no_payment_method.
    """
    customer = world.owner(sub)
    if sub.status == "past_due":
        invoice = outstanding_invoice(world, sub)
        return invoice, collect(world, invoice, sub, customer, Recovery())
    if sub.status != "canceled" or sub.period_start is None:
        raise ApiError("invalid_subscription_status", f"Subscription is {sub.status}")
    if world.current_subscription(customer):
        raise ApiError(
            "already_has_active_subscription", "Customer already has an active subscription"
        )
    if customer.card is None:
        raise ApiError("no_payment_method", "Customer has no payment method on file")
    return _start_anew(world, sub, customer)


def _start_anew(world: World, sub: Subscription, customer: Customer) -> tuple[Invoice, bool]:
    now = world.now()
    fresh = sub.model_copy(deep=True)
    fresh.status = "active"
    fresh.anchor_day = now.day
    fresh.cancellation = fresh.canceled_at = fresh.end_date = fresh.ended_reason = None
    fresh.trial_ends_at = None
    fresh.updated_at = now
    open_period(fresh, midnight(now))
    period = (fresh.period_start or now, fresh.period_end or now)
    invoice = draw_up(world, fresh, [base_line(world, fresh)], kind="reactivation", period=period)
    if not charge(world, invoice, customer, "reactivation"):
        close_unpaid(world, invoice, customer, "void")
        return invoice, False
    world.store.subscriptions.put(fresh)
    events.reactivated(world, fresh, customer, invoice)
    events.state_changed(world, customer, "subscription_activated")
    return invoice, True
