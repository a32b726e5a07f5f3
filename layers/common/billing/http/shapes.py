"""The shapes of our own HTTP API, as pydantic models. Fields may be added, not renamed.

Quantities and money are decimal strings, times ISO-8601 UTC.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from typing_extensions import TypedDict

from billing.field_types import (
    Email,
    FeatureCode,
    IdempotencyKey,
    Name,
    OccurredAt,
    Properties,
    Quantity,
    SignedQuantity,
    Text,
    Url,
    UserId,
    encodable,
)


def _iso_utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(_iso_utc, return_type=str, when_used="json")]
Amount = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["30", "2.50"])]


class Request(BaseModel):
    """A body somebody sends us: unknown fields are refused, they are usually a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr__(self) -> str:
        # Powertools writes every body out for its debug log, even while that is off. Of a batch
        # this took a sixth of the request; of a sign-in it would be the password.
        return f"{type(self).__name__}(...)"

    __str__ = __repr__


class Reply(BaseModel):
    """A body we answer with."""

    model_config = ConfigDict(frozen=True)


class Problem(Reply):
    """RFC 9457 problem document. `code` is stable; `errors` name fields, never their values.

    `as_of` comes with `access_unconfirmed`: how old is what we know of the subscription.
    """

    class Field(Reply):
        field: str
        code: str
        message: str

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Field] = []
    as_of: datetime | None = None


# --- accounts ---------------------------------------------------------------------------------


class SignUp(Request):
    email: Email
    password: Annotated[str, Field(min_length=8, max_length=128), AfterValidator(encodable)]
    name: Name | None = None
    cookie: bool = False


class SignIn(Request):
    email: Email
    password: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(encodable)]
    cookie: bool = False


class UserReply(Reply):
    id: str
    email: str
    name: str | None


class SessionReply(Reply):
    token: str | None = Field(description="Null where the session went into a cookie.")
    expires_at: Time


class SignedIn(Reply):
    user: UserReply
    session: SessionReply


class PutUser(Request):
    email: Email
    name: Name | None = None


class UserPut(Reply):
    user: UserReply


# --- plans and checkout -------------------------------------------------------------------------


class PriceReply(Reply):
    amount: Amount
    currency: str
    interval: str
    is_default: bool
    trial_days: int


class OveragePrice(Reply):
    enabled: bool
    unit_price: Amount | None


class PlanFeatureReply(Reply):
    code: str
    name: str
    type: str = Field(description="boolean, usage, seats or quota")
    enabled: bool
    unit: str | None
    included: Amount | None
    unlimited: bool
    overage: OveragePrice | None


class PlanReply(Reply):
    code: str
    name: str
    description: str | None
    is_free: bool
    prices: list[PriceReply]
    features: list[PlanFeatureReply]


class Plans(Reply):
    as_of: Time
    plans: list[PlanReply]


class Checkout(Request):
    plan_code: Annotated[Text, Field(min_length=1, max_length=100)]
    billing_interval: Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")] | None = None
    success_url: Url | None = None


class PlanRefReply(Reply):
    id: str | None
    name: str | None


class CheckoutSubscription(Reply):
    id: str
    status: str
    plan: PlanRefReply


class CheckoutReply(Reply):
    subscription: CheckoutSubscription
    checkout_url: str | None


class Portal(Request):
    return_url: Url | None = None


class PortalReply(Reply):
    portal_url: str


# --- usage ------------------------------------------------------------------------------------


class UsagePeriodReply(Reply):
    start: Time
    end: Time


class UsageEvent(Request):
    """Something that was used."""

    user_id: UserId
    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    idempotency_key: IdempotencyKey
    occurred_at: OccurredAt | None = None
    properties: Properties = Field(default_factory=dict)


class UsageBatch(Request):
    """Up to 1,000 events, each an object like the single form. Each gets its own verdict."""

    events: Annotated[list[Any], Field(min_length=1, max_length=1000)]


# Dictionaries, which are written as they are: there are a thousand verdicts in an answer.


class WrongField(TypedDict):
    field: str
    code: str
    message: str


class UsageVerdict(TypedDict):
    index: int
    idempotency_key: str | None
    status: Annotated[str, Field(description="accepted, duplicate, conflict or refused")]
    code: str | None
    errors: NotRequired[
        Annotated[list[WrongField], Field(description="Only of an invalid_event: what is wrong.")]
    ]


