"""The stand-in's records. Each record is stored as a whole; the store indexes a few fields."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from standin import wire

LIVE_STATUSES = frozenset({"trialing", "active", "past_due", "paused"})
ACCESS_STATUSES = frozenset({"trialing", "active", "past_due"})
OVERDUE_AFTER = timedelta(days=1)


# Free-form JSON is stored as text, because pydantic would turn a Decimal inside it into a string.
JsonObject = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: wire.loads(value) if isinstance(value, str) else value),
    PlainSerializer(lambda value: wire.dumps(value).decode(), return_type=str),
]


class Record(BaseModel):
    """A stored thing with an id."""

    model_config = ConfigDict(extra="ignore")

    id: str


class Card(BaseModel):
    """A saved card: the fields to show it, and how it behaves when it is charged."""

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    charge_failure: str | None = None
    """Decline code of every later charge; None: charges succeed."""
    country: str | None = None
    """Where the card was issued, by Commet's table of test cards."""
    saved_at: datetime | None = None

    def is_same(self, other: "Card") -> bool:
        """Returns whether both records are the same card, saved twice."""
        known_by = ("brand", "last4", "country")
        return all(getattr(self, name) == getattr(other, name) for name in known_by)


class ManualRetries(BaseModel):
    """How many times a customer's overdue payment was retried by hand on one day (UTC)."""

    day: date
    count: int


class Customer(Record):
    """A customer. `external_id` is the caller's own id of the customer."""

    external_id: str | None
    email: str
    full_name: str | None = None
    tax_document: str | None = None
    timezone: str | None = "UTC"
    metadata: JsonObject | None = None
    address: JsonObject | None = None
    card: Card | None = None
    """The card that is charged by default."""
    other_cards: list[Card] = []
    """Further saved cards, newest first: dunning tries them when the default one is declined."""
    manual_retries: ManualRetries | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def cards(self) -> list[Card]:
        """Every saved card, the default one first."""
        return [*([self.card] if self.card else []), *self.other_cards]

    @property
    def public_id(self) -> str:
        """The id in answers and webhooks: the caller's id if there is one."""
        return self.external_id or self.id


class Cancellation(BaseModel):
    """A cancellation that takes effect later."""

    scheduled_at: datetime
    reason: str | None
    effective_at: datetime


class Allowance(BaseModel):
    """A period in which included amounts can be used, a month or a week. Each has its own id."""

    id: str
    start: datetime
    end: datetime


class Dunning(BaseModel):
    """An unpaid renewal and the progress of its retries."""

    invoice_id: str
    declined_at: datetime
    attempts: int = 0


class ScheduledChange(BaseModel):
    """A plan change that waits for the end of the period. It has no price, because the target
    is free.
    """

    kind: Literal["plan_downgrade", "interval_change"]
    plan_id: str
    price_id: str | None
    billing_interval: str | None


class PlanCheckout(BaseModel):
    """A change from a free to a paid plan that waits for its payment."""

    plan_id: str
    price_id: str
    success_url: str | None


class Pause(BaseModel):
    """A pause, scheduled or in effect. `resume_at` is None when it is open-ended."""

    status: Literal["scheduled", "active"]
    mode: Literal["immediate", "period_end"]
    requested_at: datetime
    effective_at: datetime
    resume_at: datetime | None
    was_trialing: bool = False


