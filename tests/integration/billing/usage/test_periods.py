"""Periods as usage meets them: opened by news, turned by the clock, corrected, restarted, over."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from billing.database.connection import Database
from billing.delivery.outbox import claim
from billing.subscriptions import inbox
from billing.usage.accepting import UsageEvent, accept
from billing.usage.totals import usage_of_user
from tests.integration.billing.conftest import RULES, add_user, booked
from tests.integration.billing.signed import body, metered, state

_keys = count()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def learn(db: Database, *bodies: bytes, now: str) -> None:
    for each in bodies:
        assert inbox.receive(db, each, mode="sandbox", now=at(now)).outcome == "applied"


def capped(start: str, end: str, *, included: int = 100) -> dict[str, Any]:
    """`storage`, of which nothing beyond the included is billed."""
    feature = metered(period=(f"{start}T00:00:00Z", f"{end}T00:00:00Z"), included=included)
    feature["consumption"]["overage"]["enabled"] = False
    return feature


def use(db: Database, quantity: str, *, now: str) -> str:
    event = UsageEvent("usr_ana", "storage", Decimal(quantity), f"key-{next(_keys)}")
    (verdict,) = accept(db, [event], rules=RULES, now=at(now))
    return verdict.code or verdict.status


def seen(db: Database, *, now: str) -> tuple[str, str, Decimal]:
    """The period that the dashboard shows, and what was used in it."""
    (storage,) = usage_of_user(db, user_id="usr_ana", currency="usd", now=at(now))
    return (
        storage.period_start.strftime("%Y-%m-%d"),
        storage.period_end.strftime("%Y-%m-%d"),
        storage.used,
    )


def totals(db: Database) -> list[Decimal]:
    """What was booked in each period, in the order they were opened."""
    rows = db.all(
        "select coalesce(total, 0) as total from usage_period left join usage_total on period = id"
        " order by id"
    )
    return [row["total"] for row in rows]


class TestProvisional:
    def begin(self, db: Database) -> None:
        """September was paid for and is over; October began without a word from Commet."""
        add_user(db, "usr_ana")
        learn(
            db,
            state("usr_ana", "sub_1", 1, features=[capped("2026-09-01", "2026-10-01")]),
            now="2026-09-01",
        )
        assert use(db, "100", now="2026-09-30") == "accepted"
        assert use(db, "60", now="2026-10-02") == "accepted"
        assert seen(db, now="2026-10-02") == ("2026-10-01", "2026-11-01", Decimal(60))

    def test_confirmed(self, db: Database) -> None:
        """Commet says what we guessed: nothing moves, and it is a guess no longer."""
        self.begin(db)
        october = [capped("2026-10-01", "2026-11-01")]
        learn(db, state("usr_ana", "sub_1", 50_000, features=october), now="2026-10-03")
        assert totals(db) == [100, 60]
        assert db.value("select count(*) from usage_period where provisional") == 0

    def test_corrected_in_place(self, db: Database) -> None:
        """Commet's month began later than we thought: what was used since counts in it."""
        self.begin(db)
        later = [capped("2026-10-02", "2026-11-02")]
        learn(db, state("usr_ana", "sub_1", 50_000, features=later), now="2026-10-03")
        assert seen(db, now="2026-10-03") == ("2026-10-02", "2026-11-02", Decimal(60))
        assert use(db, "41", now="2026-10-03") == "limit_reached"
        assert use(db, "40", now="2026-10-03") == "accepted"
        assert totals(db) == [100, 100]

    def test_began_earlier(self, db: Database) -> None:
        """The other way round it is the same."""
        self.begin(db)
        earlier = [capped("2026-09-30", "2026-10-30")]
        learn(db, state("usr_ana", "sub_1", 50_000, features=earlier), now="2026-10-03")
        assert seen(db, now="2026-10-03") == ("2026-09-30", "2026-10-30", Decimal(60))
        assert totals(db) == [100, 60]

    def test_not_what_we_thought_at_all(self, db: Database) -> None:
        """After months of silence Commet's period lies beyond ours: that one is over."""
        self.begin(db)
        december = [capped("2026-12-01", "2027-01-01")]
        learn(db, state("usr_ana", "sub_1", 140_000, features=december), now="2026-12-10")
        assert use(db, "100", now="2026-12-10") == "accepted"
        assert totals(db) == [100, 60, 100]

    def test_another_plan_meanwhile(self, db: Database) -> None:
        """A guess about the old plan is not made into a period of the new one."""
        self.begin(db)
        october = [capped("2026-10-01", "2026-11-01")]
        change = state("usr_ana", "sub_1", 50_000, plan="pln_max", features=october)
        learn(db, change, now="2026-10-03")
        assert totals(db) == [100, 60, 0]

    def end(self, db: Database) -> None:
        """Commet says that the subscription is canceled, and so the guess is closed."""
        canceled = body(
            "subscription.canceled", 45_000, subscriptionId="sub_1", customerId="usr_ana"
        )
        learn(db, canceled, now="2026-10-02T12:00")
        assert use(db, "1", now="2026-10-02T13:00") == "subscription_required"

    def test_corrected_after_it_was_closed(self, db: Database) -> None:
        """Reactivated, and Commet's month began before the guess: the user has that month, once."""
        self.begin(db)
        self.end(db)
        earlier = [capped("2026-09-20", "2026-10-20")]
        learn(db, state("usr_ana", "sub_1", 50_000, features=earlier), now="2026-10-06")
        assert seen(db, now="2026-10-06") == ("2026-09-20", "2026-10-20", Decimal(60))
        assert use(db, "41", now="2026-10-06") == "limit_reached"
        assert use(db, "40", now="2026-10-06") == "accepted"
        assert totals(db) == [100, 100]

    def test_a_month_that_was_known_comes_before_a_guess(self, db: Database) -> None:
        """Commet says that the month before the guess goes on: what was used in it stays used."""
        self.begin(db)
        self.end(db)
        longer = [capped("2026-09-01", "2026-10-10")]
        learn(db, state("usr_ana", "sub_1", 50_000, features=longer), now="2026-10-06")
        assert seen(db, now="2026-10-06") == ("2026-09-01", "2026-10-10", Decimal(100))
        assert use(db, "1", now="2026-10-06") == "limit_reached"

    def test_another_plan_after_it_was_closed(self, db: Database) -> None:
        """A guess does not keep a month of another plan from beginning before the guess."""
        self.begin(db)
        self.end(db)
        earlier = [capped("2026-09-20", "2026-10-20")]
        back = state("usr_ana", "sub_1", 50_000, plan="pln_max", features=earlier)
        learn(db, back, now="2026-10-06")
        assert use(db, "100", now="2026-10-06") == "accepted"
        assert totals(db) == [100, 60, 100]


