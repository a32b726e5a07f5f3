"""Plans and their prices."""

from typing import Annotated

from pydantic import Field

from billing.http.json_schema import known
from billing.http.shapes.base import Amount, Currency, FeatureReplyCode, Interval, Reply, Time


class PriceReply(Reply):
    """What a plan costs for each interval."""

    amount: Amount = Field(
        description="The price for one interval, in units of `currency`.", examples=["29.00"]
    )
    currency: Currency
    interval: Interval = Field(description="How often the price is charged.")
    is_default: bool = Field(description="Whether a checkout that names no interval takes it.")
    trial_days: int = Field(
        description="How many days are free before the first charge. 0 for a user who had a trial.",
        examples=[14],
    )


class OveragePrice(Reply):
    """What usage beyond the included quantity costs."""

    enabled: bool = Field(
        description="Whether usage beyond the included quantity is sold.", examples=[True]
    )
    unit_price: Amount | None = Field(
        description="The price of one unit, in units of `currency`. Null where there is none.",
        examples=["0.002"],
    )
    currency: Currency


class PlanFeatureReply(Reply):
    """What a plan gives of one feature."""

    code: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    type: Annotated[str, known("usage", "boolean", "seats", "quota")] = Field(
        description="How the feature is sold: metered (`usage`), or on and off (`boolean`)."
    )
    enabled: bool = Field(description="Whether the plan has the feature.", examples=[True])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    included: Amount | None = Field(
        description="The quantity that the price includes in each period. Null where the feature is"
        " unlimited or not metered.",
        examples=["1000"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage: OveragePrice | None = Field(
        description="What more than the included quantity costs. Null for a boolean feature."
    )


class PlanReply(Reply):
    """A plan that is sold."""

    id: str = Field(
        description="The plan's id, as a subscription's `plan.id` has it.", examples=["pln_5tKx"]
    )
    code: str = Field(description="The plan's code, for a checkout.", examples=["usage_pro"])
    name: str = Field(description="The plan's name, for people.", examples=["Usage Pro"])
    description: str | None = Field(
        description="What the plan is for. Null where the catalogue says nothing.",
        examples=["For products that grow with their users"],
    )
    is_free: bool = Field(description="Whether the plan costs nothing. It needs no payment method.")
    prices: list[PriceReply] = Field(description="The prices by interval. Empty for a free plan.")
    features: list[PlanFeatureReply] = Field(description="What the plan gives, by feature.")


class Plans(Reply):
    """The plans that anybody may choose."""

    as_of: Time = Field(description="When the billing provider last named the plans.")
    plans: list[PlanReply] = Field(description="In the order of the catalogue.")
