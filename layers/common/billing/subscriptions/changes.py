"""A change: what one webhook, or one answer of Commet, says about a customer.

Webhooks and answers both become a `Change`, and the SQL function `record_change` applies both, so
that all changes follow the same rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class Change:
    """One change. `known` holds new values of columns of `subscriptions`. Other columns do not
    change.
    """

    subscription_id: str | None = None
    known: Mapping[str, Any] = field(default_factory=dict)
    # True: the subscription changed in a way that is not in `known`, so Commet has to be asked.
    mark: bool = False
    # When Commet named this customer as the owner of the subscription. None: when the change
    # occurred. For an answer, this is the time of asking.
    owned_at: datetime | None = None
    # True: Commet says that the customer has no subscription at all.
    ends_all: bool = False
    # All entitlements of the customer. None if the source does not list them.
    features: Sequence[Mapping[str, Any]] | None = None
    period: "AllowancePeriod | None" = None
    # The currency in which Commet charges the subscription. None if the source does not say.
    currency: str | None = None
    # News about one payment trouble (payments/from_webhook.py), or None.
    payment: Mapping[str, Any] | None = None
    # News about the customer's debts (`record_debt_news`).
    debt: Mapping[str, Any] | None = None
    # News about who the customer is (`record_customer`). A change with this has nothing else.
    customer: Mapping[str, Any] | None = None

    def parameter(self) -> Jsonb:
        """The `p_change` argument of `record_change`."""
        value: dict[str, Any] = {"ends_all": self.ends_all}
        if self.subscription_id is not None:
            value["subscription"] = {
                "id": self.subscription_id,
                "known": dict(self.known),
                "mark": self.mark,
            }
            if self.owned_at is not None:
                value["subscription"]["owned_at"] = self.owned_at.isoformat()
        if self.features is not None:
            value["features"] = list(self.features)
        if self.period is not None:
            value["period"] = {
                "start": self.period.start,
                "end": self.period.end,
                "subscription": self.period.subscription_id,
            }
        if self.currency is not None:
            value["currency"] = self.currency
        if self.payment is not None:
            value["payment"] = dict(self.payment)
        if self.debt is not None:
            value["debt"] = dict(self.debt)
        if self.customer is not None:
            value["customer"] = dict(self.customer)
        return Jsonb(value)


@dataclass(frozen=True, slots=True)
class AllowancePeriod:
    """The period in which usage is counted; start and end as ISO-8601 texts."""

    subscription_id: str
    start: str
    end: str


def scheduled_change(
    *, plan_id: str | None, plan_name: str | None, interval: str | None, effective_at: str | None
) -> dict[str, Any]:
    """Returns the value for a scheduled change of plan. `interval` is None for a free plan."""
    return dict(locals())


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
    """Returns one item of `Change.features`.

    Quantities are decimal strings. `unit_price` is in the rate scale, where 10000 is 1.00.
    """
    return dict(locals())
