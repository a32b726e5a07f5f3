"""A change: what one webhook, or one answer of Commet, says about a customer.

Webhooks and answers both become a `Change`. The SQL function `record_change` applies it, so
subscriptions change in one way only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `known` holds new values of columns of `subscriptions`; others stay."""

    subscription_id: str | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    # Whether the subscription changed in a way that is not in `known`, so Commet has to be asked.
    mark: bool = False
    # Whether Commet says that the customer has no subscription at all.
    ends_all: bool = False
    # All entitlements of the customer, or None where the source says nothing about entitlements.
    features: Sequence[Mapping[str, Any]] | None = None
    period: "AllowancePeriod | None" = None

    def parameter(self) -> Jsonb:
        """The `p_change` argument of `record_change`."""
        value: dict[str, Any] = {"ends_all": self.ends_all}
        if self.subscription_id is not None:
            value["subscription"] = {
                "id": self.subscription_id,
                "known": dict(self.known),
                "mark": self.mark,
            }
        if self.features is not None:
            value["features"] = list(self.features)
        if self.period is not None:
            value["period"] = {
                "start": self.period.start,
                "end": self.period.end,
                "subscription": self.period.subscription_id,
            }
        return Jsonb(value)


@dataclass(frozen=True, slots=True)
class AllowancePeriod:
    """The period in which usage is counted; start and end as ISO-8601 texts."""

    subscription_id: str
    start: str
    end: str


def entitlement(
    *,
    feature: str,
    name: str,
    type: str,  # noqa: A002 - Commet's word for it
    unit: str | None,
    allowed: bool,
    model: str | None = None,
    included: str | None = None,
    unlimited: bool = False,
    overage_enabled: bool = False,
    unit_price: str | None = None,
    currency: str | None = None,
) -> dict[str, Any]:
    """One item of `Change.features`.

    Quantities are decimal strings. `unit_price` is in the rate scale, where 10000 is 1.00.
    """
    return dict(locals())
