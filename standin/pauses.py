"""Pausing a subscription, and resuming it.

An immediate pause keeps the rest of the period for later, so resuming costs nothing. A pause at the
end of the period skips the renewal, so resuming charges a new period. If that charge fails, the
subscription remains paused during dunning.
"""

from datetime import datetime, timedelta
from typing import Literal

from standin import events
from standin.charges import charge
from standin.clock import midnight
from standin.errors import ApiError, invalid
from standin.events import Recovery
from standin.ids import new_id
from standin.invoices import base_line, draw_up
from standin.models import Customer, Dunning, Invoice, Pause, Subscription
from standin.periods import close_allowance, open_period, period_end
from standin.subscriptions import bill_overage
from standin.world import World

Mode = Literal["immediate", "period_end"]


def create(world: World, sub: Subscription, mode: Mode, days: int | None) -> Subscription:
    """Pause now or at the end of the period, for some days or (None) until resumed by hand.

    Raises ApiError: invalid_subscription_status, already_scheduled.
    """
    _check_pausable(sub)
    now = world.now()
    effective_at = now if mode == "immediate" else sub.period_end or now
    sub.pause = Pause(
        status="scheduled",
        mode=mode,
        requested_at=now,
        effective_at=effective_at,
        resume_at=_resume_at(effective_at, days),
        was_trialing=sub.status == "trialing",
    )
    customer = world.owner(sub)
    if mode == "immediate":
        _begin(world, sub, customer, sub.pause)
        return sub
    sub.updated_at = now
    world.store.subscriptions.put(sub)
    events.pause_scheduled(world, sub, customer, sub.pause)
    return sub


def _check_pausable(sub: Subscription) -> None:
    if sub.pause:
        raise ApiError("already_scheduled", "Subscription is paused, or will be")
    recurring = sub.price_id is not None and sub.billing_interval != "one_time"
    if sub.status not in {"active", "trialing"} or not recurring:
        raise ApiError(
            "invalid_subscription_status",
            "Only paid recurring subscriptions that are active or trialing can be paused",
        )
    if sub.cancellation or sub.scheduled_change:
        raise ApiError(
            "invalid_subscription_status",
            "Resolve the scheduled cancellation or plan change before pausing",
        )


def _resume_at(effective_at: datetime, days: int | None) -> datetime | None:
    return None if days is None else effective_at + timedelta(days=days)


def update(world: World, sub: Subscription, days: int | None) -> Subscription:
    """Change how long a pause lasts, counted from the day it takes effect.

    Raises ApiError: invalid_subscription_status, validation_error when it would be over already.
    """
    pause = _pause_of(sub)
    resume_at = _resume_at(pause.effective_at, days)
    if resume_at and resume_at <= world.now():
        raise invalid("durationDays", "would end the pause in the past")
    pause.resume_at = resume_at
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.pause_updated(world, sub, world.owner(sub), pause)
    return sub


def _pause_of(sub: Subscription) -> Pause:
    if sub.pause is None:
        raise ApiError("invalid_subscription_status", "Subscription has no pause")
    return sub.pause


def revoke(world: World, sub: Subscription) -> Subscription:
    """Undo a pause before it takes effect. Raises ApiError: invalid_subscription_status."""
    if _pause_of(sub).status == "active":
        raise ApiError(
            "invalid_subscription_status", "The pause is in effect; resume the subscription instead"
        )
    sub.pause = None
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.pause_revoked(world, sub, world.owner(sub))
    return sub


def take_effect(world: World, sub: Subscription) -> None:
    """The period is over and a pause was scheduled: bill the usage, skip the renewal."""
    customer, pause = world.owner(sub), _pause_of(sub)
    if sub.status == "active":
        bill_overage(world, sub, customer)
    if sub.allowance:
        # The usage is billed. A new meter id prevents that it is billed again.
        close_allowance(sub)
        sub.allowance.id = new_id("alw")
    _begin(world, sub, customer, pause)


def _begin(world: World, sub: Subscription, customer: Customer, pause: Pause) -> None:
    pause.status = "active"
    sub.status = "paused"
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.paused(world, sub, customer, pause)
    events.state_changed(world, customer, "subscription_paused")


def resume(world: World, sub: Subscription) -> tuple[Invoice | None, bool]:
    """End a pause by hand. Returns the invoice, if there is one, and whether the user has access
    again.

    Raises ApiError: invalid_subscription_status, no_payment_method.
    """
    if sub.status != "paused":
        raise ApiError("invalid_subscription_status", f"Subscription is {sub.status}")
    customer = world.owner(sub)
    if _pause_of(sub).mode == "period_end" and customer.card is None:
        raise ApiError("no_payment_method", "Customer has no payment method on file")
    owed = world.store.invoices.get(sub.dunning.invoice_id) if sub.dunning else None
    if owed:
        return owed, collect(world, owed, sub, customer, Recovery())
    return attempt(world, sub, customer)


def attempt(world: World, sub: Subscription, customer: Customer) -> tuple[Invoice | None, bool]:
    """End a pause, at once or by charging a new period. A declined charge begins dunning."""
    pause = _pause_of(sub)
    if pause.mode == "immediate":
        _restore(world, sub, customer, pause)
        return None, True
    start = midnight(world.now())
    end = period_end(start, sub.billing_interval, start.day) or start
    invoice = draw_up(world, sub, [base_line(world, sub)], kind="resume", period=(start, end))
    paid = collect(world, invoice, sub, customer, None)
    if not paid:
        sub.dunning = Dunning(invoice_id=invoice.id, declined_at=world.now())
        world.store.subscriptions.put(sub)
    return invoice, paid


def collect(
    world: World,
    invoice: Invoice,
    sub: Subscription,
    customer: Customer,
    recovery: Recovery | None,
) -> bool:
    """Charge the invoice of a resume. If the charge succeeds, the new period begins today."""
    scheduled = recovery is not None and recovery.attempt > 0
    if not charge(
        world,
        invoice,
        customer,
        "subscription_resume",
        recovery=recovery,
        every_card=scheduled,
    ):
        events.resume_failed(world, sub, customer, invoice)
        return False
    _restart(world, sub, customer, invoice)
    if recovery:
        events.payment_recovered(world, invoice, customer)
    return True


def _restore(world: World, sub: Subscription, customer: Customer, pause: Pause) -> None:
    """Restore the days of period, allowance and trial that were left when the pause began."""
    away = world.now() - pause.effective_at
    if sub.period_end and sub.allowance:
        sub.period_end += away
        sub.allowance.end += away
        sub.anchor_day = sub.period_end.day
    if pause.was_trialing and sub.trial_ends_at:
        sub.trial_ends_at += away
    sub.paused_for += away
    sub.status = "trialing" if pause.was_trialing else "active"
    _end_pause(world, sub, customer, pause, None)


def _restart(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    pause, now = _pause_of(sub), world.now()
    sub.status = "active"
    sub.anchor_day = now.day
    sub.dunning = sub.trial_ends_at = None
    open_period(sub, midnight(now))
    if sub.period_start and sub.period_end:
        invoice.period_start, invoice.period_end = sub.period_start, sub.period_end
        world.store.invoices.put(invoice)
    _end_pause(world, sub, customer, pause, invoice)
    if pause.was_trialing:
        events.activated(world, sub, customer, invoice)


def _end_pause(
    world: World, sub: Subscription, customer: Customer, pause: Pause, invoice: Invoice | None
) -> None:
    sub.pause = None
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.resumed(world, sub, customer, pause.mode, invoice)
    events.state_changed(world, customer, "subscription_resumed")
