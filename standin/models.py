"""What the stand-in remembers. Each record is stored whole; the store indexes a few fields."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from standin import wire

LIVE_STATUSES = frozenset({"trialing", "active", "past_due", "paused"})
ACCESS_STATUSES = frozenset({"trialing", "active", "past_due"})


# Free-form JSON is kept as text of ours: pydantic would turn a Decimal inside it into a string.
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
    """A saved card: enough to show it and to know how it will behave when charged."""

    brand: str
    last4: str
    exp_month: int
    exp_year: int
    charge_failure: str | None = None
    """Decline code of every later charge; None: charges succeed."""


class Customer(Record):
    """A customer; `external_id` is the caller's own id for them."""

    external_id: str | None
    email: str
    full_name: str | None = None
    tax_document: str | None = None
    timezone: str | None = "UTC"
    metadata: JsonObject | None = None
    address: JsonObject | None = None
    card: Card | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def public_id(self) -> str:
        """How answers and webhooks name the customer: the caller's id when there is one."""
        return self.external_id or self.id


class Cancellation(BaseModel):
    """A cancellation that takes effect later."""

    scheduled_at: datetime
    reason: str | None
    effective_at: datetime


class Allowance(BaseModel):
    """The stretch of time one set of included amounts lasts. A new one has a new id."""

    id: str
    start: datetime
    end: datetime


class Dunning(BaseModel):
    """An unpaid renewal and how far its retries have come."""

    invoice_id: str
    declined_at: datetime
    attempts: int = 0


class ScheduledChange(BaseModel):
    """A plan change that waits for the end of the period. No price: the target is free."""

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
    """What was asked for at checkout; a pending one is reused only for the same."""
    start_date: datetime
    created_at: datetime
    updated_at: datetime
    anchor_day: int
    period_start: datetime | None = None
    period_end: datetime | None = None
    paused_for: timedelta = timedelta(0)
    """How much of the current period has passed in pauses and was given back at its end."""
    allowance: Allowance | None = None
    past_allowances: list[Allowance] = []
    """The last year's, oldest first: where usage reported late may be booked."""
    trial_days: int = 0
    trial_ends_at: datetime | None = None
    checkout_token: str | None = None
    success_url: str | None = None
    cancel_when_active: bool = False
    """Whether it was asked for to end with its first period."""
    first_invoice_id: str | None = None
    cancellation: Cancellation | None = None
    canceled_at: datetime | None = None
    ended_reason: str | None = None
    """Why it ended when nobody asked for it, such as `dunning_exhausted`."""
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
    """When reads begin to count it; None: at once."""
    properties: list[dict[str, str]] = []
    reason: str | None = None


class InvoiceLine(BaseModel):
    """A line of an invoice. Amounts are minor units; `unit_amount` of overage is rate scale.

    Only credits are negative.
    """

    line_type: Literal["plan_base", "feature_overage", "credit"]
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
    recovery_token: str
    """Names the page on which it can be paid when charging the saved card has failed."""

    @property
    def paid(self) -> bool:
        """Whether it is settled."""
        return self.status == "paid"

    @property
    def total(self) -> int:
        """Sum of the lines; the stand-in knows neither tax nor discounts."""
        return sum(line.amount for line in self.lines)


class PortalSession(Record):
    """A way into the portal; `id` is the token in its address. Times are wall time."""

    customer_id: str
    return_url: str | None
    created_at: datetime
    used_at: datetime


class Endpoint(Record):
    """Where webhooks go."""

    url: str
    events: list[str]
    description: str | None
    secret: str
    api_version: str | None
    is_active: bool = True
    exhausted_in_a_row: int = 0
    created_at: datetime


class Event(Record):
    """Something that happened, as webhooks tell it."""

    name: str
    timestamp: datetime
    customer_id: str | None
    data: JsonObject


class Attempt(BaseModel):
    """One try to deliver an event."""

    number: int
    """Place in the log."""
    kind: Literal["scheduled", "copy", "manual", "test"] = "scheduled"
    """Only scheduled ones count; a copy is what a fault rule sent besides."""
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
    """Whether an injected delay, or being held back, has already been served."""
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
