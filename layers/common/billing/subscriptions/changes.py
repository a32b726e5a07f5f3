"""What one piece of information says about a customer, ready for the SQL function `record_change`.

Webhooks and Commet's answers both become this, so there is one way for state to change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Change:
    """Columns of `subscriptions` that are absent from `known` are not spoken of."""

    subscription_id: str | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    # Something changed that this news does not carry: Commet has to be asked.
    mark: bool = False
    # Commet says the customer has no subscription at all.
    ends_all: bool = False
    # The whole set of entitlements, or None where the news does not speak of them.
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
    """What usage is counted in; start and end as ISO-8601."""

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
    """One feature of `Change.features`: amounts as decimal strings, the price in rate scale."""
    return dict(locals())
