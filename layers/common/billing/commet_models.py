"""What Commet answers, as far as this project reads it.

Unknown fields are ignored and unknown enum values kept as they are: Commet adds both without a
new API version. Two money scales: prices are in minor units (cents), unit prices of usage in the
rate scale, where 10000 is 1.00.
"""

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Customer(Answer):
    id: str  # Commet's id, cus_...
    external_id: str | None = None  # ours


class PlanRef(Answer):
    id: str
    name: str


class Period(Answer):
    start: datetime
    end: datetime


class Subscription(Answer):
    id: str
    status: str
    plan: PlanRef
    billing_interval: str | None = None  # null on a free plan
    current_period: Period | None = None
    cancel_at_period_end: bool = False
    trial_ends_at: datetime | None = None
    checkout_url: str | None = None
    created_at: datetime
    updated_at: datetime


class Overage(Answer):
    enabled: bool = False
    unit_price: int | None = None  # rate scale


class PlanFeature(Answer):
    code: str
    name: str
    type: str
    unit_name: str | None = None
    enabled: bool = True
    included_amount: int | None = None
    unlimited: bool = False
    overage: Overage | None = None


class PlanPrice(Answer):
    billing_interval: str
    price: int  # minor units
    is_default: bool = False
    trial_days: int = 0


class Plan(Answer):
    id: str
    code: str
    name: str
    description: str | None = None
    is_free: bool = False
    is_public: bool = True
    sort_order: int = 0
    features: list[PlanFeature] = []
    prices: list[PlanPrice] = []


class UnitPrice(Answer):
    amount: Decimal  # rate scale
    currency: str


class AccessOverage(Answer):
    enabled: bool = False
    unit_price: UnitPrice | None = None


class Consumption(Answer):
    model: str
    period: Period
    units_used: Decimal = Decimal(0)
    included_units: Decimal | None = None
    unlimited: bool = False
    overage: AccessOverage | None = None


class FeatureAccess(Answer):
    code: str
    name: str
    type: str
    unit_name: str | None = None
    allowed: bool
    consumption: Consumption | None = None


class PortalSession(Answer):
    portal_url: str


class UsageEvent(Answer):
    id: str
    event_id: str | None = None
