"""Injected faults: rules that make chosen requests, webhooks or usage fail or differ."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from standin.ids import new_id


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=lambda: new_id("flt"))
    times: int | None = Field(default=None, ge=1)
    """How many times the rule applies; None: until it is deleted."""
    skip: int = Field(default=0, ge=0)
    """How many matching occasions pass before the rule applies."""
    hits: int = 0

    def take(self) -> bool:
        """Counts a matching occasion. Returns whether the rule applies to it."""
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.used_up:
            return False
        self.hits += 1
        return True

    @property
    def used_up(self) -> bool:
        """Whether the rule has applied as often as it should."""
        return self.times is not None and self.hits >= self.times * self._occasions_per_strike()

    def _occasions_per_strike(self) -> int:
        return 1


class RequestMatch(BaseModel):
    """The requests of a rule: method, and path below /api/v1 (`*` stands for anything)."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = None
    path: str | None = None

    def fits(self, method: str, path: str) -> bool:
        """Returns whether a request matches."""
        return (self.method is None or self.method.upper() == method) and (
            self.path is None or fnmatchcase(path, self.path)
        )


class RequestAction(BaseModel):
    """The fault in a request. With `after`, the request takes effect before the answer is changed.

    Faults can be combined: latency with any other, a status with a body that is no JSON or
    incomplete.
    """

    model_config = ConfigDict(extra="forbid")

    latency_ms: int = Field(default=0, ge=0)
    status: int | None = Field(default=None, ge=200, le=599)
    code: str | None = None
    """Without a status, the code's own status and type are used."""
    message: str | None = None
    retry_after: int | str | None = None
    """Seconds, or any text, such as an HTTP date."""
    after: bool = False
    reset: Literal["before", "after"] | None = None
    invalid_json: bool = False
    truncate: bool = False

    @property
    def answers(self) -> bool:
        """Whether the rule itself gives the answer."""
        return self.status is not None or self.code is not None


class RequestFault(_Rule):
    """A rule about requests."""

    match: RequestMatch = RequestMatch()
    action: RequestAction


class WebhookMatch(BaseModel):
    """The deliveries of a rule: event name and endpoint address (`*` stands for anything)."""

    model_config = ConfigDict(extra="forbid")

    event: str | None = None
    url: str | None = None

    def fits(self, event: str, url: str) -> bool:
        """Returns whether a delivery matches."""
        return (self.event is None or fnmatchcase(event, self.event)) and (
            self.url is None or fnmatchcase(url, self.url)
        )


class WebhookAction(BaseModel):
    """The fault in a delivery."""

    model_config = ConfigDict(extra="forbid")

    drop: bool = False
    """The delivery is never sent, and not retried."""
    duplicate: bool = False
    """It is sent twice, one after the other."""
    concurrent: bool = False
    """It is sent twice at the same time."""
    delay_ms: int = Field(default=0, ge=0)
    """It is sent later by this number of simulated milliseconds."""
    reorder: int = Field(default=0, ge=0)
    """It is held back until this number of deliveries wait. They are then sent one by one, the
    last first.
    """
    disable: bool = False
    """The endpoint is disabled, as after three exhausted events, and this delivery is given up."""
    corrupt: Literal["signature", "body"] | None = None
    same_timestamp: bool = False
    """While the rule exists, events may have equal timestamps."""


class WebhookFault(_Rule):
    """A rule about webhook deliveries."""

    match: WebhookMatch = WebhookMatch()
    webhooks: WebhookAction

    def _occasions_per_strike(self) -> int:
        return self.webhooks.reorder or 1


class UsageMatch(BaseModel):
    """The tracked usage of a rule: customer (the caller's id or `cus_…`) and feature code."""

    model_config = ConfigDict(extra="forbid")

    customer: str | None = None
    feature: str | None = None

    def fits(self, customers: set[str], feature: str) -> bool:
        """Returns whether usage of one of these customer ids matches."""
        return (
            self.customer is None or any(fnmatchcase(key, self.customer) for key in customers)
        ) and (self.feature is None or fnmatchcase(feature, self.feature))


class UsageAction(BaseModel):
    """The fault in tracked usage that was accepted."""

    model_config = ConfigDict(extra="forbid")

    late_seconds: int = Field(gt=0, le=86_400 * 365)
    """Simulated seconds until reads show the usage and its webhooks are sent."""


class UsageFault(_Rule):
    """A rule about tracked usage."""

    match: UsageMatch = UsageMatch()
    usage: UsageAction


Rule = RequestFault | WebhookFault | UsageFault


class FaultRequest(BaseModel):
    """Body of POST /_standin/faults: a rule about requests, webhooks or usage."""

    model_config = ConfigDict(extra="forbid")

    match: dict[str, str] = {}
    action: RequestAction | None = None
    webhooks: WebhookAction | None = None
    usage: UsageAction | None = None
    times: int | None = Field(default=None, ge=1)
    skip: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(part is not None for part in (self.action, self.webhooks, self.usage)) != 1:
            raise ValueError("give exactly one of action (requests), webhooks and usage")
        return self

    def rule(self) -> Rule:
        """Returns the requested rule. Raises ValidationError for an impossible match."""
        kind: type[Rule]
        what: dict[str, Any]
        if self.action is not None:
            kind, what = RequestFault, {"action": self.action}
        elif self.webhooks is not None:
            kind, what = WebhookFault, {"webhooks": self.webhooks}
        else:
            kind, what = UsageFault, {"usage": self.usage}
        shared: dict[str, Any] = {"match": self.match, "times": self.times, "skip": self.skip}
        return kind.model_validate(shared | what)


class Faults:
    """The rules that apply. If several rules match, the oldest one applies."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.on_clear: Callable[[], None] = lambda: None
        """Called when rules are deleted, so that deliveries that they held back are sent."""

    @property
    def same_timestamp(self) -> bool:
        """Whether events may carry equal timestamps."""
        return any(isinstance(r, WebhookFault) and r.webhooks.same_timestamp for r in self.rules)

    def for_request(self, method: str, path: str) -> RequestAction | None:
        """Returns the fault for this request, or None."""
        for rule in self.rules:
            if isinstance(rule, RequestFault) and rule.match.fits(method, path) and rule.take():
                return rule.action
        return None

    def for_delivery(self, event: str, url: str) -> WebhookAction | None:
        """Returns the fault for this delivery, or None."""
        for rule in self.rules:
            if isinstance(rule, WebhookFault) and rule.match.fits(event, url) and rule.take():
                return rule.webhooks
        return None

    def for_usage(self, customers: set[str], feature: str) -> UsageAction | None:
        """Returns the fault for this usage, or None."""
        for rule in self.rules:
            if isinstance(rule, UsageFault) and rule.match.fits(customers, feature) and rule.take():
                return rule.usage
        return None

    def clear(self, rule_id: str | None = None) -> None:
        """Delete one rule, or all."""
        self.rules = [r for r in self.rules if rule_id is not None and r.id != rule_id]
        self.on_clear()