class Subscription(Record):
    """A customer's relationship to one plan."""

    customer_id: str
    plan_id: str
    price_id: str | None
    billing_interval: str | None
    name: str
    custom_name: str | None = None
    status: Literal[
        "draft", "pending_payment", "trialing", "active", "past_due", "paused", "canceled"
    ]
    terms: JsonObject = {}
    """The terms asked for; a pending checkout is reused only for the same terms."""
    start_date: datetime
    created_at: datetime
    updated_at: datetime
    anchor_day: int
    period_start: datetime | None = None
    period_end: datetime | None = None
    paused_for: timedelta = timedelta(0)
    """How long the current period was paused. Its end was moved by this time."""
    allowance: Allowance | None = None
    past_allowances: list[Allowance] = []
    """Allowances of the last year, oldest first, for usage that is reported late."""
    trial_days: int = 0
    trial_ends_at: datetime | None = None
    checkout_token: str | None = None
    success_url: str | None = None
    cancel_when_active: bool = False
    """Whether the request asked for a subscription that ends after its first period."""
    first_invoice_id: str | None = None
    cancellation: Cancellation | None = None
    canceled_at: datetime | None = None
    ended_reason: str | None = None
    """Why the subscription ended by itself, for example `dunning_exhausted`."""
    end_date: datetime | None = None
    dunning: Dunning | None = None
    scheduled_change: ScheduledChange | None = None
    plan_checkout: PlanCheckout | None = None
    pause: Pause | None = None
    upcoming_noted: bool = False
    """Whether the notice before the next renewal or trial end has been sent."""

    @property
    def has_access(self) -> bool:
        """Whether usage is accepted."""
        return self.status in ACCESS_STATUSES

    @property
    def is_live(self) -> bool:
        """Whether it is the customer's current relationship."""
        return self.status in LIVE_STATUSES


class Meter(Record):
    """Running total of one feature in one allowance; its id is made by `meter_id`."""

    used: Decimal = Decimal(0)
    threshold_noted: bool = False
    exceeded_noted: bool = False


def meter_id(allowance_id: str, feature_code: str) -> str:
    """The meter of a feature in an allowance."""
    return f"{allowance_id}:{feature_code}"


class UsageRecord(Record):
    """A tracked event, or the signed adjustment left by setting a total."""

    kind: Literal["event", "adjustment"] = "event"
    customer_id: str
    subscription_id: str
    meter_id: str
    feature_code: str
    value: Decimal
    event_id: str | None
    ts: datetime
    created_at: datetime
    shows_at: datetime | None = None
    """When reads begin to include it; None: at once."""
    properties: list[dict[str, str]] = []
    reason: str | None = None


class InvoiceLine(BaseModel):
    """A line of an invoice. Amounts are minor units; `unit_amount` of overage is rate scale.

    Only credits are negative. No line contains tax.
    """

    line_type: Literal["plan_base", "feature_overage", "credit", "one_time"]
    feature_name: str | None = None
    description: str
    quantity: int
    unit_amount: int
    amount: int
    included_amount: int | None = None
    used_amount: int | None = None
    overage_amount: int | None = None
    charge_type: Literal["standard", "advance", "true_up"] = "standard"


class Invoice(Record):
    """An invoice; totals are in the minor unit."""

    number: str
    customer_id: str
    subscription_id: str | None
    status: Literal["draft", "outstanding", "paid", "void", "uncollectible"]
    invoice_type: str
    currency: str
    lines: list[InvoiceLine]
    plan_name: str | None
    period_start: datetime
    period_end: datetime
    issue_date: datetime
    due_date: datetime
    created_at: datetime
    updated_at: datetime
    transaction_id: str | None = None
    """The transaction that paid this invoice."""
    tax_amount: int = 0
    overdue_noted: bool = False
    """Whether invoice.overdue has been sent."""
    recovery_token: str
    """Part of the address on which the invoice can be paid after the saved card was declined."""

    @property
    def paid(self) -> bool:
        """Whether the invoice is paid."""
        return self.status == "paid"

    @property
    def subtotal(self) -> int:
        """Sum of the lines, before tax."""
        return sum(line.amount for line in self.lines)

    @property
    def total(self) -> int:
        """What has to be paid, tax included."""
        return self.subtotal + self.tax_amount

    @property
    def overdue_at(self) -> datetime | None:
        """When invoice.overdue is due; None when the invoice is closed or the event was sent."""
        if self.status != "outstanding" or self.overdue_noted:
            return None
        return self.due_date + OVERDUE_AFTER


