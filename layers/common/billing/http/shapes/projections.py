"""What a user's running period is likely to end with."""

from pydantic import Field

from billing.http.shapes.base import (
    Amount,
    Currency,
    Day,
    FeatureReplyCode,
    Interval,
    Reply,
    Time,
    UsagePeriodReply,
)


class LikelyQuantity(Reply):
    """The quantity of a feature at the end of the period."""

    low: Amount = Field(description="The lower end of the range.", examples=["880"])
    mid: Amount = Field(description="The middle of the range.", examples=["1020"])
    high: Amount = Field(description="The upper end of the range.", examples=["1160"])
    is_capped: bool = Field(
        description="Whether the feature stops at what is included, which is `high`.",
        examples=[False],
    )


class LikelyCost(Reply):
    """The cost of usage beyond what is included, at the end of the period."""

    low: Amount = Field(
        description="The lower end of the range, in units of `currency`.", examples=["0.00"]
    )
    high: Amount = Field(
        description="The upper end of the range, in units of `currency`.", examples=["16.00"]
    )
    is_capped: bool = Field(description="Whether the spend limit lowered `high`.", examples=[False])
    is_incomplete: bool = Field(
        description="Whether the sums leave out usage whose price is not known.", examples=[False]
    )


class FeatureProjection(Reply):
    """One metered feature in the running period."""

    feature: FeatureReplyCode
    name: str = Field(description="The feature's name, for people.", examples=["Storage"])
    unit: str | None = Field(
        description="What one unit is called. Null where the catalogue names none.",
        examples=["GB"],
    )
    period: UsagePeriodReply
    used: Amount = Field(description="The quantity used so far.", examples=["420"])
    pace: Amount | None = Field(
        description="The quantity of a day: the mean of the last seven complete days (UTC). Null"
        " while it is too early to tell: the period has fewer.",
        examples=["30"],
    )
    pace_before: Amount | None = Field(
        description="The same of the seven days before these, as far as they are known. Null with"
        " `pace`.",
        examples=["28"],
    )
    likely: LikelyQuantity | None = Field(
        description="The quantity at the end of the period. Null with `pace`."
    )
    passes_included_on: Day | None = Field(
        description="The day (UTC) on which usage passes the included quantity at this pace. Null"
        " where it does not, or has done so already.",
        examples=["2026-03-26"],
    )
    cost_so_far: Amount | None = Field(
        description="The cost of overage so far. Null where the price is not known yet.",
        examples=["0.00"],
    )
    likely_cost: LikelyCost | None = Field(
        description="The cost of overage at the end of the period. Null where overage is not sold,"
        " and with `pace`."
    )
    currency: Currency


class CostProjection(Reply):
    """The cost of usage beyond what is included, of all features."""

    so_far: Amount = Field(
        description="The cost so far, in units of `currency`, without held reservations.",
        examples=["12.40"],
    )
    is_incomplete: bool = Field(
        description="Whether `so_far` leaves out usage whose price is not known.", examples=[False]
    )
    likely: LikelyCost | None = Field(
        description="The cost at the end of the period. Null while it is too early to tell."
    )
    currency: Currency


class NextInvoiceReply(Reply):
    """The sums of the next invoice, before tax: the plan's price and the overage."""

    price: Amount = Field(
        description="The plan's price, in units of `currency`.", examples=["29.00"]
    )
    interval: Interval = Field(description="How often the price is charged.")
    so_far: Amount = Field(description="The total so far.", examples=["41.40"])
    low: Amount | None = Field(
        description="The lower end of the likely total. Null while it is too early to tell.",
        examples=["41.40"],
    )
    high: Amount | None = Field(
        description="The upper end of the likely total. Null with `low`.", examples=["57.40"]
    )
    is_incomplete: bool = Field(
        description="Whether the sums leave out usage whose price is not known.", examples=[False]
    )
    currency: Currency


class Projection(Reply):
    """What a user's running period is likely to end with."""

    as_of: Time = Field(description="When it was calculated.")
    usage: list[FeatureProjection] = Field(description="The metered features.")
    overage: CostProjection | None = Field(description="Null where the plan has no overage.")
    next_invoice_at: Time | None = Field(
        description="When the next invoice is made. Null where there is none, or where the provider"
        " has not told the time.",
        examples=["2026-04-01T00:00:00.000Z"],
    )
    next_invoice: NextInvoiceReply | None = Field(
        description="Null where the plan's price is not on the next invoice, or is of another"
        " currency than usage."
    )
