"""What all shapes share: requests, replies, times, amounts and names.

Quantities and money are decimal strings, times ISO-8601 UTC. A model is built when it is first
used (`defer_build`), because a function that starts needs few of them.
"""

from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from billing.field_types import UserId
from billing.http import json_schema
from billing.http.json_schema import known


def _iso_utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[
    datetime, PlainSerializer(_iso_utc, return_type=str, when_used="json"), json_schema.TIME
]

Amount = Annotated[
    str,
    Field(
        pattern=r"^-?\d+(\.\d+)?$",
        json_schema_extra=json_schema.DECIMAL,
    ),
]

Day = Annotated[date, Field(description="The day, in UTC.", examples=["2026-03-01"])]

Currency = Annotated[
    str, Field(description="The currency, an ISO 4217 code in lower case.", examples=["usd"])
]

UserIdReply = Annotated[
    str, Field(description="The user's id.", examples=["usr_8f2c41d09ab37e65f1c0d2b4"])
]

FeatureReplyCode = Annotated[
    str, Field(description="The feature's code in the catalogue.", examples=["storage"])
]

NextCursor = Annotated[
    str | None,
    Field(
        description="Send this text as `cursor` to get the next page. Null on the last page.",
        examples=["eyJhZnRlciI6IDQyfQ"],
    ),
]

SubscriptionStatus = Annotated[
    str,
    known("active", "trialing", "past_due", "paused", "canceled", "pending_payment", "draft"),
]

Interval = Annotated[
    str, known("monthly", "weekly", "quarterly", "semiannual", "yearly", "one_time")
]


class Request(BaseModel):
    """A request's body. Unknown fields are refused, because they are usually a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def __repr__(self) -> str:
        # Powertools formats every body for its debug log, even while that log is off. For a batch
        # this took a sixth of the request's time. For a sign-in it would contain the password.
        return f"{type(self).__name__}(...)"

    __str__ = __repr__


class Reply(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True, defer_build=True)


# The user of a request that both a person and a service key may send.
NamedUser = Annotated[
    UserId | None,
    Field(
        description="The user, for a service key. A session leaves it out.",
        examples=["customer-42"],
    ),
]


class UsagePeriodReply(Reply):
    """An allowance period: what is included is counted in it."""

    start: Time = Field(description="When the period began.", examples=["2026-03-01T00:00:00.000Z"])
    end: Time = Field(
        description="When the period ends. This moment is not part of it.",
        examples=["2026-04-01T00:00:00.000Z"],
    )


class PlanRefReply(Reply):
    """Which plan it is."""

    id: str | None = Field(
        description="The plan's id at the billing provider. Null where it named none.",
        examples=["pln_5tKx"],
    )
    name: str | None = Field(
        description="The plan's name. Null where the provider named none.", examples=["Usage Pro"]
    )
