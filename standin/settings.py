"""Everything that can be set when the stand-in starts, in one frozen place."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from standin.hosts import bare_host, check_public_url

API_VERSION = "2026-08-27"
API_PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True)
class Settings:
    """How this stand-in behaves. Durations are wall seconds unless a comment says otherwise."""

    data: str = ":memory:"
    """SQLite file, or `:memory:` to forget everything at the end."""
    api_key: str | None = None
    """None: the key kept in the data, or a new one."""
    public_url: str = ""
    """What hosted page addresses start with; empty: wherever we listen."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts to answer for, beside loopback and the host of `public_url`: names or addresses."""
    catalogue: Path | None = None
    """JSON file of features and plans; None: the one that ships with the stand-in."""
    currency: str = "usd"
    tax_percent: Decimal = Decimal(0)
    """Tax added to every charge, in percent."""
    speed: float = 1.0
    """Simulated seconds per wall second."""
    retry_scale: float = 1.0
    """Factor on Commet's webhook retry delays: 1/60 turns its minutes into seconds."""
    webhook_timeout: float = 10.0
    usage_lag: float = 0.0
    """Simulated seconds until a tracked event shows in reads and sends its webhooks."""
    rate_limit: int = 0
    """Requests per wall minute and key; 0: no limit."""
    shuffle_seed: int | None = None
    """Shuffles the events of one moment, whose order Commet does not promise."""
    repeated_event_id: Literal["conflict", "replay"] = "conflict"
    """A usage eventId seen before: 409 `duplicate`, or the first answer again."""
    usage_period: Literal["now", "timestamp"] = "now"
    """Where a usage event with an old timestamp counts: in the allowance that is open, or in the
    one it belongs to, which has been billed."""
    repeated_email: Literal["create", "conflict", "link"] = "create"
    """A second customer with the same email: another customer, 409 `duplicate`, or the customer
    who has the email, under the new id."""
    access_without_subscription: Literal[
        "no_active_subscription", "feature_not_in_plan", "subscription_required"
    ] = "no_active_subscription"
    """The error of GET /feature-access/{code} for a customer without a subscription."""
    pending_access: Literal["none", "denied"] = "none"
    """Feature access of a customer whose subscription waits for payment: as without one, or the
    features of the plan, none of which is allowed."""
    declined_checkout: Literal["silent", "event"] = "silent"
    """Whether a declined first payment sends payment.failed."""
    payment_link_days: float = 0
    """Simulated days until a payment link expires; 0: never."""
    active_lookup: Literal["any", "live"] = "any"
    """Whether GET /subscriptions/active also answers with one that waits for payment."""
    state_snapshot: Literal["delivery", "emission"] = "delivery"
    """When the body of customer.state_changed is computed."""

    def __post_init__(self) -> None:
        """Raises ValueError for a public URL or a host that no request could match."""
        if self.public_url:
            check_public_url(self.public_url)
        for name in self.allow_hosts:
            bare_host(name)
