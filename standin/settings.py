"""All settings of a stand-in, in one frozen object."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from standin.hosts import bare_host, check_public_url

API_VERSION = "2026-08-27"
API_PREFIX = "/api/v1"


@dataclass(frozen=True, slots=True)
class Settings:
    """The behaviour of this stand-in. Durations are wall seconds unless a comment says
    otherwise.
    """

    data: str = ":memory:"
    """SQLite file, or `:memory:` to keep nothing after the end."""
    api_key: str | None = None
    """None: the stored key, or a new one."""
    public_url: str = ""
    """The beginning of the addresses of hosted pages; empty: the address on which we listen."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts to answer in addition to loopback and the host of `public_url`: names or addresses."""
    catalogue: Path | None = None
    """File of features and plans; None: the stand-in's own."""
    currency: str = "usd"
    tax_percent: Decimal = Decimal(0)
    """Tax added to every charge, in percent."""
    speed: float = 1.0
    """Simulated seconds per wall second."""
    retry_scale: float = 1.0
    """Factor on Commet's webhook retry delays: 1/60 turns its minutes into seconds."""
    webhook_timeout: float = 10.0
    usage_lag: float = 0.0
    """Simulated seconds until reads show a tracked event and its webhooks are sent."""
    rate_limit: int = 0
    """Requests per wall minute and key; 0: no limit."""
    shuffle_seed: int | None = None
    """Shuffles the events of one moment, whose order Commet does not promise."""
    repeated_event_id: Literal["conflict", "replay"] = "conflict"
    """The answer to a usage eventId seen before: 409 `duplicate`, or the first answer again."""
    usage_period: Literal["now", "timestamp"] = "now"
    """Where a usage event with an old timestamp counts: in the open allowance, or in the
    allowance of its timestamp, which has been billed.
    """
    repeated_email: Literal["create", "conflict", "link"] = "create"
    """The answer to a second customer with the same email: another customer, 409 `duplicate`,
    or the existing customer, with the new id.
    """
    access_without_subscription: Literal[
        "no_active_subscription", "feature_not_in_plan", "subscription_required"
    ] = "no_active_subscription"
    """The error of GET /feature-access/{code} for a customer without a subscription."""
    pending_access: Literal["none", "denied"] = "none"
    """Feature access of a customer whose subscription waits for payment: as without a
    subscription, or all features of the plan, none of them allowed.
    """
    declined_checkout: Literal["silent", "event"] = "silent"
    """Whether a declined first payment sends payment.failed."""
    payment_link_days: float = 0
    """Simulated days until a payment link expires; 0: never."""
    active_lookup: Literal["any", "live"] = "any"
    """Whether GET /subscriptions/active also returns a subscription that waits for payment."""
    state_snapshot: Literal["delivery", "emission"] = "delivery"
    """When the body of customer.state_changed is computed."""

    def __post_init__(self) -> None:
        """Raises ValueError for a public URL or a host that no request could match."""
        if self.public_url:
            check_public_url(self.public_url)
        for name in self.allow_hosts:
            bare_host(name)
