"""What a month's usage would cost on each plan."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from billing.field_types import FeatureCode, QuantityOrZero, Text
from billing.http.json_schema import known
from billing.http.shapes.base import (
    Amount,
    Currency,
    FeatureReplyCode,
    Interval,
    Reply,
    Request,
    Time,
)


class EstimatedUse(Request):
    """How much of one feature is used in a month."""

    feature: FeatureCode = Field(
        description="The code of a metered feature, from `GET /plans`.", examples=["api_calls"]
    )
    quantity: QuantityOrZero = Field(
        description="The quantity of a month, in the feature's unit.", examples=["1200000"]
    )


class Estimate(Request):
    """The usage of a month."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"usage": [{"feature": "api_calls", "quantity": "1200000"}], "interval": "monthly"}
            ]
        }
    )

    usage: Annotated[list[EstimatedUse], Field(min_length=1, max_length=100)] = Field(
        description="The quantity of each feature, once each. A feature that is left out is not"
        " used."
    )
    interval: Literal["weekly", "monthly", "quarterly", "semiannual", "yearly"] | None = Field(
        default=None,
        description="The interval whose costs are wanted. Left out: of each plan, the interval of"
        " its default price.",
        examples=["monthly"],
    )
    plan_code: Annotated[Text, Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="Only this plan, by its code. Left out: all plans.",
        examples=[None],
    )


class EstimatedLine(Reply):
    """What one feature would cost in one period of usage."""

    feature: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["API calls"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["call"],
    )
    quantity: Amount = Field(
        description="The quantity of one period that the estimate is made for.",
        examples=["1200000"],
    )
    included: Amount | None = Field(
        description="The quantity that the price includes. Null where the feature is unlimited.",
        examples=["1000000"],
    )
    overage_quantity: Amount = Field(
        description="The quantity beyond the included one.", examples=["200000"]
    )
    unit_price: Amount | None = Field(
        description="The price of one unit beyond, in units of `currency`. Null where there is"
        " none.",
        examples=["0.0004"],
    )
    cost: Amount = Field(
        description="The price of `overage_quantity`, in units of `currency`.", examples=["80.00"]
    )


class ObstacleReply(Reply):
    """Why a plan cannot be used for the quantities, or why its cost is not known."""

    reason: Annotated[str, known("limit_reached", "feature_not_in_plan", "price_unknown")] = Field(
        description="`limit_reached`: the feature stops at `included`. `feature_not_in_plan`: the"
        " plan does not have the feature. `price_unknown`: there is no price.",
        examples=["limit_reached"],
    )
    feature: str | None = Field(
        description="The feature's code. Null where the plan itself has no price.",
        examples=["api_calls"],
    )
    included: Amount | None = Field(
        description="Of `limit_reached`: the quantity at which the feature stops, in one period.",
        examples=["100000"],
    )


class PlanEstimate(Reply):
    """What the usage would cost on one plan. `obstacle` says why there are no sums."""

    id: str = Field(description="The plan's id.", examples=["pln_5tKx"])
    code: str = Field(description="The plan's code, for a checkout.", examples=["usage_pro"])
    name: str = Field(description="The plan's name, for people.", examples=["Usage Pro"])
    interval: Interval | None = Field(
        description="The interval of the sums: the wanted one, or the plan's own if its price is"
        " charged for a longer time. Null for a free plan if no interval was wanted."
    )
    periods: int = Field(
        description="How many periods of usage the interval has: 12 of `yearly`. What is included"
        " is given, and overage is billed, in each period.",
        examples=[1],
    )
    price: Amount | None = Field(
        description="The plan's price for the interval, in units of `currency`. Null with an"
        " `obstacle`, as the next two.",
        examples=["29.00"],
    )
    overage: Amount | None = Field(
        description="The cost of usage beyond what is included, in the whole interval.",
        examples=["80.00"],
    )
    total: Amount | None = Field(description="`price` and `overage` together.", examples=["109.00"])
    currency: Currency
    usage: list[EstimatedLine] = Field(
        description="How `overage` comes about: the asked features in one period. Empty with an"
        " `obstacle`."
    )
    obstacle: ObstacleReply | None = Field(
        description="Why the plan cannot be used for this. Null where it can.", examples=[None]
    )
    is_cheapest: bool = Field(
        description="Whether it is the cheapest of all plans that can be used. None is, if prices"
        " are in several currencies."
    )


class EstimateReply(Reply):
    """What the usage would cost on each plan, before tax and without trial days."""

    as_of: Time = Field(description="When the billing provider last named the plans.")
    plans: list[PlanEstimate] = Field(description="In the order of the catalogue.")
