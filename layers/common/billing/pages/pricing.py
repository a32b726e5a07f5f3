"""The page of prices, with the cost of a given usage on each plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aws_lambda_powertools.event_handler import Response
from pydantic import TypeAdapter, ValidationError

from billing import wiring
from billing.field_types import QuantityOrZero
from billing.http import estimate, plan_answers
from billing.http.plan_answers import metered
from billing.http.shapes.plans import PlanReply, Plans, PriceReply
from billing.pages import formats, forms, outlook, site
from billing.pages.site import app, word
from billing.subscriptions import mirror

_ORDER = ("weekly", "monthly", "quarterly", "semiannual", "yearly", "one_time")
_quantity = TypeAdapter(QuantityOrZero)


@dataclass(frozen=True, slots=True)
class Card:
    """A plan as the page shows it, with its price for the chosen interval."""

    plan: PlanReply
    price: PriceReply | None  # None: the plan is free
    is_current: bool


@app.get("/")
def show_prices() -> Response[Any]:
    """All plans that are sold, for visitors and for users."""
    visitor = site.visitor()
    found = plan_answers.plans(visitor, site.deadline())
    interval = _interval(found)
    current = mirror.current(wiring.database(), visitor.id) if visitor else None
    is_live = current is not None and current.status in mirror.LIVE
    cards = [
        Card(
            plan,
            estimate.price_of(plan, interval),
            is_current=is_live and current is not None and plan.id == current.plan_id,
        )
        for plan in found.plans
    ]
    asked, wrong = _asked(found)
    return site.page(
        "pricing.html",
        title=word("pricing.heading"),
        banner=outlook.trouble(),
        as_of=found.as_of if (wiring.now() - found.as_of).total_seconds() > 3600 else None,
        now=wiring.now(),
        cards=cards,
        has_subscription=is_live,
        interval=interval,
        intervals=_intervals(found),
        metered=(features := metered(found.plans)),
        units={each.name: formats.unit_beside(each.unit, each.name) for each in features},
        currency=currency_of(found.plans),
        typed={f"q_{code}": formats.quantity(quantity) for code, quantity in asked.items()}
        | {name: site.query(name) for name in wrong},
        wrong=wrong,
        rows=estimate.rows(found, asked, interval=interval) if asked and not wrong else [],
    )


def currency_of(plans: Sequence[PlanReply]) -> str:
    """The currency of the plans' prices, in which a free plan costs nothing."""
    prices = [price.currency for plan in plans for price in plan.prices]
    return prices[0] if prices else wiring.settings().currency


def _intervals(plans: Plans) -> list[str]:
    """Returns the intervals to choose from; none if no plan has several."""
    if all(len(plan.prices) < 2 for plan in plans.plans):
        return []
    offered = {price.interval for plan in plans.plans for price in plan.prices}
    return sorted(offered, key=lambda each: _ORDER.index(each) if each in _ORDER else len(_ORDER))


def _interval(plans: Plans) -> str:
    """Returns the interval in the address if it is offered, else the default of the plans."""
    asked = site.query("interval")
    if asked in _intervals(plans):
        return asked
    defaults = [price.interval for plan in plans.plans for price in plan.prices if price.is_default]
    return defaults[0] if defaults else "monthly"


def _asked(plans: Plans) -> tuple[Mapping[str, Decimal], Mapping[str, str]]:
    """Returns the quantities in the address by feature, and errors of those that are wrong."""
    asked: dict[str, Decimal] = {}
    wrong: dict[str, str] = {}
    for feature in metered(plans.plans):
        text = forms.number(site.query(f"q_{feature.code}"))
        if not text:
            continue
        try:
            asked[feature.code] = _quantity.validate_python(text)
        except ValidationError:
            wrong[f"q_{feature.code}"] = word("fields.quantity")
    return asked, wrong
