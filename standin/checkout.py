"""Hosted checkouts: a first payment, or the payment a plan change needs."""

from dataclasses import dataclass

from standin import plan_changes, subscriptions
from standin.cards import CardForm
from standin.catalogue import Plan, Price
from standin.models import Subscription
from standin.tax import with_tax
from standin.world import World


@dataclass(frozen=True, slots=True)
class Order:
    """The content of an open checkout."""

    plan: Plan
    price: Price
    trial_days: int
    due: int
    """The amount that is charged now, with tax, in the minor unit."""


def order(world: World, sub: Subscription) -> Order | None:
    """Returns the order to pay; None if it is paid or the subscription has ended."""
    if sub.status == "pending_payment":
        plan = world.plan(sub)
        price = next(p for p in plan.prices if p.id == sub.price_id)
        due = 0 if sub.trial_days else with_tax(world, price.price)
        return Order(plan, price, sub.trial_days, due)
    target = plan_changes.checkout_target(world, sub) if sub.has_access else None
    if target is None or target.price is None:
        return None
    return Order(target.plan, target.price, 0, with_tax(world, target.price.price))


def success_url(sub: Subscription) -> str | None:
    """Returns where the buyer goes after paying. Read it before payment, because a paid plan
    change deletes it.
    """
    return sub.plan_checkout.success_url if sub.plan_checkout else sub.success_url


def pay(world: World, sub: Subscription, form: CardForm) -> None:
    """Pay the result of `order`. Raises CardFormError or CardRefusedError, and changes nothing
    then.
    """
    if sub.status == "pending_payment":
        subscriptions.pay_checkout(world, sub, form)
    else:
        plan_changes.pay_checkout(world, sub, form)


def note_declined(
    world: World, sub: Subscription, form: CardForm, failure: tuple[str, str]
) -> None:
    """Record a declined first payment. A declined plan change has no invoice yet."""
    if sub.status == "pending_payment":
        card = form.read(world.now())[1]
        subscriptions.note_declined_checkout(world, sub, card, failure)
