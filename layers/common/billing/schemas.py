"""The shapes of our own HTTP API, as pydantic models. Fields may be added, not renamed.

Quantities and money are decimal strings, times ISO-8601 UTC.
"""

from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer


def _plain(text: str) -> str:
    # Postgres text cannot hold NUL; the other control characters have no place in a name either.
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("must not contain control characters")
    return text


def _iso_utc(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Email = Annotated[Text, Field(max_length=200, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Url = Annotated[Text, Field(max_length=2000)]
UserId = Annotated[Text, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$")]
FeatureCode = Annotated[Text, Field(pattern=r"^[a-z0-9_]{1,100}$")]
Time = Annotated[datetime, PlainSerializer(_iso_utc, return_type=str, when_used="json")]
Amount = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$", examples=["30", "2.50"])]


class Request(BaseModel):
    """A body somebody sends us: unknown fields are refused, they are usually a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """A body we answer with."""

    model_config = ConfigDict(frozen=True)


class Problem(Reply):
    """RFC 9457 problem document. `code` is stable; `errors` name fields, never their values."""

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


# --- accounts ---------------------------------------------------------------------------------


class SignUp(Request):
    email: Email
    password: Annotated[str, Field(min_length=8, max_length=128)]
    name: Name | None = None
    cookie: bool = False


class SignIn(Request):
    email: Email
    password: Annotated[str, Field(min_length=1, max_length=128)]
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


class UsagePeriodReply(Reply):
    start: Time
    end: Time


class OverageReply(Reply):
    enabled: bool
    quantity: Amount
    unit_price: Amount | None
    cost: Amount
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
