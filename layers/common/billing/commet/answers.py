"""The shapes of Commet's answers, with the fields that this project reads.

Commet adds fields and enum values without a new API version. So unknown fields are ignored, and
enums are plain text. There are two money scales: prices are in minor units (cents), unit prices of
usage are in the rate scale, where 10000 is 1.00.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    text.encode()  # raises a ValueError for a lone surrogate
    return text


# Text and numbers that Postgres can store. An answer with anything else is refused as nonsense when
# it is read, before anything depends on it.
Text = Annotated[str, AfterValidator(_storable)]
Quantity = Annotated[Decimal, Field(gt=-(10**15), lt=10**15)]


class Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, hide_input_in_errors=True
    )


class Customer(Answer):
    id: Text  # Commet's id, cus_...
    external_id: Text | None = None  # ours


class PlanRef(Answer):
    id: Text
    name: Text


class Period(Answer):
    start: datetime
    end: datetime


class Subscription(Answer):
    id: Text
    customer_id: Text | None = None  # ours, or Commet's own for a customer made in its dashboard
    status: Text
    plan: PlanRef
    billing_interval: Text | None = None  # null on a free plan
    current_period: Period | None = None
    cancel_at_period_end: bool = False
    trial_ends_at: datetime | None = None
    checkout_url: Text | None = None
    created_at: datetime
    updated_at: datetime


class PlanOverage(Answer):
    enabled: bool = False
    unit_price: int | None = None  # rate scale


class PlanFeature(Answer):
    code: Text
    name: Text
    type: Text
    unit_name: Text | None = None
    enabled: bool = True
    included_amount: int | None = None
    unlimited: bool = False
    overage: PlanOverage | None = None


class PlanPrice(Answer):
    billing_interval: Text
    price: int  # minor units
    is_default: bool = False
    trial_days: int = 0


class Plan(Answer):
    id: Text
    code: Text
    name: Text
    description: Text | None = None
    is_free: bool = False
    is_public: bool = True
    sort_order: int = 0
    features: list[PlanFeature] = []
    prices: list[PlanPrice] = []


class UnitPrice(Answer):
    amount: Quantity  # rate scale
    currency: Text


class AccessOverage(Answer):
    enabled: bool = False
    unit_price: UnitPrice | None = None


class Consumption(Answer):
    model: Text
    period: Period
    units_used: Quantity = Decimal(0)
    included_units: Quantity | None = None
    unlimited: bool = False
    overage: AccessOverage | None = None


class UnitsUsed(Answer):
    """The `usage` of a seats or quota feature, which has no `consumption`."""

    included_units: Quantity | None = None
    unlimited: bool = False
    overage: AccessOverage | None = None


class FeatureAccess(Answer):
    code: Text
    name: Text
    type: Text
    unit_name: Text | None = None
    allowed: bool
    enabled: bool = True  # a boolean feature is granted only if `allowed` and `enabled` are true
    consumption: Consumption | None = None
    usage: UnitsUsed | None = None


class PortalSession(Answer):
    portal_url: Text


class TrackedUsage(Answer):
    """The answer to a usage event: Commet has taken it."""

    id: Text
    event_id: Text | None = None


class WebhookEndpoint(Answer):
    id: Text
    url: Text
    events: list[Text]
    is_active: bool
    api_version: Text | None = None  # None: the account's version


class CreatedWebhookEndpoint(WebhookEndpoint):
    secret_key: SecretStr = Field(min_length=1)  # only this answer has it; logs never show it


class UsageAdjustment(Answer):
    """The answer to a replacement of a total."""

    id: Text
    value: Quantity  # the total afterwards
    previous_value: Quantity
