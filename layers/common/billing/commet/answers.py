"""The shapes of Commet's answers, with the fields that this project reads.

Commet adds fields and enum values without a new API version. So unknown fields are ignored, and
enums are plain text. There are two money scales: prices are in minor units (cents), unit prices of
usage are in the rate scale, where 10000 is 1.00.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from billing.commet.webhook_fields import MADE_FOR


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain NUL")
    text.encode()  # raises a ValueError for a lone surrogate
    return text


def _in_utc(moment: datetime) -> datetime:
    """Returns the time in UTC. In another zone it could be in year 10000, which Python cannot
    read.
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 of UTC") from None


# Text, times and numbers that Postgres can store. An answer with other values is refused as
# nonsense when it is read, before any code uses it.
Text = Annotated[str, AfterValidator(_storable)]
Time = Annotated[datetime, AfterValidator(_in_utc)]
Quantity = Annotated[Decimal, Field(gt=-(10**15), lt=10**15)]
MinorUnits = Annotated[int, Field(gt=-(10**14), lt=10**14)]


class Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,  # a function needs few of these models, or none
    )


class Customer(Answer):
    id: Text  # Commet's id, cus_...
    external_id: Text | None = None  # ours
    email: Text | None = None
    updated_at: Time | None = None
    metadata: dict[str, Any] | None = None

    @property
    def is_ours(self) -> bool:
        """Whether we created the customer for the user whose id it has."""
        return bool(self.external_id) and (self.metadata or {}).get(MADE_FOR) == self.external_id


class PlanRef(Answer):
    id: Text
    name: Text


class Period(Answer):
    start: Time
    end: Time


class ScheduledPlanChange(Answer):
    """A change of plan that waits for the end of the period."""

    new_plan_id: Text | None = None
    new_plan_name: Text | None = None
    new_billing_interval: Text | None = None
    scheduled_for: Time | None = None


class Subscription(Answer):
    id: Text
    customer_id: Text | None = None  # our id, or Commet's id of a customer from its dashboard
    status: Text
    plan: PlanRef
    billing_interval: Text | None = None  # null on a free plan
    current_period: Period | None = None
    cancel_at_period_end: bool = False
    scheduled_plan_change: ScheduledPlanChange | None = None
    trial_ends_at: Time | None = None
    checkout_url: Text | None = None
    created_at: Time
    updated_at: Time


class PlanOverage(Answer):
    enabled: bool = False
    unit_price: int | None = None  # rate scale


class RegionalOverage(Answer):
    """The price of overage in a currency other than the organization's."""

    currency: Text
    overage_unit_price: int | None = None  # rate scale


class RegionalPrice(Answer):
    """A plan's price in a currency other than the organization's."""

    currency: Text
    price: int  # minor units


class PlanFeature(Answer):
    code: Text
    name: Text
    type: Text
    unit_name: Text | None = None
    enabled: bool = True
    included_amount: int | None = None
    unlimited: bool = False
    overage: PlanOverage | None = None
    regional_prices: list[RegionalOverage] = []


class PlanPrice(Answer):
    billing_interval: Text
    price: int  # minor units
    is_default: bool = False
    trial_days: int = 0
    included_credits: int | None = None
    included_balance: int | None = None  # rate scale
    regional_prices: list[RegionalPrice] = []


class Plan(Answer):
    id: Text
    code: Text
    name: Text
    description: Text | None = None
    consumption_model: Text | None = None  # null where no feature is metered
    is_free: bool = False
    is_public: bool = True
    sort_order: int = 0
    features: list[PlanFeature] = []
    prices: list[PlanPrice] = []


class PlanChangePreview(Answer):
    """What a change of plan that takes effect at once would cost. Amounts are in minor units."""

    currency: Text
    current_plan_credit: MinorUnits  # for the rest of the old period
    new_plan_charge: MinorUnits
    estimated_total: MinorUnits  # charged now: the price, overage so far and tax, less the credit
    effective_date: Time


class PlanChangeBilling(Answer):
    total_charged: MinorUnits


class PlanChange(Answer):
    """The answer to a change of plan."""

    outcome: Text  # completed, scheduled or requires_checkout
    checkout_url: Text | None = None
    scheduled_for: Time | None = None
    billing: PlanChangeBilling | None = None


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


class Transaction(Answer):
    """An attempt to take money."""

    id: Text
    status: Text  # disputed while a dispute is open, and after it was lost
    subtotal: MinorUnits | None = None
    tax_amount: MinorUnits | None = None


class WebhookEndpoint(Answer):
    id: Text
    url: Text
    events: list[Text]
    is_active: bool
    api_version: Text | None = None  # None: the account's version


class CreatedWebhookEndpoint(WebhookEndpoint):
    secret_key: SecretStr = Field(min_length=1)  # no other answer contains it; logs never show it


class UsageAdjustment(Answer):
    """The answer to a replacement of a total."""

    id: Text
    value: Quantity  # the total afterwards
    previous_value: Quantity


class InvoiceSummary(Answer):
    """An invoice in a list, without its lines."""

    id: Text
    status: Text  # draft, outstanding, paid, void or uncollectible
    invoice_type: Text | None = None


class InvoiceLine(Answer):
    line_type: Text
    amount: MinorUnits


class Invoice(InvoiceSummary):
    currency: Text
    subtotal: MinorUnits = 0
    tax_amount: MinorUnits = 0
    total: MinorUnits
    line_items: list[InvoiceLine]


class IssuedInvoice(Answer):
    """An invoice in the form that the customer sees."""

    id: Text
    customer_id: Text  # ours, or Commet's own
    invoice_number: Text | None = None
    status: Text
    invoice_type: Text | None = None
    currency: Text
    subtotal: MinorUnits = 0
    tax_amount: MinorUnits = 0
    total: MinorUnits
    period_start: Time | None = None
    period_end: Time | None = None
    issue_date: Time | None = None
    due_date: Time | None = None


class IssuedLine(Answer):
    """A line of an invoice. Its three quantities are quantities of usage, in whole units."""

    line_type: Text
    feature_name: Text | None = None
    description: Text
    amount: MinorUnits
    included_amount: Quantity | None = None
    used_amount: Quantity | None = None
    overage_amount: Quantity | None = None


class IssuedInvoiceDetail(IssuedInvoice):
    line_items: list[IssuedLine]


class DownloadLink(Answer):
    url: Text
    expires_at: Time | None = None


class Payment(Answer):
    """A payment link, or a charge of a saved card."""

    id: Text
    status: Text  # pending, processing, succeeded, requires_action, failed or canceled
    amount_total: MinorUnits  # with tax
    currency: Text
    url: Text | None = None  # of a link
    expires_at: Time | None = None


class RecoveryLink(Answer):
    url: Text


class Refund(Answer):
    id: Text
    amount: MinorUnits
    currency: Text
    status: Text
