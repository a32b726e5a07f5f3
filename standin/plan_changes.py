"""Changing the plan of a subscription: now with proration, at the end of the period, or by paying.

A longer interval takes effect now, a shorter one at the end of the period. With the same interval,
the plan's `sortOrder` decides: an upgrade takes effect now, a downgrade at the end. A change to a
free plan always waits. A change from a free plan always goes through a checkout.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, cast

from standin import cards, events
from standin.cards import CardForm, CardRefusedError, accept
from standin.catalogue import Plan, Price
from standin.charges import charge
from standin.clock import DAY, midnight
from standin.errors import ApiError, invalid
from standin.events import PlanChangeAmounts
from standin.ids import new_secret
from standin.invoices import base_line, close_unpaid, credit_line, draw_up, overage_lines
from standin.models import (
    Customer,
    Invoice,
    InvoiceLine,
    PlanCheckout,
    ScheduledChange,
    Subscription,
)
from standin.periods import open_period
from standin.tax import tax_on
from standin.transactions import check_undisputed, has_open_dispute
from standin.world import World

INTERVALS = ("weekly", "monthly", "quarterly", "semiannual", "yearly")


@dataclass(frozen=True, slots=True)
class Target:
    """The plan and price to change to. A free plan has no price."""

    plan: Plan
    price: Price | None

    @property
    def billing_interval(self) -> str | None:
        """None for free plans."""
        return self.price.billing_interval if self.price else None

    @property
    def amount(self) -> int:
        """The full price, in the minor unit."""
        return self.price.price if self.price else 0


@dataclass(frozen=True, slots=True)
class Quote:
    """The costs of a change now, in the minor unit. `overage` bills the usage so far."""

    target: Target
    credit: int
    overage: list[InvoiceLine]
    tax: int
    days_remaining: int
    total_days: int
    is_upgrade: bool

    @property
    def credit_applied(self) -> int:
        """The part of the credit that this invoice uses; the rest is not paid out."""
        return _credit_applied(self.credit, self._gross)

    @property
    def net(self) -> int:
        """What is charged, before tax."""
        return self._gross - self.credit_applied

    @property
    def total(self) -> int:
        """What is charged, tax included."""
        return self.net + self.tax

    @property
    def _gross(self) -> int:
        return self.target.amount + sum(line.amount for line in self.overage)


def _credit_applied(credit: int, gross: int) -> int:
    return min(credit, gross)


@dataclass(frozen=True, slots=True)
class Changed:
    """The outcome of a requested change.

    `declined`: the charge failed, `invoice` is void and nothing else has changed.
    """

    outcome: Literal["completed", "scheduled", "requires_checkout", "declined"]
    sub: Subscription
    previous: Plan
    quote: Quote | None = None
    invoice: Invoice | None = None


When = Literal["now", "period_end", "checkout"]


def resolve(
    world: World,
    sub: Subscription,
    plan_id: str | None,
    interval: str | None,
    *,
    fields: tuple[str, str] = ("newPlanId", "newBillingInterval"),
) -> Target:
    """Returns the requested plan and price. If one is not named, it does not change.

    `fields` are the request's names for the two. Raises ApiError: subscription_not_active,
    invalid_subscription_status, no_change_requested, plan_not_found, plans_not_in_same_group,
    no_prices_configured, price_not_found, free_plan_change_not_supported.
    """
    _check_changeable(sub)
    current = world.plan(sub)
    plan = _target_plan(world, current, plan_id, fields[0])
    if plan.is_free and interval is not None:
        raise ApiError(
            "free_plan_change_not_supported",
            "A free plan has no billing interval",
            param=fields[1],
        )
    price = None if plan.is_free else _target_price(plan, sub, interval, fields[1])
    target = Target(plan, price)
    if plan.id == sub.plan_id and target.billing_interval == sub.billing_interval:
        raise ApiError(
            "no_change_requested", "The subscription already has this plan and billing interval"
        )
    return target


def offers(world: World, sub: Subscription) -> list[Target]:
    """Returns the possible changes, in the order of the plans. Leaves out the change that is
    booked.
    """
    try:
        _check_changeable(sub)
    except ApiError:
        return []
    if has_open_dispute(world, sub):
        return []
    current, booked = world.plan(sub), sub.scheduled_change
    plans = sorted(world.catalogue.plans, key=lambda plan: plan.sort_order)
    reachable = [p for p in plans if p is current or (p.is_public and same_group(p, current))]
    targets = [target for plan in reachable for target in _ways_to_pay(plan)]
    taken = {(sub.plan_id, sub.billing_interval)}
    if booked:
        taken.add((booked.plan_id, booked.billing_interval))
    return [t for t in targets if (t.plan.id, t.billing_interval) not in taken]


def _ways_to_pay(plan: Plan) -> list[Target]:
    if plan.is_free:
        return [Target(plan, None)]
    return [Target(plan, p) for p in plan.prices if p.billing_interval in INTERVALS]


def _check_changeable(sub: Subscription) -> None:
    if sub.status not in {"active", "trialing"}:
        raise ApiError("subscription_not_active", f"Subscription is {sub.status}")
    if sub.cancellation or sub.pause or sub.billing_interval == "one_time":
        why = (
            "is scheduled for cancellation"
            if sub.cancellation
            else "has a scheduled pause"
            if sub.pause
            else "is paid once"
        )
        raise ApiError("invalid_subscription_status", f"Subscription {why}")


def _target_plan(world: World, current: Plan, plan_id: str | None, field: str) -> Plan:
    if plan_id is None:
        return current
    plan = world.catalogue.plan(plan_id)
    if plan is None or plan.id != plan_id:
        raise ApiError("plan_not_found", "Plan not found", param=field)
    if plan.id != current.id and not same_group(plan, current):
        raise ApiError(
            "plans_not_in_same_group", "The plans are not in the same plan group", param=field
        )
    return plan


def same_group(one: Plan, other: Plan) -> bool:
    """Whether customers may move between two plans."""
    return one.plan_group_id is not None and one.plan_group_id == other.plan_group_id


def _target_price(plan: Plan, sub: Subscription, interval: str | None, field: str) -> Price:
    if not plan.prices:
        raise ApiError("no_prices_configured", "The plan has no prices")
    price = plan.price_for(interval or sub.billing_interval)
    if price is None:
        raise ApiError("price_not_found", "The plan has no price for that interval", param=field)
    if price.billing_interval not in INTERVALS:
        raise invalid(field, "must be a recurring interval")
    return price


def when(world: World, sub: Subscription, target: Target) -> When:
    """When a change takes effect."""
    current = world.plan(sub)
    if target.price is None and sub.price_id is not None:
        return "period_end"
    if sub.price_id is None:
        return "now" if target.price is None else "checkout"
    step = _rank(target.billing_interval) - _rank(sub.billing_interval)
    if step == 0:
        step = target.plan.sort_order - current.sort_order
    # Plans of the same rank: the change is no downgrade, so it takes effect now.
    return "now" if step >= 0 else "period_end"


def _rank(interval: str | None) -> int:
    return INTERVALS.index(interval or "monthly")


def quote(world: World, sub: Subscription, target: Target) -> Quote:
    """Returns the costs of a change now: the full new price, less the rest of the old period.

    Days are whole days, including today: the old period ends today and the new one begins.
    """
    remaining, total = _days(world, sub)
    # A trial has cost nothing, so there is no credit.
    effective = 0 if sub.status == "trialing" else world.price(sub)
    credit, overage = _share(effective, remaining, total), overage_lines(world, sub)
    gross = target.amount + sum(line.amount for line in overage)
    return Quote(
        target=target,
        credit=credit,
        overage=overage,
        tax=tax_on(world, gross - _credit_applied(credit, gross)),
        days_remaining=remaining,
        total_days=total,
        is_upgrade=target.plan.sort_order > world.plan(sub).sort_order
        or (target.plan.id == sub.plan_id and when(world, sub, target) == "now"),
    )


def _days(world: World, sub: Subscription) -> tuple[int, int]:
    if sub.period_start is None or sub.period_end is None:
        raise LookupError(f"subscription {sub.id} has no period")
    total = max(1, (sub.period_end - sub.period_start - sub.paused_for) // DAY)
    remaining = (sub.period_end - midnight(world.now())) // DAY
    return max(0, min(remaining, total)), total


def _share(amount: int, days: int, of_days: int) -> int:
    exact = Decimal(amount) * days / of_days
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def preview(
    world: World, sub: Subscription, plan_id: str, interval: str | None
) -> tuple[Quote, datetime]:
    """Returns the costs of a change, and when it takes effect: now.

    Raises the errors of `resolve`, and ApiError: plan_change_scheduled, for a change that waits.
    """
    target = resolve(world, sub, plan_id, interval, fields=("planId", "billingInterval"))
    if when(world, sub, target) == "period_end":
        raise ApiError(
            "plan_change_scheduled",
            "This change takes effect at the end of the current period",
            param="planId",
        )
    return quote(world, sub, target), world.now()


def change(
    world: World,
    sub: Subscription,
    plan_id: str | None,
    interval: str | None,
    *,
    success_url: str | None,
) -> Changed:
    """Change the plan now, book the change, or begin the checkout that it needs.

    Raises the errors of `resolve`, and ApiError: already_scheduled, no_payment_method,
    subscription_has_open_dispute.
    """
    if plan_id is None and interval is None:
        raise ApiError("no_change_requested", "Neither a plan nor a billing interval was given")
    target = resolve(world, sub, plan_id, interval)
    check_undisputed(world, sub)
    match when(world, sub, target):
        case "checkout":
            return _begin_checkout(world, sub, target, success_url)
        case "period_end":
            return _schedule(world, sub, target)
        case "now":
            return change_now(world, sub, target)


def change_now(world: World, sub: Subscription, target: Target) -> Changed:
    """Charge the new price less the credit, together with the usage so far. The period begins
    today.

    Raises ApiError: no_payment_method.
    """
    customer = world.owner(sub)
    asked = quote(world, sub, target)
    if asked.total and customer.card is None:
        raise ApiError("no_payment_method", "Customer has no payment method on file")
    previous, now = world.plan(sub), world.now()
    fresh = sub.model_copy(deep=True)
    _put_on(fresh, target)
    fresh.status = "active"
    fresh.anchor_day = now.day
    fresh.trial_ends_at = None
    fresh.updated_at = now
    open_period(fresh, midnight(now))
    invoice = _invoice(world, fresh, asked, previous)
    if invoice and not charge(world, invoice, customer, "plan_change", payable_later=False):
        close_unpaid(world, invoice, customer, "void")
        return Changed("declined", sub, previous, asked, invoice)
    if sub.scheduled_change:
        events.plan_change_revoked(world, sub, customer)
    world.store.subscriptions.put(fresh)
    amounts = PlanChangeAmounts(asked.credit_applied, target.amount, asked.total)
    events.plan_changed(world, fresh, customer, previous, amounts)
    if sub.status == "trialing" and invoice:
        events.trial_converted(world, fresh, customer)
        events.activated(world, fresh, customer, invoice)
        events.state_changed(world, customer, "trial_converted")
    else:
        events.state_changed(world, customer, "plan_change")
    return Changed("completed", fresh, previous, asked, invoice)


def _put_on(sub: Subscription, target: Target) -> None:
    sub.plan_id = target.plan.id
    sub.price_id = target.price.id if target.price else None
    sub.billing_interval = target.billing_interval
    sub.name = sub.custom_name or target.plan.name
    sub.scheduled_change = sub.plan_checkout = None


def _invoice(world: World, fresh: Subscription, asked: Quote, previous: Plan) -> Invoice | None:
    """Returns None for a change between free plans without overage: there is nothing to charge."""
    if asked.target.price is None and not asked.overage:
        return None
    lines = [base_line(world, fresh), *asked.overage]
    if asked.credit_applied:
        days = (asked.days_remaining, asked.total_days)
        lines.append(credit_line(previous.name, asked.credit_applied, *days))
    period = (fresh.period_start or world.now(), fresh.period_end or world.now())
    return draw_up(world, fresh, lines, kind="plan_change", period=period)


def _schedule(world: World, sub: Subscription, target: Target) -> Changed:
    same_interval = target.billing_interval == sub.billing_interval
    wanted = ScheduledChange(
        kind="plan_downgrade" if same_interval or target.price is None else "interval_change",
        plan_id=target.plan.id,
        price_id=target.price.id if target.price else None,
        billing_interval=target.billing_interval,
    )
    if sub.scheduled_change == wanted:
        raise ApiError("already_scheduled", "This plan change is already scheduled")
    customer = world.owner(sub)
    if sub.scheduled_change:
        events.plan_change_revoked(world, sub, customer)
    sub.scheduled_change = wanted
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    events.plan_change_scheduled(world, sub, customer)
    return Changed("scheduled", sub, world.plan(sub))


def take_effect(world: World, sub: Subscription) -> Plan:
    """Give the subscription the plan of its scheduled change. Returns the previous plan."""
    planned = sub.scheduled_change
    plan = world.catalogue.plan(planned.plan_id) if planned else None
    if planned is None or plan is None:
        raise LookupError(f"subscription {sub.id} has no scheduled change")
    previous = world.plan(sub)
    price = next((p for p in plan.prices if p.id == planned.price_id), None)
    _put_on(sub, Target(plan, price))
    return previous


def _begin_checkout(
    world: World, sub: Subscription, target: Target, success_url: str | None
) -> Changed:
    """Returns a link on which the change is paid. A repeated request for the same plan keeps
    the link.
    """
    wanted = PlanCheckout(
        plan_id=target.plan.id,
        price_id=cast("Price", target.price).id,
        success_url=success_url,
    )
    pending = sub.plan_checkout
    if pending is None or (pending.plan_id, pending.price_id) != (wanted.plan_id, wanted.price_id):
        sub.checkout_token = new_secret("tok")
    sub.plan_checkout = wanted
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    return Changed("requires_checkout", sub, world.plan(sub))


def checkout_target(world: World, sub: Subscription) -> Target | None:
    """Returns the target of the open checkout of a plan change; None if there is none."""
    pending = sub.plan_checkout
    plan = world.catalogue.plan(pending.plan_id) if pending else None
    if pending is None or plan is None:
        return None
    price = next((p for p in plan.prices if p.id == pending.price_id), None)
    return Target(plan, price) if price else None


def pay_checkout(world: World, sub: Subscription, form: CardForm) -> Changed:
    """Pay the change from a free plan. Raises CardFormError, CardRefusedError."""
    target = checkout_target(world, sub)
    if target is None:
        raise LookupError(f"subscription {sub.id} has no plan change to pay")
    customer: Customer = world.owner(sub)
    card = accept(form, world.now())
    if card.charge_failure:
        raise CardRefusedError(card.charge_failure)
    cards.keep(customer, card)
    world.store.customers.put(customer)
    events.payment_method(world, "payment_method.attached", customer, sub)
    return change_now(world, sub, target)
