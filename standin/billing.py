"""Changes of a subscription when its time comes: renewals, trial ends, dunning, cancellations."""

from dataclasses import dataclass
from datetime import datetime

from standin import events, pauses, plan_changes
from standin.catalogue import Plan
from standin.charges import charge
from standin.clock import midnight
from standin.deadlines import DUNNING_DAYS, Deadline
from standin.events import PlanChangeAmounts, Recovery
from standin.invoices import base_line, close_unpaid, draw_up, overage_lines
from standin.models import Customer, Dunning, Invoice, InvoiceLine, Subscription
from standin.periods import open_allowance, open_period
from standin.subscriptions import bill_overage, end
from standin.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of processing a deadline, for the report of a test-clock run."""

    kind: str
    outcome: str
    invoice: Invoice | None = None


def process(  # noqa: PLR0911 - one line per kind of deadline
    world: World, sub: Subscription, deadline: Deadline
) -> Outcome:
    """Process one deadline of a subscription. Call this inside a transaction, at the time of
    the deadline.
    """
    customer = world.owner(sub)
    match deadline.kind:
        case "notice":
            return _notice(world, sub, customer)
        case "trial_end":
            return _convert_trial(world, sub, customer)
        case "cancellation":
            end(world, sub)
            return Outcome("billing_cycle", "canceled")
        case "renewal":
            return _renew(world, sub, customer)
        case "allowance_end":
            return _turn_allowance(world, sub, customer)
        case "dunning_retry":
            return _retry(world, sub, customer)
        case "pause":
            return _pause(world, sub)
        case "resume":
            return _resume(world, sub, customer)


def _notice(world: World, sub: Subscription, customer: Customer) -> Outcome:
    sub.upcoming_noted = True
    world.store.subscriptions.put(sub)
    if sub.status == "trialing":
        events.trial_event(world, "trial.will_end", sub, customer)
    else:
        events.invoice_upcoming(world, sub, customer)
    return Outcome("billing_cycle", "notified")


def _renew(world: World, sub: Subscription, customer: Customer) -> Outcome:
    """Bill the next period in advance and the last allowance in arrears."""
    if sub.period_end is None:
        raise LookupError(f"subscription {sub.id} has no period")
    if sub.scheduled_change and sub.scheduled_change.price_id is None:
        return _move_to_free(world, sub, customer, sub.period_end)
    lines = overage_lines(world, sub)
    previous = plan_changes.take_effect(world, sub) if sub.scheduled_change else None
    open_period(sub, sub.period_end)
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    if world.plan(sub).is_free:
        return Outcome("billing_cycle", "reset")
    invoice = _invoice_period(world, sub, [base_line(world, sub), *lines])
    paid = charge(world, invoice, customer, "recurring_billing")
    if previous:
        _tell_change(world, sub, customer, previous, invoice)
    if not paid:
        _fall_behind(world, sub, customer, invoice)
    return Outcome("billing_cycle", "paid" if paid else "declined", invoice)


def _move_to_free(world: World, sub: Subscription, customer: Customer, start: datetime) -> Outcome:
    """Bill the usage beyond the included units so far, then continue with the free plan."""
    bill_overage(world, sub, customer)
    previous = plan_changes.take_effect(world, sub)
    open_period(sub, start)
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    _tell_change(world, sub, customer, previous, None)
    return Outcome("billing_cycle", "reset")


def _pause(world: World, sub: Subscription) -> Outcome:
    pauses.take_effect(world, sub)
    return Outcome("billing_cycle", "paused")


def _resume(world: World, sub: Subscription, customer: Customer) -> Outcome:
    invoice, resumed = pauses.attempt(world, sub, customer)
    return Outcome("billing_cycle", "resumed" if resumed else "declined", invoice)


def _tell_change(
    world: World, sub: Subscription, customer: Customer, previous: Plan, invoice: Invoice | None
) -> None:
    """A scheduled change has taken effect; `invoice` is the new plan's first."""
    amounts = PlanChangeAmounts(
        charge=world.price(sub), total_charged=invoice.total if invoice and invoice.paid else 0
    )
    events.plan_changed(world, sub, customer, previous, amounts)
    events.state_changed(world, customer, "plan_change")