class UsageTaken(TypedDict):
    accepted: int
    duplicates: int
    refused: Annotated[int, Field(description="Refused and conflicting ones.")]
    results: list[UsageVerdict]


class UsageCheck(Request):
    """What somebody is about to use. A signed-in user leaves `user_id` out."""

    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    user_id: UserId | None = None


class UsageAllowed(Reply):
    allowed: bool
    remaining: Amount | None = Field(
        description="Included, neither used nor held. Null where unlimited, or not in the plan."
    )
    overage_quantity: Amount
    cost: Amount | None = Field(description="Null where the price is not known yet.")
    currency: str
    code: str | None = None


class Reserve(Request):
    """An amount to hold before the work is done."""

    user_id: UserId
    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    idempotency_key: IdempotencyKey
    expires_in: Annotated[int, Field(ge=1, le=3600, description="Seconds.")] = 300
    properties: Properties = Field(default_factory=dict)


class ReservationReply(Reply):
    id: str
    user_id: str
    feature: str
    idempotency_key: str
    quantity: Amount
    expires_at: Time
    state: str = Field(description="held, confirmed, released or expired")
    booked: Amount | None = Field(description="What the work took, once confirmed.")


class Confirm(Request):
    """What the work took. Leave the quantity out where it took what was held."""

    quantity: Quantity | None = None


class Release(Request):
    """Nothing to say."""


class Correct(Request):
    """What is to be added to what was used, or, below zero, taken off."""

    user_id: UserId
    feature: FeatureCode
    quantity: SignedQuantity
    idempotency_key: IdempotencyKey
    reason: Annotated[Text, Field(min_length=1, max_length=500)]
    corrects: IdempotencyKey | None = Field(
        None,
        description="The key of the entry that was wrong. The period it was booked in is meant.",
    )
    occurred_at: OccurredAt | None = Field(
        None,
        description="The period that held it is meant; with neither this nor `corrects`, the one"
        " that runs.",
    )


class NeedsCredit(Reply):
    """The period is over, and its invoice is not changed by this: give the money back in Commet."""

    quantity: Amount = Field(
        description="What Commet was told too much; it may be less than asked."
    )
    amount: Amount | None = Field(
        description="What that is worth: nothing within what was included. Null where the price is"
        " not known."
    )
    currency: str
    period: UsagePeriodReply


class CorrectionTaken(Reply):
    idempotency_key: str
    status: str = Field(description="accepted or duplicate")
    quantity: Amount
    period: UsagePeriodReply
    used: Amount = Field(description="The total of that period now.")
    needs_credit: NeedsCredit | None


class LedgerEntry(Reply):
    booked_at: Time
    occurred_at: Time
    user_id: str
    feature: str
    kind: str = Field(description="event, confirm (of a reservation) or correction")
    quantity: Amount
    idempotency_key: str
    period: UsagePeriodReply
    late: bool = Field(description="Occurred before the period it was booked in.")
    reason: str | None
    author: str | None = Field(description="The name of the service key that corrected.")
    needs_credit: bool
    properties: dict[str, str]


class LedgerPage(Reply):
    events: list[LedgerEntry]
    next_cursor: str | None = Field(
        description="Null on the last page. A page before it may be short, even empty."
    )


# --- dashboard ------------------------------------------------------------------------------------


class CurrentPeriod(Reply):
    start: Time
    end: Time
    days_remaining: int


class SubscriptionReply(Reply):
    id: str
    status: str
    plan: PlanRefReply
    current_period: CurrentPeriod | None
    cancel_at_period_end: bool
    trial_ends_at: Time | None
    as_of: Time


class OverageReply(Reply):
    enabled: bool
    quantity: Amount
    unit_price: Amount | None
    cost: Amount | None = Field(description="Null where the price is not known yet.")
    currency: str


class DailyUsage(Reply):
    date: date
    quantity: Amount


class UsageReply(Reply):
    feature: str
    name: str
    unit: str | None
    period: UsagePeriodReply
    used: Amount
    held: Amount = Field(description="What reservations hold beside that.")
    carried: Amount = Field(
        description="Of `used`, what was counted in an earlier period and is billed in this one."
    )
    included: Amount | None
    remaining: Amount | None
    unlimited: bool
    overage: OverageReply
    daily: list[DailyUsage]


class Dashboard(Reply):
    user: UserReply
    access: bool
    subscription: SubscriptionReply | None
    usage: list[UsageReply]


class Health(Reply):
    status: str
