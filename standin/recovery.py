"""Collecting unpaid renewals, saving cards, and reactivating canceled subscriptions."""

from typing import Literal

from standin import cards, events
from standin.billing import collect
from standin.cards import CardForm, CardRefusedError, accept
from standin.charges import charge, recovery_url
from standin.clock import midnight
from standin.errors import ApiError
from standin.events import Recovery
from standin.invoices import base_line, close_unpaid, draw_up
from standin.models import Card, Customer, Invoice, ManualRetries, Subscription, Transaction
from standin.periods import open_period
from standin.transactions import check_undisputed, of_invoice, payment_context
from standin.world import World

MANUAL_RETRIES_A_DAY = 3


def outstanding_invoice(world: World, sub: Subscription) -> Invoice:
    """The renewal a past due subscription owes. Raises ApiError: no_outstanding_invoice."""
    invoice = owed(world, sub)
    if invoice is None or sub.status != "past_due":
        raise ApiError("no_outstanding_invoice", "Subscription has no outstanding invoice")
    return invoice


def owed(world: World, sub: Subscription) -> Invoice | None:
    """Returns the invoice of the running dunning: a renewal, or the resume of a paused
    subscription.
    """
    return world.store.invoices.get(sub.dunning.invoice_id) if sub.dunning else None


def payable(world: World, token: str) -> tuple[Invoice, Subscription] | None:
    """Returns the invoice and the subscription of a recovery link: a declined renewal or resume.

    Returns None if nothing is left to pay.
    """
    invoice = world.store.invoices.first("recovery_token = ?", token)
    sub = world.store.subscriptions.get(invoice.subscription_id or "") if invoice else None
    if invoice is None or sub is None or invoice.status != "outstanding":
        return None
    due = sub.dunning and sub.dunning.invoice_id == invoice.id
    return (invoice, sub) if due else None


def pay_with(world: World, invoice: Invoice, sub: Subscription, form: CardForm) -> None:
    """Save a card and pay the owed amount with it. Raises CardFormError, CardRefusedError."""
    customer = world.owner(sub)
    card = accept(form, world.now())
    if card.charge_failure:
        raise CardRefusedError(card.charge_failure)
    cards.keep(customer, card)
    world.store.customers.put(customer)
    events.payment_method(world, "payment_method.updated", customer, None)
    collect(world, invoice, sub, customer, Recovery())


def note_declined(
    world: World, invoice: Invoice, sub: Subscription, form: CardForm, failure: tuple[str, str]
) -> None:
    """Record that another card was declined, and send payment.failed. The link remains valid."""
    customer = world.owner(sub)
    context = payment_context(
        "subscription_resume" if sub.status == "paused" else "recurring_billing", Recovery()
    )
    card = form.read(world.now())[1]
    transaction = of_invoice(world, invoice, customer, context, card=card, failure=failure)
    url = recovery_url(world, invoice)
    events.payment_failed(world, invoice, customer, transaction, recovery_url=url)


Saved = Literal["saved", "paid", "still_owed", "tried_too_often"]


def replace_card(world: World, customer: Customer, card: Card) -> Saved:
    """Make the card the default card, and charge it at once for an unpaid renewal."""
    _save_default(world, customer, card)
    return _collect_owed(world, customer)


def replace_card_in_portal(
    world: World, customer: Customer, card: Card, *, as_default: bool = True
) -> Saved:
    """Save a card. A new default card is charged for an unpaid renewal.

    That charge counts as a manual retry. If the day's retries are used up, the card is only saved.
    """
    if not as_default and customer.card:
        add_card(world, customer, card)
        return "saved"
    _save_default(world, customer, card)
    sub = world.current_subscription(customer)
    if sub and sub.status == "past_due":
        try:
            _spend_manual_retry(world, customer)
        except ApiError:
            return "tried_too_often"
    return _collect_owed(world, customer)


def add_card(world: World, customer: Customer, card: Card) -> None:
    """Save one more card. It is charged first only if it is the only one."""
    known = any(card.is_same(other) for other in customer.cards)
    cards.keep(customer, card, as_default=False)
    world.store.customers.put(customer)
    sub = world.current_subscription(customer)
    if sub and not known:
        events.payment_method(world, "payment_method.attached", customer, sub, card)


