"""Misbehaviour on demand: rules that make chosen requests or webhooks go wrong."""

from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from local.commet.ids import new_id


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: new_id("flt"))
    times: int | None = Field(default=None, ge=1)
    """How often it strikes; None: until it is cleared."""
    skip: int = Field(default=0, ge=0)
    """How many matching occasions pass unharmed first."""
    hits: int = 0

    def take(self) -> bool:
        """Whether the rule strikes on this matching occasion; counts it."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


class RequestMatch(BaseModel):
    """Which requests: method, and path below /api/v1 (`*` stands for anything)."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    path: str | None = None

    def fits(self, method: str, path: str) -> bool:
        """Whether a request is meant."""
        return (self.method is None or self.method.upper() == method) and (
            self.path is None or fnmatchcase(path, self.path)
        )


class RequestAction(BaseModel):
    """What goes wrong. `after` lets the request take effect before its answer is spoiled."""

    model_config = ConfigDict(extra="forbid")

    latency_ms: int = Field(default=0, ge=0)
    status: int | None = Field(default=None, ge=200, le=599)
    code: str | None = None
    message: str | None = None
    retry_after: int | None = None
    after: bool = False
    reset: Literal["before", "after"] | None = None
    invalid_json: bool = False
    truncate: bool = False


class RequestFault(_Rule):
    """A rule about requests."""

    match: RequestMatch = RequestMatch()
    action: RequestAction


class WebhookMatch(BaseModel):
    """Which deliveries: event name and endpoint address (`*` stands for anything)."""

    model_config = ConfigDict(extra="forbid")

    event: str | None = None
    url: str | None = None

    def fits(self, event: str, url: str) -> bool:
        """Whether a delivery is meant."""
        return (self.event is None or fnmatchcase(event, self.event)) and (
            self.url is None or fnmatchcase(url, self.url)
        )


class WebhookAction(BaseModel):
    """What goes wrong with a delivery."""

    model_config = ConfigDict(extra="forbid")

    drop: bool = False
    """Never sent, and not retried."""
    duplicate: bool = False
    """Sent twice, one after the other."""
    concurrent: bool = False
    """Sent twice at the same time."""
    delay_ms: int = Field(default=0, ge=0)
    """Sent this much later, in simulated milliseconds."""
    corrupt: Literal["signature", "body"] | None = None
    same_timestamp: bool = False
    """While the rule stands, events may carry equal timestamps."""


class WebhookFault(_Rule):
    """A rule about webhook deliveries."""

    match: WebhookMatch = WebhookMatch()
    webhooks: WebhookAction


class FaultRequest(BaseModel):
    """Body of POST /_standin/faults: a rule about requests, or one about webhooks."""

    model_config = ConfigDict(extra="forbid")

    match: dict[str, str] = {}
    action: RequestAction | None = None
    webhooks: WebhookAction | None = None
    times: int | None = Field(default=None, ge=1)
    skip: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.action is None) == (self.webhooks is None):
            raise ValueError("give either action (requests) or webhooks")
        return self

    def rule(self) -> RequestFault | WebhookFault:
        """The rule that was asked for. Raises ValidationError for a match that cannot be."""
        if self.action is not None:
            match = RequestMatch.model_validate(self.match)
            return RequestFault(match=match, action=self.action, times=self.times, skip=self.skip)
        webhook_match = WebhookMatch.model_validate(self.match)
        return WebhookFault(
            match=webhook_match,
            webhooks=self.webhooks or WebhookAction(),
            times=self.times,
            skip=self.skip,
        )


class Faults:
    """The rules in force; the oldest that fits strikes."""

    def __init__(self) -> None:
        self.rules: list[RequestFault | WebhookFault] = []

    @property
    def same_timestamp(self) -> bool:
        """Whether events may carry equal timestamps."""
        return any(isinstance(r, WebhookFault) and r.webhooks.same_timestamp for r in self.rules)

    def for_request(self, method: str, path: str) -> RequestAction | None:
        """What should go wrong with this request, if anything."""
        for rule in self.rules:
            if isinstance(rule, RequestFault) and rule.match.fits(method, path) and rule.take():
                return rule.action
        return None

    def for_delivery(self, event: str, url: str) -> WebhookAction | None:
        """What should go wrong with this delivery, if anything."""
        for rule in self.rules:
            if isinstance(rule, WebhookFault) and rule.match.fits(event, url) and rule.take():
                return rule.webhooks
        return None

    def clear(self, rule_id: str | None = None) -> None:
        """Forget one rule, or all."""
        self.rules = [r for r in self.rules if rule_id is not None and r.id != rule_id]
