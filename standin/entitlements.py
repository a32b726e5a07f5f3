"""What a subscription grants right now, feature by feature."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from standin.catalogue import Feature, PlanFeature
from standin.clock import midnight
from standin.models import Allowance, Meter, Subscription, meter_id
from standin.periods import open_period
from standin.store import stamp
from standin.world import World


@dataclass(frozen=True, slots=True)
class Entitlement:
    """One feature of one subscription, with the usage of the current allowance."""

    feature: Feature
    grant: PlanFeature
    meter: Meter
    used: Decimal
    """The usage that counts or shows. The meter has the exact total."""
    allowance: Allowance | None
    has_access: bool
    model: str
    """The plan's consumption model. A plan without a model is metered."""
    overage_possible: bool
    """False on free plans and during trials, whatever the plan says."""

    @property
    def included(self) -> int:
        """Units the plan includes."""
        return self.grant.included_amount

    @property
    def overage_enabled(self) -> bool:
        """Whether units beyond the included ones are accepted and billed."""
        return self.grant.overage.enabled and self.overage_possible

    @property
    def remaining(self) -> Decimal:
        """Included units not used yet."""
        return max(Decimal(0), self.included - self.used)

    @property
    def overage_units(self) -> Decimal:
        """Units beyond the included ones."""
        return Decimal(0) if self.grant.unlimited else max(Decimal(0), self.used - self.included)

    @property
    def allowed(self) -> bool:
        """Whether the feature can be used at all, as of now."""
        if self.feature.type == "boolean":
            return self.has_access and self.grant.enabled
        if self.feature.type == "usage" and self.model != "metered":
            return False  # the pool is always empty
        return self.has_access and self.grant.enabled and self.fits(Decimal(0), strict=True)

    def fits(self, quantity: Decimal, *, strict: bool = False) -> bool:
        """Whether this additional quantity fits the limits. With `strict`, some room must
        remain.
        """
        if self.grant.unlimited or self.overage_enabled:
            return True
        total = self.used + quantity
        return total < self.included if strict else total <= self.included


def entitlements(world: World, sub: Subscription, *, exact: bool = False) -> list[Entitlement]:
    """Returns all features of the plan. `exact` also counts usage that reads do not show yet."""
    return [_entitlement(world, sub, grant, exact=exact) for grant in world.plan(sub).features]


def denied(world: World, sub: Subscription) -> list[Entitlement]:
    """Returns the features of a subscription that waits for its payment. None of them is allowed.

    The allowance is the one that would have begun if it had been paid on the day it was created.
    """
    unpaid = sub.model_copy(deep=True)
    open_period(unpaid, midnight(sub.created_at))
    return entitlements(world, unpaid)


def entitlement(
    world: World, sub: Subscription, code: str, *, exact: bool = False
) -> Entitlement | None:
    """Returns one feature, or None if it is not part of the plan."""
    grant = world.plan(sub).feature(code)
    return _entitlement(world, sub, grant, exact=exact) if grant else None


def _entitlement(
    world: World, sub: Subscription, grant: PlanFeature, *, exact: bool
) -> Entitlement:
    feature = world.catalogue.feature(grant.code)
    if feature is None:
        raise LookupError(f"the catalogue has lost feature {grant.code}")
    current = meter(world, sub, grant.code)
    return Entitlement(
        feature=feature,
        grant=grant,
        meter=current,
        used=current.used if exact else _visible(world, current),
        allowance=sub.allowance,
        has_access=sub.has_access,
        model=world.plan(sub).consumption_model or "metered",
        overage_possible=not world.plan(sub).is_free and sub.status != "trialing",
    )


def meter(world: World, sub: Subscription, code: str) -> Meter:
    """The running total of a feature in the current allowance."""
    if sub.allowance is None:
        return Meter(id=meter_id("none", code))
    key = meter_id(sub.allowance.id, code)
    return world.store.meters.get(key) or Meter(id=key)


def _visible(world: World, current: Meter) -> Decimal:
    """Returns the usage that reads show: all usage, or all except what a lag still hides."""
    if world.longest_usage_lag <= 0:
        return current.used
    return current.used - _still_hidden(world, current, world.now())


def _still_hidden(world: World, current: Meter, now: datetime) -> Decimal:
    since = now - timedelta(seconds=world.longest_usage_lag)
    recent = world.store.usage.find("meter_id = ? AND created_at > ?", current.id, stamp(since))
    return sum((r.value for r in recent if r.shows_at and r.shows_at > now), Decimal(0))