class Dispute(BaseModel):
    """A cardholder's dispute of a payment; without an outcome it is still open."""

    amount: int
    reason: str | None
    opened_at: datetime
    outcome: Literal["won", "lost"] | None = None


class Transaction(Record):
    """One attempt to take money; amounts are in the minor unit of `currency`."""

    invoice_id: str | None
    subscription_id: str | None = None
    payment_id: str | None = None
    """The payment link or one-time charge behind it."""
    customer_id: str | None
    customer_email: str | None
    customer_name: str | None
    context: JsonObject
    """The purpose of the charge: Commet's `paymentContext`."""
    status: Literal["pending", "succeeded", "failed", "refunded", "disputed"]
    subtotal: int
    tax_amount: int
    currency: str
    card: Card | None
    failure_code: str | None = None
    failure_message: str | None = None
    refunded_amount: int = 0
    dispute: Dispute | None = None
    paid_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def total(self) -> int:
        """What was charged, tax included."""
        return self.subtotal + self.tax_amount

    @property
    def has_open_dispute(self) -> bool:
        """Whether a dispute waits for its outcome."""
        return self.dispute is not None and self.dispute.outcome is None


class Refund(Record):
    """Money given back for a transaction."""

    transaction_id: str
    amount: int
    currency: str
    status: Literal["succeeded"] = "succeeded"
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None
    created_at: datetime


class Payment(Record):
    """A one-time payment without a plan: a link to pay, or a charge of a saved card."""

    kind: Literal["link", "charge"]
    customer_id: str | None
    status: Literal["pending", "succeeded", "failed", "canceled"]
    amount: int
    """Before tax, in the minor unit of `currency`."""
    tax_amount: int
    currency: str
    description: str
    metadata: JsonObject | None
    token: str | None
    """Part of the address of a link; None for a charge."""
    success_url: str | None
    expires_at: datetime | None
    invoice_id: str | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def total(self) -> int:
        """What has to be paid, tax included."""
        return self.amount + self.tax_amount


class PortalSession(Record):
    """A session of the customer portal; `id` is the token in its address. Times are wall time."""

    customer_id: str
    return_url: str | None
    created_at: datetime
    used_at: datetime


class Endpoint(Record):
    """A webhook endpoint."""

    url: str
    events: list[str]
    description: str | None
    secret: str
    api_version: str | None
    is_active: bool = True
    exhausted_in_a_row: int = 0
    created_at: datetime


class Event(Record):
    """Something that happened, as webhooks report it."""

    name: str
    timestamp: datetime
    customer_id: str | None
    data: JsonObject


class Attempt(BaseModel):
    """One try to deliver an event."""

    number: int
    """Its number among the attempts, from 1."""
    kind: Literal["scheduled", "copy", "manual", "test"] = "scheduled"
    """Only scheduled attempts count. A copy is an additional attempt because of a fault rule."""
    at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    response: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has acknowledged it."""
        return self.error is None and self.status is not None and 200 <= self.status < 300


class Delivery(Record):
    """An event on its way to an endpoint."""

    event_id: str
    event_name: str
    endpoint_id: str
    status: Literal["pending", "delivered", "exhausted", "abandoned", "dropped"]
    next_at: datetime | None
    delayed: bool = False
    """Whether an injected delay, or being held back, is over."""
    attempts: list[Attempt] = []
    request_headers: dict[str, str] = {}
    request_body: str = ""
    created_at: datetime


class ClockRun(Record):
    """One advance of the test clock."""

    status: Literal["pending", "running", "completed", "failed"]
    started_at: datetime
    target: datetime
    estimated: int
    items: list[dict[str, Any]] = []
    error: str | None = None


class StoredAnswer(Record):
    """An answer kept under its Idempotency-Key."""

    fingerprint: str
    status: int
    body: str
    created_at: datetime
