"""The ledger's export, and sums of it."""

from datetime import date
from typing import Annotated

from pydantic import Field

from billing.http.json_schema import one_of
from billing.http.shapes.base import Amount, FeatureReplyCode, NextCursor, Reply, Time, UserIdReply


class LedgerPeriodReply(Reply):
    """The allowance period in which an entry was booked, and what the period belongs to.

    A plan change opens another period, even on the same day: tell periods apart by `id`.
    """

    id: str = Field(description="The period's id.", examples=["1042"])
    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends. This moment is not part of it.",
        examples=["2026-04-01T00:00:00.000Z"],
    )
    subscription_id: str = Field(
        description="The subscription that the period belongs to.", examples=["sub_3Vx9"]
    )
    plan_id: str | None = Field(
        description="The plan's id at the billing provider. Null where it named none.",
        examples=["pln_5tKx"],
    )


class LedgerEntry(Reply):
    """One booking of usage."""

    booked_at: Time = Field(description="When it was booked.")
    occurred_at: Time = Field(description="When it was used.")
    user_id: UserIdReply
    feature: FeatureReplyCode
    kind: Annotated[str, one_of("event", "confirm", "correction")] = Field(
        description="A usage event, a confirmed reservation, or a correction."
    )
    quantity: Amount = Field(
        description="The quantity, in the feature's unit. Below 0 for some corrections.",
        examples=["3"],
    )
    idempotency_key: str = Field(
        description="The key that was sent.", examples=["render-2026-03-01-0001"]
    )
    period: LedgerPeriodReply
    late: bool = Field(description="Whether it occurred before the period in which it was booked.")
    reason: str | None = Field(
        description="Of a correction: why. Null otherwise.", examples=[None, "The render failed."]
    )
    author: str | None = Field(
        description="Of a correction: the name of the service key that sent it. Null otherwise.",
        examples=[None, "backend"],
    )
    needs_credit: bool = Field(
        description="Whether a correction came after the period's end, so that money has to be"
        " given back in Commet."
    )
    properties: dict[str, str] = Field(
        description="The texts that were sent with the event, by name.",
        examples=[{"region": "eu"}],
    )


class LedgerPage(Reply):
    """Some entries of the ledger."""

    events: list[LedgerEntry] = Field(description="The entries in the order of booking.")
    next_cursor: NextCursor = Field(
        description="Send this text as `cursor` to get the next page. Null on the last page."
        " Earlier pages may have fewer entries than `limit`, or none: a page ends before 6 MB."
    )


class UsageSum(Reply):
    """What was used of a feature in one period: on a day, or with one value of a property."""

    day: date | None = Field(
        description="The day (UTC), as on the dashboard. Null where the sums are not by day.",
        examples=["2026-03-14"],
    )
    feature: FeatureReplyCode
    value: str | None = Field(
        description="The property's value. Null for usage without the property, and where the sums"
        " are not by a property.",
        examples=["eu"],
    )
    quantity: Amount = Field(
        description="The quantity, in the feature's unit. Below 0 for some corrections.",
        examples=["35"],
    )
    late: Amount = Field(
        description="The part of the quantity that occurred before the period.", examples=["0"]
    )
    corrected: Amount = Field(
        description="The part of the quantity that corrections added or took off.", examples=["-3"]
    )
    period: LedgerPeriodReply


class UsageSums(Reply):
    """What one user used, in sums."""

    sums: list[UsageSum] = Field(description="The sums, by period, day, feature and value.")
    next_cursor: NextCursor
