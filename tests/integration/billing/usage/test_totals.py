"""What the dashboard shows of usage: exact, in the period that runs, by the rules that apply."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from billing.database.connection import Database
from billing.usage.accepting import UsageEvent, accept
from billing.usage.totals import DayOfUse, FeatureUsage, usage_of_user
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    START,
    Subscribe,
    after,
    grant_feature,
)

END = datetime(2026, 10, 1, tzinfo=UTC)


def use(db: Database, quantity: str, *, at: datetime = NOW, feature: str = "storage") -> None:
    event = UsageEvent("usr_ana", feature, Decimal(quantity), f"{feature}-{quantity}-{at}")
    (verdict,) = accept(db, [event], rules=RULES, now=at)
    assert verdict.status == "accepted"


def read(db: Database, now: datetime = NOW) -> list[FeatureUsage]:
    return usage_of_user(db, user_id="usr_ana", currency="eur", now=now)


class TestUsageOfUser:
    def test_the_story(self, db: Database, subscribe: Subscribe) -> None:
        """130 of 100 GB used at $0.10: 30 over, $3.00, day by day."""
        subscribe()
        use(db, "99.5")
        use(db, "30.5", at=after(days=1))
        (storage,) = read(db, after(days=1))
        assert (storage.feature, storage.name, storage.unit) == ("storage", "Storage", "GB")
        assert (storage.period_start, storage.period_end) == (START, END)
        assert (storage.used, storage.included, storage.remaining) == (
            Decimal(130),
            Decimal(100),
            Decimal(0),
        )
        assert (storage.overage.enabled, storage.overage.quantity) == (True, Decimal(30))
        assert (str(storage.overage.cost), storage.overage.currency) == ("3.00", "usd")
        assert storage.daily == (
            DayOfUse(date(2026, 9, 10), Decimal("99.5")),
            DayOfUse(date(2026, 9, 11), Decimal("30.5")),
        )

    def test_nothing_used_yet(self, db: Database, subscribe: Subscribe) -> None:
        """Features show from the first day on, in order, with a zero."""
        subscribe()
        grant_feature(db, "usr_ana", "api", currency=None)
        api, storage = read(db)
        assert (api.feature, storage.feature) == ("api", "storage")
        assert (storage.used, storage.remaining, storage.daily) == (Decimal(0), Decimal(100), ())
        assert (str(api.overage.cost), api.overage.currency) == ("0.00", "eur")

    def test_only_what_is_counted_and_granted(self, db: Database, subscribe: Subscribe) -> None:
        """Boolean features and those a plan no longer has are no usage."""
        subscribe(feature="sso", type="boolean", model=None)
        grant_feature(db, "usr_ana", "gone", allowed=False, included=0, overage_enabled=False)
        assert read(db) == []

    def test_a_used_up_allowance_still_shows(self, db: Database, subscribe: Subscribe) -> None:
        """Commet calls it "not allowed", and that is when people look."""
        subscribe(allowed=False, overage_enabled=False)
        (storage,) = read(db)
        assert storage.overage.enabled is False

    def test_unlimited(self, db: Database, subscribe: Subscribe) -> None:
        """There is no included amount to show, and nothing is ever beyond it."""
        subscribe(unlimited=True)
        use(db, "500")
        (storage,) = read(db)
        assert (storage.unlimited, storage.included, storage.remaining) == (True, None, None)
        assert storage.overage.quantity == 0

    @pytest.mark.parametrize("subscription", [{"status": "trialing"}, {"interval": None}])
    def test_overage_as_it_applies(
        self, db: Database, subscribe: Subscribe, subscription: dict[str, object]
    ) -> None:
        """In a trial and on a free plan nothing is billed on top, whatever the plan says."""
        subscribe(**subscription)
        (storage,) = read(db)
        assert storage.overage.enabled is False
        assert storage.overage.cost == 0

    def test_a_price_that_is_not_known(self, db: Database, subscribe: Subscribe) -> None:
        """What it costs cannot be told then, and that is not nothing."""
        subscribe()
        use(db, "100")
        db.execute("update entitlements set unit_price = null")
        (storage,) = read(db)
        assert storage.overage.cost == 0
        db.execute("update entitlements set unit_price = 1000")
        use(db, "0.5")
        db.execute("update entitlements set unit_price = null")
        (storage,) = read(db)
        assert (storage.overage.quantity, storage.overage.cost) == (Decimal("0.5"), None)

    def test_the_period_turns_while_nobody_acts(self, db: Database, subscribe: Subscribe) -> None:
        """After its end the next period shows, empty, though nothing has opened it yet."""
        subscribe()
        use(db, "7")
        (storage,) = read(db, END)
        assert (storage.period_start, storage.period_end) == (
            END,
            datetime(2026, 11, 1, tzinfo=UTC),
        )
        assert (storage.used, storage.remaining, storage.daily) == (Decimal(0), Decimal(100), ())

    def test_without_a_period(self, db: Database, subscribe: Subscribe) -> None:
        """Nothing is counted before one opens, nor once the subscription is over."""
        subscribe(starts_at=None)
        assert read(db) == []

    def test_somebody_else(self, db: Database, subscribe: Subscribe) -> None:
        """One user's usage never shows to another."""
        subscribe()
        use(db, "7")
        subscribe("usr_bob")
        (storage,) = usage_of_user(db, user_id="usr_bob", currency="usd", now=NOW)
        assert storage.used == 0
