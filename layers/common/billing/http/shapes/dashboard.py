"""What a user used and owes."""

from typing import Annotated

from pydantic import Field

from billing.http.json_schema import one_of
from billing.http.shapes.base import (
    Amount,
    Currency,
    Day,
    FeatureReplyCode,
    Interval,
    PlanRefReply,
    Reply,
    SubscriptionStatus,
    Time,
    UsagePeriodReply,
)
from billing.http.shapes.limits import SpendingReply
from billing.http.shapes.signing_in import UserReply


class CurrentPeriod(Reply):
    """The period that is paid."""

    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends, and is renewed unless canceled.",
        examples=["2026-04-01T00:00:00.000Z"],
    )
    days_remaining: int = Field(
        description="How many days are left, the begun one included.", examples=[12]
    )


class ScheduledChangeReply(Reply):
    """A change of plan that is booked."""

    plan: PlanRefReply
    interval: Interval | None = Field(
        description="How often the new price is charged. Null for a free plan."
    )
    effective_at: Time | None = Field(
        description="When the plan changes. Null where the provider has not said it."
    )


class SubscriptionReply(Reply):
    """A user's subscription."""

    id: str = Field(description="The subscription's id.", examples=["sub_3Vx9"])
    status: SubscriptionStatus = Field(description="The subscription's state.")
    plan: PlanRefReply
    current_period: CurrentPeriod | None = Field(
        description="The period that is paid. Null while nothing is paid yet."
    )
    cancel_at_period_end: bool = Field(description="Whether it ends with the current period.")
    scheduled_change: ScheduledChangeReply | None = Field(
        description="The change of plan that is booked. Null where none is."
    )
    trial_ends_at: Time | None = Field(
        description="When the trial ends or ended. Null where there was none."
    )
    as_of: Time = Field(description="The time of our newest information about the subscription.")


class OverageReply(Reply):
    """Usage beyond the included quantity."""

    enabled: bool = Field(
        description="Whether usage beyond the included quantity is sold.", examples=[True]
    )
    quantity: Amount = Field(
        description="The quantity beyond the included one, in the feature's unit.", examples=["0"]
    )
    unit_price: Amount | None = Field(
        description="The price of one unit, in units of `currency`. Null where there is none.",
        examples=["0.002"],
    )
    cost: Amount | None = Field(
        description="The price of `quantity`, in units of `currency`. Null where the price is not"
        " known yet.",
        examples=["0.00"],
    )
    currency: Currency


class DailyUsage(Reply):
    """What was used on one day."""

    date: Day
    quantity: Amount = Field(description="The quantity, in the feature's unit.", examples=["35"])


class UsageReply(Reply):
    """What a user used of one metered feature in the running period."""

    feature: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    period: UsagePeriodReply
    used: Amount = Field(description="The quantity used in the period.", examples=["420"])
    held: Amount = Field(
        description="The quantity of all held reservations; not part of `used`.", examples=["0"]
    )
    carried: Amount = Field(
        description="The part of `used` that was counted in an earlier period and is billed in"
        " this one.",
        examples=["0"],
    )
    used_before: Amount = Field(
        description="Used in earlier free periods that were left early. It lowers `remaining`, and"
        " is not part of `used`.",
        examples=["0"],
    )
    included: Amount | None = Field(
        description="The quantity that the price includes. Null where the feature is unlimited.",
        examples=["1000"],
    )
    remaining: Amount | None = Field(
        description="What is left of `included`. Null where the feature is unlimited.",
        examples=["580"],
    )
    unlimited: bool = Field(description="Whether any quantity is included.")
    overage: OverageReply
    daily: list[DailyUsage] = Field(description="The quantity by day, for the days with usage.")


class PaymentTroubleReply(Reply):
    """A payment that went wrong and is not settled."""

    kind: Annotated[str, one_of("failed_payment", "dispute", "unpaid_invoice")] = Field(
        description="What went wrong."
    )
    since: Time = Field(description="When it went wrong.")
    amount: Amount | None = Field(
        description="How much it is about, in units of `currency`. Null where the provider has not"
        " said it.",
        examples=["34.51"],
    )
    currency: str | None = Field(
        description="The currency of `amount`, an ISO 4217 code in lower case. Null without"
        " `amount`.",
        examples=["usd"],
    )
    recovery_url: str | None = Field(
        description="Of a failed payment: the page on which it can be paid. Only for the user:"
        " whoever has the address can pay there.",
        examples=["https://commet.co/recover/rec_8Lm1"],
        json_schema_extra={"format": "uri"},
    )


class DebtReply(Reply):
    """What a user owes for usage of an earlier plan."""

    amount: Amount = Field(description="How much, in units of `currency`.", examples=["12.40"])
    currency: Currency


class FeatureReply(Reply):
    """A feature that a plan has or does not have. It is not metered."""

    feature: str = Field(
        description="The feature's code in the catalogue.", examples=["priority_support"]
    )
    name: str = Field(description="The feature's name, for people.", examples=["Priority support"])
    allowed: bool = Field(description="Whether the user has the feature now.", examples=[True])


class Dashboard(Reply):
    """What a user has, used and owes."""

    user: UserReply
    access: bool = Field(description="Whether the user may use the product now.", examples=[True])
    subscription: SubscriptionReply | None = Field(
        description="The user's subscription. Null where there is none."
    )
    payment: PaymentTroubleReply | None = Field(
        description="Null where nothing has to be settled. While a payment is disputed, no checkout"
        " can be started."
    )
    debt: DebtReply | None = Field(
        description="What the user owes for usage of an earlier plan. Until it is paid, no checkout"
        " can be started: `POST /checkout` answers 402 `debt_open` with the page to pay on."
    )
    usage: list[UsageReply] = Field(description="The metered features, with what was used.")
    features: list[FeatureReply] = Field(
        description="The boolean features. `allowed` is false without access."
    )
    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")