def _invoice_period(world: World, sub: Subscription, lines: list[InvoiceLine]) -> Invoice:
    if sub.period_start is None or sub.period_end is None:
        raise LookupError(f"subscription {sub.id} has no period")
    return draw_up(world, sub, lines, period=(sub.period_start, sub.period_end))


def _convert_trial(world: World, sub: Subscription, customer: Customer) -> Outcome:
    """The trial is over: charge the first period, which begins today."""
    if sub.trial_ends_at is None:
        raise LookupError(f"subscription {sub.id} has no trial")
    events.trial_event(world, "trial.expired", sub, customer)
    start = midnight(sub.trial_ends_at)
    sub.anchor_day = start.day
    sub.status = "active"
    if sub.scheduled_change and sub.scheduled_change.price_id is None:
        return _move_to_free(world, sub, customer, start)
    previous = plan_changes.take_effect(world, sub) if sub.scheduled_change else None
    open_period(sub, start)
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    invoice = _invoice_period(world, sub, [base_line(world, sub)])
    paid = charge(world, invoice, customer, "trial_conversion")
    if previous:
        _tell_change(world, sub, customer, previous, invoice)
    if not paid:
        _fall_behind(world, sub, customer, invoice)
        return Outcome("billing_cycle", "declined", invoice)
    events.activated(world, sub, customer, invoice)
    events.state_changed(world, customer, "trial_expired")
    return Outcome("billing_cycle", "paid", invoice)


def _turn_allowance(world: World, sub: Subscription, customer: Customer) -> Outcome:
    """A month within a longer interval ends: bill its overage, start the next allowance."""
    if sub.allowance is None:
        raise LookupError(f"subscription {sub.id} has no allowance")
    bill_overage(world, sub, customer)
    open_allowance(sub, sub.allowance.end)
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    return Outcome("billing_cycle", "reset")


def _fall_behind(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    if sub.dunning:
        # Retries of the older debt continue as planned. The newer invoice remains outstanding.
        return
    sub.status = "past_due"
    sub.dunning = Dunning(invoice_id=invoice.id, declined_at=world.now())
    world.store.subscriptions.put(sub)
    events.past_due(world, sub, customer, invoice)
    events.state_changed(world, customer, "past_due")


def _retry(world: World, sub: Subscription, customer: Customer) -> Outcome:
    if sub.dunning is None:
        raise LookupError(f"subscription {sub.id} is not in dunning")
    sub.dunning.attempts += 1
    attempt = sub.dunning.attempts
    invoice = world.store.invoices.get(sub.dunning.invoice_id)
    if invoice is None:
        raise LookupError(f"invoice {sub.dunning.invoice_id} is gone")
    world.store.subscriptions.put(sub)
    if collect(world, invoice, sub, customer, events.Recovery(attempt, len(DUNNING_DAYS))):
        return Outcome("dunning_retry", "paid", invoice)
    if attempt == len(DUNNING_DAYS):
        _give_up(world, sub, customer, invoice)
        return Outcome("dunning_retry", "canceled", invoice)
    return Outcome("dunning_retry", "declined", invoice)


def collect(
    world: World, invoice: Invoice, sub: Subscription, customer: Customer, recovery: Recovery
) -> bool:
    """Charge a declined invoice again. If that succeeds, the renewal or resume goes ahead."""
    if sub.status == "paused":
        return pauses.collect(world, invoice, sub, customer, recovery)
    # A manual retry charges only the default card. An automatic retry also tries the other cards.
    scheduled = recovery.attempt > 0
    paid = charge(
        world, invoice, customer, "recurring_billing", recovery=recovery, every_card=scheduled
    )
    if paid:
        _recover(world, sub, customer, invoice)
    return paid


def _recover(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    """The invoice is paid. The subscription is active again and keeps its billing day."""
    sub.status = "active"
    sub.dunning = None
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.payment_recovered(world, invoice, customer)
    events.state_changed(world, customer, "subscription_activated")


def _give_up(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    close_unpaid(world, invoice, customer, "uncollectible")
    events.payment_retry_failed(world, invoice, customer, "dunning_exhausted")
    now = world.now()
    sub.cancellation = None
    sub.canceled_at = now
    sub.ended_reason = "dunning_exhausted"
    end(world, sub)
