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
    """A request's body. Unknown fields are refused, because they are usually a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __repr__(self) -> str:
        # Powertools formats every body for its debug log, even while that log is off. For a batch
        # this took a sixth of the request's time. For a sign-in it would contain the password.
        return f"{type(self).__name__}(...)"

    __str__ = __repr__


class Reply(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(frozen=True)


class Problem(Reply):
    """RFC 9457 problem document. `code` is stable. `errors` name fields, never their values.

    `as_of` comes with `access_unconfirmed`: the time of our newest information about the
    subscription.
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
    token: str | None = Field(description="Null where the token was set as a cookie.")
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
    """Up to 1,000 events in the form of a single event. Each gets its own verdict."""

    events: Annotated[list[Any], Field(min_length=1, max_length=1000)]


# These are dictionaries and not models, because json writes dictionaries faster and an answer can
# hold a thousand verdicts.


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
        Annotated[list[WrongField], Field(description="The wrong fields of an `invalid_event`.")]
    ]


class UsageTaken(TypedDict):
    accepted: int
    duplicates: int
    refused: Annotated[int, Field(description="The number of refused and conflicting events.")]
    results: list[UsageVerdict]


class UsageCheck(Request):
    """A quantity that a user is about to use. A signed-in user leaves `user_id` out."""

    feature: FeatureCode
    quantity: Quantity = Decimal(1)
    user_id: UserId | None = None


class UsageAllowed(Reply):
    allowed: bool
    remaining: Amount | None = Field(
        description="The part of the included quantity that is neither used nor held. Null where"
        " the feature is unlimited or not in the plan."
    )
    overage_quantity: Amount
    cost: Amount | None = Field(description="Null where the price is not known yet.")
    currency: str
    code: str | None = None


class Reserve(Request):
    """A quantity to hold until the work is done."""

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
    booked: Amount | None = Field(description="The confirmed quantity. Null until confirmed.")


class Confirm(Request):
    """The quantity that the work took. Leave it out to confirm the held quantity."""

    quantity: Quantity | None = None


class Release(Request):
    """An empty object."""


class Correct(Request):
    """A quantity to add to a user's total. A negative quantity is taken off the total."""

    user_id: UserId
    feature: FeatureCode
    quantity: SignedQuantity
    idempotency_key: IdempotencyKey
    reason: Annotated[Text, Field(min_length=1, max_length=500)]
    corrects: IdempotencyKey | None = Field(
        None,
        description="The idempotency key of the wrong entry. The period in which it was booked is"
        " corrected.",
    )
    occurred_at: OccurredAt | None = Field(
        None,
        description="The period that contains this time is corrected. With neither `occurred_at`"
        " nor `corrects`, the running period is.",
    )


class NeedsCredit(Reply):
    """The period is over, so its invoice stays as it is. Give the money back in Commet."""

    quantity: Amount = Field(
        description="The quantity that was reported to Commet and is too much. It may be less than"
        " the correction, because usage that was not reported yet needs no credit."
    )
    amount: Amount | None = Field(
        description="The price of `quantity`: zero within the included quantity. Null where the"
        " price is not known."
    )
    currency: str
    period: UsagePeriodReply


class CorrectionTaken(Reply):
    idempotency_key: str
    status: str = Field(description="accepted or duplicate")
    quantity: Amount
    period: UsagePeriodReply
    used: Amount = Field(description="The total of the corrected period after the correction.")
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
    late: bool = Field(description="Whether it occurred before the period in which it was booked.")
    reason: str | None
    author: str | None = Field(
        description="Of a correction: the name of the service key that sent it."
    )
    needs_credit: bool
    properties: dict[str, str]


class LedgerPage(Reply):
    events: list[LedgerEntry]
    next_cursor: str | None = Field(
        description="Null on the last page. Earlier pages may have fewer entries than `limit`, or"
        " none."
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
    held: Amount = Field(description="The quantity of all held reservations; not part of `used`.")
    carried: Amount = Field(
        description="The part of `used` that was counted in an earlier period and is billed in"
        " this one."
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
