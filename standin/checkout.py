"""Hosted checkouts: a first payment, or the payment a plan change needs."""

from dataclasses import dataclass

from standin import plan_changes, subscriptions
from standin.cards import CardForm
from standin.catalogue import Plan, Price
from standin.models import Subscription
from standin.world import World


@dataclass(frozen=True, slots=True)
class Order:
    """What an open checkout is about."""

    plan: Plan
    price: Price
    trial_days: int


def order(world: World, sub: Subscription) -> Order | None:
    """What there is to pay; None when nothing is, because it is paid or has ended."""
    if sub.status == "pending_payment":
        plan = world.plan(sub)
        price = next(p for p in plan.prices if p.id == sub.price_id)
        return Order(plan, price, sub.trial_days)
    target = plan_changes.checkout_target(world, sub) if sub.has_access else None
    return Order(target.plan, target.price, 0) if target and target.price else None


def success_url(sub: Subscription) -> str | None:
    """Where the buyer goes after paying; ask before, a paid plan change forgets it."""
    return sub.plan_checkout.success_url if sub.plan_checkout else sub.success_url


def pay(world: World, sub: Subscription, form: CardForm) -> None:
    """Pay what `order` says. Raises CardFormError, CardRefusedError: then nothing has changed."""
    if sub.status == "pending_payment":
        subscriptions.pay_checkout(world, sub, form)
    else:
        plan_changes.pay_checkout(world, sub, form)


def note_declined(world: World, sub: Subscription, failure: tuple[str, str]) -> None:
    """Tell of a declined payment. A plan change has no invoice before it is paid: no event."""
    if sub.status == "pending_payment":
        subscriptions.note_declined_checkout(world, sub, failure)