class TestPlanChange:
    def test_on_the_same_day(self, db: Database) -> None:
        """There and back on the first day: three periods that begin alike, each with its usage."""
        add_user(db, "usr_ana")
        september = [capped("2026-09-01", "2026-10-01")]
        for minute, (plan, quantity) in enumerate(
            [("pln_pro", "100"), ("pln_max", "70"), ("pln_pro", "30")]
        ):
            learn(
                db,
                state("usr_ana", "sub_1", minute, plan=plan, features=september),
                now=f"2026-09-01T00:0{minute}",
            )
            assert use(db, quantity, now=f"2026-09-01T00:0{minute}:30") == "accepted"
        assert totals(db) == [100, 70, 30]
        assert use(db, "71", now="2026-09-01T01:00") == "limit_reached"
        assert claim(db, now=at("2026-09-01T01:00"), interval=timedelta(0)) == 3
        assert len(db.all("select distinct event_id from usage_delivery")) == 3
        assert set(booked(db, "usr_ana").values()) == {Decimal(200)}

    def test_a_new_subscription_on_the_same_day(self, db: Database) -> None:
        """Ended and bought again within the hour: what was used before is not in the way."""
        add_user(db, "usr_ana")
        september = [capped("2026-09-01", "2026-10-01")]
        learn(db, state("usr_ana", "sub_1", 1, features=september), now="2026-09-01T00:01")
        use(db, "100", now="2026-09-01T00:02")
        ended = body("subscription.canceled", 3, subscriptionId="sub_1", customerId="usr_ana")
        learn(db, ended, now="2026-09-01T00:03")
        assert use(db, "1", now="2026-09-01T00:04") == "subscription_required"
        learn(db, state("usr_ana", "sub_2", 5, features=september), now="2026-09-01T00:05")
        assert use(db, "100", now="2026-09-01T00:06") == "accepted"
        assert totals(db) == [100, 100]

    def test_back_in_the_period_that_was_left(self, db: Database) -> None:
        """The same subscription reactivated goes on where it was: no second allowance."""
        add_user(db, "usr_ana")
        september = [capped("2026-09-01", "2026-10-01")]
        learn(db, state("usr_ana", "sub_1", 1, features=september), now="2026-09-01T00:01")
        use(db, "60", now="2026-09-01T00:02")
        ended = body("subscription.canceled", 3, subscriptionId="sub_1", customerId="usr_ana")
        learn(db, ended, now="2026-09-01T00:03")
        learn(db, state("usr_ana", "sub_1", 5, features=september), now="2026-09-01T00:05")
        assert use(db, "41", now="2026-09-01T00:06") == "limit_reached"
        assert use(db, "40", now="2026-09-01T00:06") == "accepted"
        assert totals(db) == [100]


class TestAYearlyPlan:
    def test_allowances_are_monthly(self, db: Database) -> None:
        """Paid for a year, counted by the month that Commet's entitlements name."""
        add_user(db, "usr_ana")
        learn(
            db,
            body(
                "subscription.activated",
                0,
                subscriptionId="sub_1",
                customerId="usr_ana",
                status="active",
                currentPeriodStart="2026-01-31T00:00:00Z",
                currentPeriodEnd="2027-01-31T00:00:00Z",
            ),
            state("usr_ana", "sub_1", 1, features=[capped("2026-01-31", "2026-02-28")]),
            now="2026-01-31",
        )
        months = ["2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]
        for month in months:
            assert use(db, "100", now=month) == "accepted"
            assert use(db, "1", now=month) == "limit_reached"
        assert seen(db, now="2026-05-01") == ("2026-04-30", "2026-05-31", Decimal(100))
        assert totals(db) == [100] * 4
