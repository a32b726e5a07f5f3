"""Taking usage: what is booked, what is refused, and that nothing is counted twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from threading import Barrier

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.database.connection import Database
from billing.usage.accepting import Allowance, UsageEvent, accept, check
from billing.usage.spending import Spending
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    START,
    STATUSES,
    Subscribe,
    after,
    booked,
    grant_feature,
)

END = datetime(2026, 10, 1, tzinfo=UTC)
_keys = count()


def event(
    quantity: str = "1",
    *,
    key: str | None = None,
    user: str = "usr_ana",
    feature: str = "storage",
    occurred_at: datetime | None = None,
) -> UsageEvent:
    return UsageEvent(user, feature, Decimal(quantity), key or f"key-{next(_keys)}", occurred_at)


def take(db: Database, *events: UsageEvent, now: datetime = NOW) -> list[str]:
    """One word per event: its status, or the code of its refusal."""
    verdicts = accept(db, events, rules=RULES, now=now)
    assert all((v.code is not None) == (v.status == "refused") for v in verdicts)
    return [v.code or v.status for v in verdicts]


def periods(db: Database) -> list[dict[str, object]]:
    return db.all(
        "select starts_at, ends_at, provisional, closed_at, coalesce(total, 0) as total"
        " from usage_period left join usage_total on period = id order by id"
    )


class TestAccept:
    def test_books_and_adds_up(self, db: Database, subscribe: Subscribe) -> None:
        """Accepted usage is in the ledger, the total and its day at once, to the last digit."""
        subscribe()
        assert take(db, event("0.1"), event("0.2"), event("1.000001")) == ["accepted"] * 3
        assert take(db, event("5"), now=after(days=1)) == ["accepted"]
        assert set(booked(db, "usr_ana").values()) == {Decimal("6.300001")}
        days = db.all("select day::text, quantity from usage_daily order by day")
        assert [tuple(d.values()) for d in days] == [
            ("2026-09-10", Decimal("1.300001")),
            ("2026-09-11", Decimal(5)),
        ]

    def test_nothing_to_take(self, db: Database) -> None:
        """No events, no verdicts."""
        assert accept(db, [], rules=RULES, now=NOW) == []

    def test_a_batch_of_many_users(self, db: Database, subscribe: Subscribe) -> None:
        """Each event is booked on its own user, and verdicts keep the order of the events."""
        for n in range(3):
            subscribe(f"usr_{n}")
        batch = [event(str(i + 1), user=f"usr_{i % 4}") for i in range(12)]
        assert take(db, *batch) == (["accepted"] * 3 + ["unknown_user"]) * 3
        assert [booked(db, f"usr_{n}")["total"] for n in range(3)] == [15, 18, 21]

    def test_what_the_caller_said_is_kept(self, db: Database, subscribe: Subscribe) -> None:
        """The ledger row carries time and properties as they were reported."""
        subscribe()
        at = NOW - timedelta(hours=3)
        reported = UsageEvent(
            "usr_ana", "storage", Decimal(2), "k", at, {"bucket": 'ü"\\', "%": "%(now)s"}
        )
        accept(db, [reported], rules=RULES, now=NOW)
        row = db.one("select occurred_at, booked_at, properties, late, kind from usage_event")
        assert row == {
            "occurred_at": at,
            "booked_at": NOW,
            "properties": dict(reported.properties),
            "late": False,
            "kind": "event",
        }

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        key=st.text(
            st.one_of(
                st.sampled_from("\\\"'{},%N ULL"),
                st.characters(exclude_categories=["Cs", "Cc"]),
            ),
            min_size=1,
            max_size=200,
        )
    )
    def test_any_text_is_kept_as_it_is(self, db: Database, subscribe: Subscribe, key: str) -> None:
        """Nothing a caller writes into a key or a property is read as anything else."""
        db.execute("truncate usage_event, usage_total, usage_daily")
        subscribe()
        reported = UsageEvent("usr_ana", "storage", Decimal(1), key, None, {key: key})
        assert take(db, reported, reported) == ["accepted", "duplicate"]
        assert db.one("select idempotency_key as key, properties from usage_event") == {
            "key": key,
            "properties": {key: key},
        }


class TestKeys:
    def test_again_is_a_duplicate(self, db: Database, subscribe: Subscribe) -> None:
        """The same event sent again, even written differently, changes nothing."""
        subscribe()
        assert take(db, event("1.5", key="k")) == ["accepted"]
        assert take(db, event("1.50", key="k"), now=after(days=3)) == ["duplicate"]
        assert booked(db, "usr_ana")["total"] == Decimal("1.5")

    def test_another_payload_is_a_conflict(self, db: Database, subscribe: Subscribe) -> None:
        """A key that comes with something else is refused, and the first one stands."""
        subscribe()
        take(db, event("1", key="k"))
        assert take(db, event("2", key="k"), event("1", key="k")) == ["conflict", "duplicate"]
        assert booked(db, "usr_ana")["total"] == 1

    def test_first_of_a_batch_wins(self, db: Database, subscribe: Subscribe) -> None:
        """Within a batch a key is decided by its first event, for each feature alone."""
        subscribe()
        grant_feature(db, "usr_ana", "api")
        assert take(
            db,
            event("1", key="k"),
            event("1", key="k"),
            event("1", key="k", feature="api"),
            event("2", key="k", feature="api"),
        ) == ["accepted", "duplicate", "accepted", "conflict"]
        assert booked(db, "usr_ana")["ledger"] == booked(db, "usr_ana", "api")["ledger"] == 1

    def test_a_key_belongs_to_its_user(self, db: Database, subscribe: Subscribe) -> None:
        """Two users may use the same key."""
        subscribe("usr_ana")
        subscribe("usr_bob")
        assert take(db, event(key="k"), event(key="k", user="usr_bob")) == ["accepted"] * 2

    @pytest.mark.parametrize(
        "change",
        [
            "update subscriptions set status = 'canceled'",
            "delete from entitlements",
            "update usage_period set closed_at = now()",
            "update entitlements set included = 0, overage_enabled = false",
        ],
    )
    def test_a_duplicate_stays_one(self, db: Database, subscribe: Subscribe, change: str) -> None:
        """Whatever became of the subscription, what was accepted is known as such."""
        subscribe()
        sent = event(key="k", occurred_at=NOW)
        assert take(db, sent) == ["accepted"]
        db.execute(change)
        assert take(db, sent, now=after(days=300)) == ["duplicate"]

    def test_a_refused_key_is_free(self, db: Database, subscribe: Subscribe) -> None:
        """What was refused left no trace: after an upgrade the same event is taken."""
        subscribe(overage_enabled=False)
        assert take(db, event("101", key="k")) == ["limit_reached"]
        assert booked(db, "usr_ana")["ledger"] == 0
        db.execute("update entitlements set included = 1000")
        assert take(db, event("101", key="k")) == ["accepted"]


class TestAccess:
    def test_nobody_we_know(self, db: Database) -> None:
        """An id without a user."""
        assert take(db, event()) == ["unknown_user"]

    @pytest.mark.parametrize("status", ["pending_payment", "paused", "canceled", "draft"])
    def test_no_access(self, db: Database, subscribe: Subscribe, status: str) -> None:
        """Only the statuses handed in give access."""
        subscribe(status=status)
        assert take(db, event()) == ["subscription_required"]

    @pytest.mark.parametrize("status", sorted(STATUSES))
    def test_access(self, db: Database, subscribe: Subscribe, status: str) -> None:
        """Each of them does."""
        subscribe(status=status)
        assert take(db, event()) == ["accepted"]

    def test_never_subscribed(self, db: Database) -> None:
        """A user without any subscription."""
        db.execute("insert into users (id, email, created_at) values ('usr_ana', 'a', now())")
        assert take(db, event()) == ["subscription_required"]

    def test_the_current_subscription_counts(self, db: Database, subscribe: Subscribe) -> None:
        """An older one that ended does not take access away."""
        subscribe()
        db.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at)"
            " values ('sub_old', 'usr_ana', 'canceled', %s, %s)",
            [START, START],
        )
        assert take(db, event()) == ["accepted"]

    @pytest.mark.parametrize(
        ("entitlement", "code"),
        [
            ({"type": "boolean", "model": None}, "feature_not_metered"),
            ({"type": "seats", "model": None}, "feature_not_metered"),
            ({"model": "credits"}, "feature_not_metered"),
            ({"model": None}, "feature_not_metered"),
            ({"allowed": False}, "feature_not_in_plan"),
            (
                {"allowed": False, "included": 0, "overage_enabled": False},
                "feature_not_in_plan",
            ),
        ],
    )
    def test_features_that_are_not_counted(
        self, db: Database, subscribe: Subscribe, entitlement: dict[str, object], code: str
    ) -> None:
        """Only metered usage of a feature the plan has is taken."""
        subscribe(**entitlement)
        assert take(db, event()) == [code]

    def test_a_feature_of_another_plan(self, db: Database, subscribe: Subscribe) -> None:
        """Nothing was said about it."""
        subscribe()
        assert take(db, event(feature="api")) == ["feature_not_in_plan"]

    def test_a_used_up_allowance_is_a_limit(self, db: Database, subscribe: Subscribe) -> None:
        """Commet says "not allowed" of it as well; the next period must not inherit that."""
        subscribe(overage_enabled=False)
        assert take(db, event("100")) == ["accepted"]
        db.execute("update entitlements set allowed = false")
        assert take(db, event()) == ["limit_reached"]
        assert take(db, event(), now=END) == ["accepted"]

    def test_a_used_up_trial_is_a_limit(self, db: Database, subscribe: Subscribe) -> None:
        """Overage that the plan sells is not sold yet: the feature is there, and used up."""
        subscribe(status="trialing", allowed=False)
        assert take(db, event("100"), event()) == ["accepted", "limit_reached"]

    @pytest.mark.parametrize("feature", ["storage", None])
    def test_news_that_is_not_complete(
        self, db: Database, subscribe: Subscribe, feature: str | None
    ) -> None:
        """Paid, but in which period, for what? Worth trying again, so never a plain refusal."""
        subscribe(starts_at=None, feature=feature)
        assert take(db, event()) == ["access_unconfirmed"]

    def test_a_plan_that_counts_nothing(self, db: Database, subscribe: Subscribe) -> None:
        """It never has a period, and that is no reason to keep a caller waiting."""
        subscribe(starts_at=None, feature="sso", type="boolean", model=None)
        assert take(db, event(feature="sso"), event()) == [
            "feature_not_metered",
            "feature_not_in_plan",
        ]


class TestTime:
    def test_late_usage_is_booked_now(self, db: Database, subscribe: Subscribe) -> None:
        """What occurred before the open period counts in it, and is marked."""
        subscribe()
        early = START - timedelta(microseconds=1)
        assert take(db, event(occurred_at=early), event(occurred_at=START)) == ["accepted"] * 2
        assert [r["late"] for r in db.all("select late from usage_event order by occurred_at")] == [
            True,
            False,
        ]

    @pytest.mark.parametrize(
        ("age", "verdict"),
        [
            (timedelta(days=35), "accepted"),
            (timedelta(days=35, microseconds=1), "too_old"),
            (timedelta(minutes=-5), "accepted"),
            (timedelta(minutes=-5, microseconds=-1), "in_future"),
        ],
    )
    def test_bounds(self, db: Database, subscribe: Subscribe, age: timedelta, verdict: str) -> None:
        """35 days back and 5 minutes ahead are taken, the next microsecond is not."""
        subscribe(starts_at=NOW - timedelta(days=36))
        assert take(db, event(occurred_at=NOW - age)) == [verdict]


class TestPeriods:
    def test_the_next_one_opens_by_itself(self, db: Database, subscribe: Subscribe) -> None:
        """At its very end a period is closed, and acceptance goes on in a provisional one."""
        subscribe()
        take(db, event("1"), now=END - timedelta(microseconds=1))
        take(db, event("2"), now=END)
        first, second = periods(db)
        assert (first["total"], first["closed_at"], first["provisional"]) == (1, END, False)
        assert (second["total"], second["closed_at"], second["provisional"]) == (2, None, True)
        assert second["starts_at"] == END
        assert second["ends_at"] == datetime(2026, 11, 1, tzinfo=UTC)

    def test_after_a_long_silence(self, db: Database, subscribe: Subscribe) -> None:
        """Periods nobody used are skipped; the one that opens holds the present."""
        subscribe()
        take(db, event(), now=datetime(2027, 1, 15, tzinfo=UTC))
        _, opened = periods(db)
        assert opened["starts_at"] == datetime(2027, 1, 1, tzinfo=UTC)
        assert opened["ends_at"] == datetime(2027, 2, 1, tzinfo=UTC)

    def test_limits_start_anew(self, db: Database, subscribe: Subscribe) -> None:
        """A used-up allowance comes back with the next period."""
        subscribe(overage_enabled=False)
        assert take(db, event("100"), event()) == ["accepted", "limit_reached"]
        assert take(db, event("100"), event(), now=END) == ["accepted", "limit_reached"]

    def test_without_access_nothing_opens(self, db: Database, subscribe: Subscribe) -> None:
        """A paused subscription does not turn over."""
        subscribe(status="paused")
        assert take(db, event(), now=END) == ["subscription_required"]
        assert len(periods(db)) == 1

    @pytest.mark.parametrize(
        ("start", "end", "now", "opened"),
        [
            ("2026-09-07", "2026-09-14", "2026-09-29", ("2026-09-28", "2026-10-05")),
            ("2026-01-31", "2026-02-28", "2026-02-28", ("2026-02-28", "2026-03-31")),
            ("2026-02-28", "2026-03-31", "2026-04-01", ("2026-03-31", "2026-04-30")),
            ("2026-03-31", "2026-04-30", "2026-05-01", ("2026-04-30", "2026-05-31")),
            ("2026-01-30", "2026-02-28", "2026-06-01", ("2026-05-30", "2026-06-30")),
            ("2028-01-31", "2028-02-29", "2028-03-01", ("2028-02-29", "2028-03-31")),
            ("2026-12-15", "2027-01-15", "2027-01-15", ("2027-01-15", "2027-02-15")),
            # A trial of 14 days, or one of 30: the month starts where it ends.
            ("2026-09-20", "2026-10-04", "2026-10-04", ("2026-10-04", "2026-11-04")),
            ("2026-01-10", "2026-02-09", "2026-02-09", ("2026-02-09", "2026-03-09")),
        ],
    )
    def test_the_rule_is_commets(
        self, db: Database, start: str, end: str, now: str, opened: tuple[str, str]
    ) -> None:
        """Weeks stay weeks; months keep the anchor day even where a short month hid it."""
        row = db.one(
            "select starts_at, ends_at from following_period(%s, %s, %s)",
            [f"{day}T08:30:00Z" for day in (start, end, now)],
        )
        assert row is not None
        assert tuple(v.strftime("%Y-%m-%dT%H:%M") for v in row.values()) == tuple(
            f"{day}T08:30" for day in opened
        )


class TestLimits:
    @pytest.mark.parametrize(
        ("subscription", "entitlement"),
        [
            ({}, {"overage_enabled": False}),
            ({"status": "trialing"}, {}),
            ({"interval": None}, {}),
        ],
    )
    def test_hold_to_the_last_unit(
        self,
        db: Database,
        subscribe: Subscribe,
        subscription: dict[str, object],
        entitlement: dict[str, object],
    ) -> None:
        """Without overage, in a trial and on a free plan nothing beyond the included is taken."""
        subscribe(**subscription, **entitlement)
        assert take(db, event("99.999999"), event("0.000002"), event("0.000001"), event("1")) == [
            "accepted",
            "limit_reached",
            "accepted",
            "limit_reached",
        ]
        assert set(booked(db, "usr_ana").values()) == {Decimal(100)}

    @pytest.mark.parametrize(
        "entitlement", [{}, {"unlimited": True, "overage_enabled": False, "included": None}]
    )
    def test_no_limit(
        self, db: Database, subscribe: Subscribe, entitlement: dict[str, object]
    ) -> None:
        """With overage, or where the feature is unlimited, there is none."""
        subscribe(**entitlement)
        assert take(db, event("100000")) == ["accepted"]

    def test_a_smaller_one_may_still_fit(self, db: Database, subscribe: Subscribe) -> None:
        """An event that does not fit does not stop the one after it, batch or not."""
        subscribe(overage_enabled=False)
        assert take(db, event("60"), event("60"), event("40")) == [
            "accepted",
            "limit_reached",
            "accepted",
        ]

    def test_totals_end(self, db: Database, subscribe: Subscribe) -> None:
        """At the largest quantity, whatever the digits of the last event."""
        subscribe()
        sent = ["999999999.999999", "1", "999998999999998", "0.000001", "0.000001"]
        assert take(db, *map(event, sent)) == [*["accepted"] * 4, "total_too_large"]
        assert booked(db, "usr_ana")["total"] == Decimal(999999999999999)
        assert take(db, event("0.1"), event("1")) == ["total_too_large"] * 2

    def test_a_total_at_a_high_price(self, db: Database, subscribe: Subscribe) -> None:
        """The cost of the largest quantity is kept, too."""
        subscribe(unit_price=999_999_999)
        rules = replace(RULES, at_once={"usd": Decimal(5)})
        assert accept(db, [event("999999999999999")], rules=rules, now=NOW)[0].status == "accepted"


class TestConcurrency:
    """Real connections, really at once. The ledger, the total and the days must agree."""

    def _at_once(
        self, connect: Callable[[], Database], calls: list[list[UsageEvent]], connections: int = 16
    ) -> list[str]:
        barrier = Barrier(connections)

        def work(n: int) -> list[str]:
            db = connect()
            db.value("select 1")
            barrier.wait()
            return [word for call in calls[n::connections] for word in take(db, *call)]

        with ThreadPoolExecutor(connections) as pool:
            return [word for words in pool.map(work, range(connections)) for word in words]

    def test_one_key_a_thousand_times(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Counted once, and one sender alone is told it was accepted."""
        subscribe()
        words = self._at_once(connect, [[event("2", key="k")]] * 1000)
        assert sorted(words) == ["accepted"] + ["duplicate"] * 999
        assert set(booked(db, "usr_ana").values()) == {Decimal(2)}

    def test_a_limit_is_never_passed(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """200 callers for 30 places: 30 get one."""
        subscribe(overage_enabled=False, included=30)
        words = self._at_once(connect, [[event()] for _ in range(200)])
        assert (words.count("accepted"), words.count("limit_reached")) == (30, 170)
        assert set(booked(db, "usr_ana").values()) == {Decimal(30)}

    def test_batches_in_opposite_order(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Batches over the same users and keys, forwards and backwards, do not deadlock."""
        users = [subscribe(f"usr_{n:02}") for n in range(20)]
        batch = [event(user=user, key=f"k{n}") for user in users for n in range(3)]
        words = self._at_once(connect, [batch, batch[::-1]] * 16)
        assert (words.count("accepted"), words.count("duplicate")) == (60, 31 * 60)
        assert all(set(booked(db, user).values()) == {Decimal(3)} for user in users)

    @pytest.mark.parametrize("backwards", [False, True])
    def test_totals_are_taken_in_one_order(
        self,
        db: Database,
        subscribe: Subscribe,
        connect: Callable[[], Database],
        database_url: str,
        *,
        backwards: bool,
    ) -> None:
        """Deliveries lock totals too, without their users: by period, and so does a batch."""
        users = [subscribe(f"usr_{n}") for n in range(2)]
        batch = [event(user=user) for user in (users[::-1] if backwards else users)]
        take(db, *[event(user=user) for user in users])
        lock = "select total from usage_total where period = %s for update"
        first, second = [p["id"] for p in db.all("select id from usage_period order by id")]
        with (
            ThreadPoolExecutor(1) as pool,
            psycopg.connect(database_url) as other,
        ):
            other.execute(lock, [first])
            taken = pool.submit(take, connect(), *batch)
            while not db.value(
                "select count(*) from pg_locks where not granted and pid in"
                " (select pid from pg_stat_activity where datname = current_database())"
            ):
                assert not taken.done()
            other.execute("set lock_timeout = '10s'")
            other.execute(lock, [second])
            other.rollback()
            assert taken.result() == ["accepted"] * 2

    def test_one_period_follows(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Whoever comes first after the end opens the next period, once."""
        subscribe(ends_at=NOW)
        assert set(self._at_once(connect, [[event()] for _ in range(64)])) == {"accepted"}
        assert [p["total"] for p in periods(db)] == [0, 64]


_some_events = st.lists(
    st.builds(
        event,
        st.sampled_from(["1", "30", "60", "101", "999999999"]),
        key=st.sampled_from(["k0", "k1", "k2", "k3", "k4"]),
        user=st.sampled_from(["usr_capped", "usr_open", "usr_none"]),
        feature=st.sampled_from(["storage", "api", "gone"]),
        occurred_at=st.sampled_from([None, NOW, NOW - timedelta(days=20), START, after(days=1)]),
    ),
    max_size=12,
)


class TestBatch:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(batches=st.lists(_some_events, max_size=3))
    def test_is_the_same_as_one_by_one(
        self,
        db: Database,
        subscribe: Subscribe,
        batches: list[list[UsageEvent]],
    ) -> None:
        """A batch decides and books exactly what its events would, sent one after the other."""

        def outcome(*, batched: bool) -> tuple[list[str], list[dict[str, Decimal]]]:
            db.execute("truncate usage_event, usage_total, usage_daily")
            words: list[str] = []
            for batch in batches:
                for call in [batch] if batched else [[e] for e in batch]:
                    words += take(db, *call)
            return words, [
                booked(db, user, feature)
                for user in ("usr_capped", "usr_open")
                for feature in ("storage", "api")
            ]

        subscribe("usr_capped", overage_enabled=False)
        subscribe("usr_capped", feature="api", included=60, overage_enabled=False)
        subscribe("usr_open")
        subscribe("usr_open", feature="api", overage_enabled=False)
        words, totals = outcome(batched=True)
        assert (words, totals) == outcome(batched=False)
        assert all(len(set(places.values())) == 1 for places in totals)


class TestCheck:
    def ask(
        self, db: Database, quantity: str = "1", *, user: str = "usr_ana", now: datetime = NOW
    ) -> Allowance:
        return check(
            db,
            user_id=user,
            feature="storage",
            quantity=Decimal(quantity),
            rules=replace(RULES, currency="eur"),
            now=now,
        )

    def test_inside_the_allowance(self, db: Database, subscribe: Subscribe) -> None:
        """Nothing is billed for what is included."""
        subscribe()
        take(db, event("30"))
        assert self.ask(db, "70") == Allowance(
            allowed=True,
            remaining=Decimal(70),
            overage_quantity=Decimal(0),
            unit_price=Decimal(1000),
            cost=Decimal(0),
            currency="usd",
            spending=Spending(Decimal(0), None, "default", "usd"),
        )

    def test_partly_beyond(self, db: Database, subscribe: Subscribe) -> None:
        """Only the part beyond the included amount costs something."""
        subscribe()
        take(db, event("90"))
        found = self.ask(db, "40")
        assert (found.allowed, found.remaining) == (True, Decimal(10))
        assert (found.overage_quantity, found.cost) == (Decimal(30), Decimal(3))

    def test_beyond_a_limit(self, db: Database, subscribe: Subscribe) -> None:
        """Without overage the answer is what acceptance would say."""
        subscribe(overage_enabled=False)
        take(db, event("90"))
        assert self.ask(db, "10").allowed
        found = self.ask(db, "10.000001")
        assert (found.allowed, found.code, found.remaining) == (False, "limit_reached", Decimal(10))
        assert (found.overage_quantity, found.cost) == (Decimal(0), Decimal(0))

    def test_unlimited(self, db: Database, subscribe: Subscribe) -> None:
        """There is no number for what remains."""
        subscribe(unlimited=True)
        found = self.ask(db, "100000")
        assert (found.allowed, found.remaining, found.overage_quantity) == (True, None, Decimal(0))

    def test_no_access(self, db: Database, subscribe: Subscribe) -> None:
        """The code says why; the currency is ours where Commet named none."""
        subscribe(status="paused")
        assert self.ask(db).code == "subscription_required"
        found = self.ask(db, user="usr_nobody")
        assert (found.allowed, found.remaining, found.code) == (False, None, "unknown_user")
        assert found.currency == "eur"

    def test_a_period_that_has_ended(self, db: Database, subscribe: Subscribe) -> None:
        """The next one has nothing used yet, though asking does not open it."""
        subscribe()
        take(db, event("100"))
        assert self.ask(db, now=END).remaining == 100
        assert len(periods(db)) == 1

    def test_too_much(self, db: Database, subscribe: Subscribe) -> None:
        """What acceptance would refuse for its size is not promised either."""
        subscribe()
        take(db, event("999999999999999"))
        assert self.ask(db, "0.000001").code == "total_too_large"

    def test_no_quantity(self, db: Database) -> None:
        """What cannot be booked cannot be asked for."""
        with pytest.raises(ValueError, match="quantity"):
            self.ask(db, "0")

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(used=st.integers(0, 110), more=st.integers(1, 110), overage=st.booleans())
    def test_agrees_with_acceptance(
        self, db: Database, subscribe: Subscribe, used: int, more: int, *, overage: bool
    ) -> None:
        """Asked and taken at the same moment, both say the same."""
        db.execute("truncate usage_event, usage_total, usage_daily")
        subscribe(overage_enabled=overage)
        if used:
            take(db, event(str(used)))
        found = self.ask(db, str(more))
        (verdict,) = accept(db, [event(str(more))], rules=RULES, now=NOW)
        assert (found.allowed, found.code) == (verdict.status == "accepted", verdict.code)


def test_an_overdue_end_is_remembered_until_access_returns(
    db: Database, subscribe: Subscribe
) -> None:
    """Also where the subscription is paused before it is canceled."""
    subscribe(status="past_due")
    found = []
    for status in ("paused", "canceled", "active", "canceled"):
        db.execute("update subscriptions set status = %s", [status])
        found.append(db.value("select ended_overdue from subscriptions"))
    assert found == [True, True, False, False]
