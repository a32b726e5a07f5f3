"""Checks, before anything is served, that the catalogue still has what was sold.

Stored subscriptions name plans and prices by id. If a plan is missing, every list with one of its
subscriptions fails. If a price or a used feature is missing, the next invoice is too low.
"""

from collections import Counter
from collections.abc import Iterator

from standin.catalogue import Catalogue, Plan
from standin.models import Subscription, meter_id
from standin.store import Store


class SoldGoneError(ValueError):
    """The catalogue does not fit the stored data. The message has one line for each problem."""


def check(store: Store, catalogue: Catalogue, currency: str) -> None:
    """Raises SoldGoneError if a stored subscription needs something that is missing or was changed.

    Amounts, names and included units may change.
    """
    subscribed: Counter[tuple[str, str]] = Counter()
    others: Counter[tuple[str, str]] = Counter()
    names: dict[str, str] = {}
    for sub in store.subscriptions.find(newest=False):
        if sub.custom_name is None:
            names[sub.plan_id] = sub.name
        (subscribed if sub.is_live else others).update(set(_problems(store, catalogue, sub)))
    lines = []
    for key in sorted(subscribed | others):
        plan_id, problem = key
        plan = catalogue.plan(plan_id)
        name = plan.name if plan else names.get(plan_id, plan_id)
        count = _count(subscribed[key], others[key])
        lines.append(f'plan "{name}" ({plan_id}) {problem}; {count}')
    invoice = store.invoices.first()
    if invoice and invoice.currency != currency:
        lines.append(f"prices are in {currency}, and invoices were written in {invoice.currency}")
    if lines:
        raise SoldGoneError("\n".join(f"  {line}" for line in lines))


def _count(subscribed: int, others: int) -> str:
    parts = [f"{subscribed} subscribed to it"] if subscribed else []
    parts += [f"{others} ended or not yet paid"] if others else []
    return ", ".join(parts)


def _problems(store: Store, catalogue: Catalogue, sub: Subscription) -> Iterator[tuple[str, str]]:
    """Yields the ids of plans, each with its problem for this subscription."""
    yield from _mismatch(catalogue, sub.plan_id, sub.price_id, sub.billing_interval)
    for next_one in (sub.scheduled_change, sub.plan_checkout) if sub.is_live else ():
        if next_one:
            yield from _mismatch(catalogue, next_one.plan_id, next_one.price_id)
    plan = catalogue.plan(sub.plan_id)
    if plan and sub.is_live:
        for code in _used(store, sub):
            feature = catalogue.feature(code)
            if plan.feature(code) is None or feature is None or feature.type != "usage":
                yield plan.id, f'has lost the feature "{code}", which was used in this period'


def _mismatch(
    catalogue: Catalogue, plan_id: str, price_id: str | None, interval: str | None = None
) -> Iterator[tuple[str, str]]:
    plan = catalogue.plan(plan_id)
    if plan is None or plan.id != plan_id:
        yield plan_id, "is gone"
    elif price_id is None:
        if not plan.is_free:
            yield plan_id, "was free and is not any more"
    else:
        yield from _price_mismatch(plan, price_id, interval)


def _price_mismatch(plan: Plan, price_id: str, interval: str | None) -> Iterator[tuple[str, str]]:
    price = next((p for p in plan.prices if p.id == price_id), None)
    if plan.is_free:
        yield plan.id, "was paid for and is free now"
    elif price is None:
        yield plan.id, f"has lost its price {price_id}"
    elif interval and price.billing_interval != interval:
        yield plan.id, f"has its price {price_id} {price.billing_interval}, not {interval}"


def _used(store: Store, sub: Subscription) -> list[str]:
    """Returns the codes of features that were used in the running allowance."""
    if sub.allowance is None:
        return []
    first = meter_id(sub.allowance.id, "")
    after = first[:-1] + chr(ord(first[-1]) + 1)
    meters = store.meters.find("id >= ? AND id < ?", first, after)
    return [meter.id.removeprefix(first) for meter in meters if meter.used > 0]
