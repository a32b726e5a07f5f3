"""Which plans are sold, and in which currency.

A plan is sold if all its features can be used through this project.

A credits or balance plan sells a pool that this project never uses, and seats and quotas cannot be
set here. A user with such a plan would pay for something that cannot be used.
"""

from collections.abc import Collection

from billing.commet.answers import Plan, PlanFeature, PlanPrice

_MODELS = ("metered", None)  # None: the plan has no metered feature
_TYPES = ("usage", "boolean")


def unsupported(plan: Plan) -> str | None:
    """Returns what the plan has that is not supported: a consumption model or a type of feature.

    Returns None for a plan that is sold. Features that are not enabled do not count.
    """
    if plan.consumption_model not in _MODELS:
        return plan.consumption_model
    if any(price.included_credits is not None for price in plan.prices):
        return "credits"
    if any(price.included_balance is not None for price in plan.prices):
        return "balance"
    types = (feature.type for feature in plan.features if feature.enabled)
    return next((each for each in types if each not in _TYPES), None)


def unoffered(plans: Collection[Plan], charged: Collection[tuple[str, str]]) -> set[str]:
    """Returns the currencies in which Commet charges plans that list no price in them.

    `charged` has ids of plans, each with a currency. Ids that are not in `plans` are ignored.
    """
    listed = {
        plan.id: {each.currency.lower() for price in plan.prices for each in price.regional_prices}
        for plan in plans
    }
    return {
        currency for plan_id, currency in charged if currency not in listed.get(plan_id, {currency})
    }


def base_currency(
    plans: Collection[Plan], charged: Collection[tuple[str, str]], configured: str
) -> str:
    """Returns the currency of the plans' plain prices, which Commet does not name.

    It is the currency in which Commet charges a plan that lists no price in that currency. It is
    `configured` while Commet has charged nobody in this way, or in several such currencies.
    """
    found = unoffered(plans, charged)
    return next(iter(found)) if len(found) == 1 else configured


def price_in(price: PlanPrice, currency: str) -> int | None:
    """Returns the plan's listed price in this currency, in minor units; None if there is none."""
    listed = (each.price for each in price.regional_prices if each.currency.lower() == currency)
    return next(listed, None)


def overage_in(feature: PlanFeature, currency: str) -> int | None:
    """Returns the listed price of overage in this currency, in the rate scale; None if none is."""
    listed = (
        each.overage_unit_price
        for each in feature.regional_prices
        if each.currency.lower() == currency
    )
    return next(listed, None)