def _save_default(world: World, customer: Customer, card: Card) -> None:
    cards.keep(customer, card)
    world.store.customers.put(customer)
    events.payment_method(world, "payment_method.updated", customer, None)


def _collect_owed(world: World, customer: Customer) -> Saved:
    sub = world.current_subscription(customer)
    if sub is None or sub.status != "past_due":
        return "saved"
    invoice = outstanding_invoice(world, sub)
    return "paid" if collect(world, invoice, sub, customer, Recovery()) else "still_owed"


def void(world: World, invoice: Invoice) -> None:
    """Nullify an unpaid invoice. Nobody owes it any more, so a past due subscription becomes
    active.

    Raises ApiError: no_outstanding_invoice, and invalid_subscription_status for the invoice of a
    subscription that waits for its first payment.
    """
    if invoice.status != "outstanding":
        raise ApiError("no_outstanding_invoice", f"The invoice is {invoice.status}")
    sub = world.store.subscriptions.get(invoice.subscription_id or "")
    if sub and sub.status == "pending_payment":
        raise ApiError("invalid_subscription_status", "Cancel the pending subscription instead")
    customer = world.customer(invoice.customer_id)
    close_unpaid(world, invoice, customer, "void")
    if sub is None or sub.dunning is None or sub.dunning.invoice_id != invoice.id:
        return
    was_past_due = sub.status == "past_due"
    sub.dunning = None
    sub.status = "active" if was_past_due else sub.status
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    if was_past_due:
        events.state_changed(world, customer, "subscription_activated")


def retry(world: World, sub: Subscription) -> tuple[Invoice, bool]:
    """Charge the default card again for an overdue renewal. Returns the invoice, and whether it was
    paid.

    Does not change the times of the automatic retries. Raises ApiError: no_outstanding_invoice,
    rate_limited after the last retry of the day.
    """
    customer = world.owner(sub)
    invoice = outstanding_invoice(world, sub)
    _spend_manual_retry(world, customer)
    return invoice, collect(world, invoice, sub, customer, Recovery())


def retry_transaction(world: World, transaction: Transaction) -> tuple[Invoice, bool]:
    """Try a failed renewal again, like `retry`. The failed transaction does not change.

    Raises ApiError: no_outstanding_invoice if the transaction is not a failed renewal that is still
    owed, and rate_limited.
    """
    sub = world.store.subscriptions.get(transaction.subscription_id or "")
    owed_here = sub and sub.dunning and sub.dunning.invoice_id == transaction.invoice_id
    if sub is None or not owed_here or transaction.status != "failed":
        raise ApiError("no_outstanding_invoice", "The transaction is not a renewal that is owed")
    return retry(world, sub)


def _spend_manual_retry(world: World, customer: Customer) -> None:
    """Count a manual retry. Raises ApiError: rate_limited, without a time to wait."""
    today, spent = world.now().date(), customer.manual_retries
    count = spent.count if spent and spent.day == today else 0
    if count >= MANUAL_RETRIES_A_DAY:
        raise ApiError(
            "rate_limited", f"A payment can be retried {MANUAL_RETRIES_A_DAY} times a day"
        )
    customer.manual_retries = ManualRetries(day=today, count=count + 1)
    world.store.customers.put(customer)


def reactivate(world: World, sub: Subscription) -> tuple[Invoice, bool]:
    """Charge a past due subscription again, or start a canceled one again. Returns whether it was
    paid.

    A declined attempt to start again leaves a void invoice, and the subscription remains canceled.
    Raises ApiError: invalid_subscription_status, already_has_active_subscription,
    no_payment_method, subscription_has_open_dispute, rate_limited.
    """
    customer = world.owner(sub)
    if sub.status == "past_due":
        check_undisputed(world, sub)
        return retry(world, sub)
    if sub.status != "canceled" or sub.period_start is None:
        raise ApiError("invalid_subscription_status", f"Subscription is {sub.status}")
    if sub.price_id is None:
        raise ApiError(
            "invalid_subscription_status", "A free subscription is not reactivated: create one"
        )
    check_undisputed(world, sub)
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
