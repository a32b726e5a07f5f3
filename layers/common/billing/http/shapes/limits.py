"""Spend limits and thresholds."""

from typing import Annotated, Literal

from pydantic import Field

from billing.field_types import FeatureCode, LimitAmount, Quantity, UserId
from billing.http.json_schema import known
from billing.http.shapes.base import Amount, Currency, Reply, Request, Time

_Percent = Annotated[
    int | None,
    Field(
        ge=1,
        le=1000,
        strict=True,
        description="A percentage of what is included, or of the spend limit.",
        examples=[90],
    ),
]
_Amount = Annotated[
    Quantity | None,
    Field(
        description="A quantity of the feature, or with `spend` an amount in units of the"
        " user's currency.",
        examples=[None],
    ),
]


class SpendingReply(Reply):
    """The cost of usage beyond the included quantities in the running period, and its limit."""

    spent: Amount = Field(
        description="The cost so far, in units of `currency`. Held reservations count as if they"
        " were used.",
        examples=["12.40"],
    )
    limit: Amount | None = Field(
        description="The most that it may cost, in units of `currency`. Null where there is no"
        " limit.",
        examples=["500.00"],
    )
    set_by: Literal["default", "product", "user"] = Field(description="Whose limit applies.")
    currency: Currency


class SpendLimit(Request):
    """How much overage may cost in an allowance period, in the user's currency. Null: no limit."""

    amount: LimitAmount | None = Field(
        description="The most that overage may cost in a period, in units of the user's currency."
        " Null removes the limit.",
        examples=["250.00"],
    )


class SpendLimitReply(Reply):
    """The limit that now applies."""

    spending: SpendingReply | None = Field(description="Null where the plan has no overage.")


class CreateThreshold(Request):
    """How much has to be used or spent before an outgoing event says so.

    Send `percent` or `amount`, and not both.
    """

    feature: Annotated[
        FeatureCode | None,
        Field(
            description="The feature's code. Left out: each feature. Never with `spend`.",
            examples=["storage"],
        ),
    ] = None
    measure: Literal["usage", "spend"] = Field(
        default="usage",
        description="`usage`: what is used of a feature. `spend`: what overage costs.",
        examples=["usage"],
    )
    percent: _Percent = None
    amount: _Amount = None


class CreateThresholdOfUser(CreateThreshold):
    """How much has to be used or spent, by one user or by any."""

    user_id: Annotated[
        UserId | None,
        Field(description="The user. Left out: all users.", examples=["customer-42"]),
    ] = None


class ChangeThreshold(Request):
    """Another percentage or amount of a threshold. Send `percent` or `amount`, and not both."""

    percent: _Percent = None
    amount: _Amount = None


class ThresholdReached(Reply):
    """When a threshold was reached in the running period."""

    feature: str | None = Field(
        description="The feature whose usage reached it. Null for `spend`.", examples=["storage"]
    )
    reached_at: Time = Field(description="When it was reached.")


class ThresholdReply(Reply):
    """How much has to be used or spent before an outgoing event says so."""

    id: str | None = Field(
        description="The threshold's id. Null for a default.",
        examples=["thr_6d1e80f2c41d09ab37e65f1c0d2b4a7c"],
    )
    user_id: str | None = Field(
        description="The user. Null: all users.", examples=["usr_8f2c41d09ab37e65f1c0d2b4"]
    )
    set_by: Annotated[str, known("default", "operator", "product", "user")] = Field(
        description="Who added it: the `product` for one user, the `operator` for all, or the"
        " `user`.",
        examples=["product"],
    )
    measure: Annotated[str, known("usage", "spend")] = Field(
        description="`usage`: what is used of a feature. `spend`: what overage costs."
    )
    feature: str | None = Field(
        description="The feature's code. Null: each feature.", examples=["storage"]
    )
    percent: int | None = Field(
        description="A percentage of what is included, or of the spend limit. Null: see `amount`.",
        examples=[90],
    )
    amount: Amount | None = Field(
        description="A quantity, or an amount in units of the user's currency. Null: see"
        " `percent`.",
        examples=[None],
    )
    created_at: Time | None = Field(description="When it was added. Null for a default.")
    reached: list[ThresholdReached] | None = Field(
        description="Where the user's running period has reached it. Null for a threshold of all"
        " users that is not read for one of them."
    )


class ThresholdList(Reply):
    """Thresholds."""

    thresholds: list[ThresholdReply] = Field(description="The thresholds, those of usage first.")
