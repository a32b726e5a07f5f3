"""Checkout, and what a change of plan does."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from billing.field_types import Text, Url
from billing.http.shapes.base import (
    Amount,
    Currency,
    FeatureReplyCode,
    Interval,
    NamedUser,
    PlanRefReply,
    Reply,
    Request,
    SubscriptionStatus,
    Time,
)

CONFIRMATION_PATTERN = r"^chg_[A-Za-z0-9_-]{10,40}$"


class Checkout(Request):
    """The plan that a user chose."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"plan_code": "usage_pro", "billing_interval": "monthly"}]}
    )

    plan_code: Annotated[Text, Field(min_length=1, max_length=100)] = Field(
        description="The code of the plan, from `GET /plans`.", examples=["usage_pro"]
    )
    billing_interval: Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")] | None = Field(
        default=None,
        description="The interval of the price. Left out: the plan's default price.",
        examples=["monthly"],
    )
    success_url: Url | None = Field(
        default=None,
        description="The page that people return to after they paid. Its origin must be an allowed"
        " one. Left out: the product's own page.",
        examples=["https://app.example.com/welcome"],
        json_schema_extra={"format": "uri"},
    )
    user_id: NamedUser = None
    confirmation: Annotated[str, Field(pattern=CONFIRMATION_PATTERN)] | None = Field(
        default=None,
        description="Of a change of plan that was shown: the same request with it performs the"
        " change, once, however often it is sent.",
        examples=["chg_4f9a1c7be20d"],
    )


class CheckoutSubscription(Reply):
    """The subscription that a checkout made or continues."""

    id: str = Field(description="The subscription's id.", examples=["sub_3Vx9"])
    status: SubscriptionStatus = Field(
        description="The subscription's state. `pending_payment` until the checkout is paid.",
        examples=["pending_payment"],
    )
    plan: PlanRefReply


class PlanTermsReply(Reply):
    """What a plan gives of one feature."""

    enabled: bool = Field(description="Whether the plan has the feature.", examples=[True])
    included: Amount | None = Field(
        description="The quantity included in each period. Null where it is unlimited or not"
        " metered.",
        examples=["1000"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage_unit_price: Amount | None = Field(
        description="The price of one unit beyond the included quantity. Null where there is no"
        " overage.",
        examples=["0.002"],
    )


class FeatureChangeReply(Reply):
    """How a change of plan changes one feature."""

    code: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    change: Literal["gained", "lost", "changed", "same"] = Field(
        description="What happens to the feature."
    )
    before: PlanTermsReply
    after: PlanTermsReply
    used: Amount = Field(description="The quantity used in the running period.", examples=["420"])
    used_beyond: Amount = Field(
        description="How much of what was used is more than the new plan includes.",
        examples=["0"],
    )


class PlanChangeReply(Reply):
    """A change of plan: what it means, or what became of it."""

    state: Literal["preview", "completed", "scheduled"] = Field(
        description="`preview`: nothing has changed yet. `completed`: the plan has changed."
        " `scheduled`: it changes at `effective_at`."
    )
    currency: Currency
    due_now: Amount | None = Field(
        description="Of a preview: what is charged once it is confirmed: the price, usage beyond"
        " what was included, and tax, less the credit. Of a completed change: what was charged. In"
        " units of `currency`.",
        examples=["17.50"],
    )
    credit: Amount | None = Field(
        description="What is given back for the rest of the old period, in units of `currency`.",
        examples=["11.50"],
    )
    effective_at: Time | None = Field(
        description="When the change takes effect. Null where it takes effect at once, or has."
    )
    then_amount: Amount | None = Field(
        description="The price of each period from then on, in units of `currency`.",
        examples=["29.00"],
    )
    then_interval: Interval | None = Field(
        description="How often `then_amount` is charged. Null for a free plan."
    )
    features: list[FeatureChangeReply] = Field(
        description="The features that the plans give differently. Empty unless a preview."
    )
    confirmation: str | None = Field(
        description="Send it in the same request to perform the change. Null unless a preview.",
        examples=["chg_4f9a1c7be20d"],
    )
    confirmation_expires_at: Time | None = Field(
        description="Until when `confirmation` is good: ten minutes. Null unless a preview."
    )


class CheckoutReply(Reply):
    """A checkout that was started, or a change of plan."""

    subscription: CheckoutSubscription
    checkout_url: str | None = Field(
        description="The page on which the user pays. Null where nothing has to be paid there.",
        examples=["https://commet.co/checkout/chk_9sQm"],
        json_schema_extra={"format": "uri"},
    )
    change: PlanChangeReply | None = Field(
        description="Of a user who has a subscription: the change of its plan. Null otherwise."
    )
