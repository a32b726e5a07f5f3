"""A user's own sums: by day and by property, the same as the dashboard's, and of nobody else."""

import base64
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.database.connection import Database
from billing.errors import InvalidRequest
from billing.usage import sums
from billing.usage.accepting import UsageEvent, accept
from billing.usage.corrections import Correction, correct
from billing.usage.ledger import Query as LedgerQuery
from billing.usage.ledger import page as ledger_page
from billing.usage.reservations import confirm, reserve
from billing.usage.sums import Page, Query, Sum, page
from billing.usage.totals import usage_of_user
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    START,
    Subscribe,
    after,
    grant_feature,
    subscriber,
)

BY_MODEL = Query(prop="model", by_day=False)
BY_BOTH = Query(prop="model")


def use(
    db: Database,
    quantity: str,
    *,
    user: str = "usr_ana",
    feature: str = "storage",
    at: datetime = NOW,
    occurred: datetime | None = None,
    model: str | None = None,
) -> None:
    key = f"{feature}-{quantity}-{at}-{occurred}-{model}"
    properties = {} if model is None else {"model": model}
    event = UsageEvent(user, feature, Decimal(quantity), key, occurred, properties)
    (verdict,) = accept(db, [event], rules=RULES, now=at)
    assert verdict.status == "accepted"


def read(
    db: Database, query: Query | None = None, *, user: str = "usr_ana", limit: int = 2
) -> list[Sum]:
    """The sums of all pages."""
    found: list[Sum] = []
    cursor = None
    for _ in range(100):
        each: Page = page(db, user, query or Query(), cursor=cursor, limit=limit)
        assert len(each.sums) <= limit
        found += each.sums
        cursor = each.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the pages never end")


def rows(found: list[Sum]) -> list[tuple[date | None, str, str | None, str]]:
    return [(s.day, s.feature, s.value, str(s.quantity.normalize())) for s in found]


def day(of_september: int) -> date:
    return date(2026, 9, of_september)


@pytest.fixture
def filled(db: Database, subscribe: Subscribe) -> Database:
    """Two users, two features, three models and usage without one, on three days."""
    for user in ("usr_ana", "usr_bob"):
        subscribe(user)
        subscribe(user, feature="api")
    use(db, "1", model="b")
    use(db, "2.5", model="a", at=after(days=1))
    use(db, "4", at=after(days=1))
    use(db, "8", model="", at=after(days=1))
    use(db, "16", model="a", feature="api", occurred=NOW - timedelta(days=1))
    use(db, "1000", user="usr_bob", model="a")
    return db


class TestPage:
    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
    def test_by_day(self, filled: Database, limit: int) -> None:
        """Each day once, in order, whatever the size of a page."""
        assert rows(read(filled, limit=limit)) == [
            (day(9), "api", None, "16"),
            (day(10), "storage", None, "1"),
            (day(11), "storage", None, "14.5"),
        ]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
    def test_by_property(self, filled: Database, limit: int) -> None:
        """By value; an empty value is a value, and usage without one comes last."""
        assert rows(read(filled, BY_MODEL, limit=limit)) == [
            (None, "api", "a", "16"),
            (None, "storage", "", "8"),
            (None, "storage", "a", "2.5"),
            (None, "storage", "b", "1"),
            (None, "storage", None, "4"),
        ]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
    def test_by_both(self, filled: Database, limit: int) -> None:
        assert rows(read(filled, BY_BOTH, limit=limit)) == [
            (day(9), "api", "a", "16"),
            (day(10), "storage", "b", "1"),
            (day(11), "storage", "", "8"),
            (day(11), "storage", "a", "2.5"),
            (day(11), "storage", None, "4"),
        ]

    @pytest.mark.parametrize("prop", [None, "model", "region"])
    def test_filters(self, filled: Database, prop: str | None) -> None:
        """One feature; the first day belongs to the sums, the last one does not."""
        total = sum(s.quantity for s in read(filled, Query("storage", prop=prop)))
        assert total == Decimal("15.5")
        span = Query(since=day(9), until=day(11), prop=prop)
        assert [s.day for s in read(filled, span)] == [day(9), day(10)]
        for nothing in (
            Query("egress", prop=prop),
            Query(since=day(12), prop=prop),
            Query(until=day(9), prop=prop),
            Query(since=day(11), until=day(10), prop=prop),
            Query(since=date(9999, 12, 31), prop=prop),
            Query(until=date(1, 1, 1), prop=prop),
        ):
            assert read(filled, nothing) == []
        everything = Query(since=date(1, 1, 1), until=date(9999, 12, 31), prop=prop)
        assert read(filled, everything) == read(filled, Query(prop=prop))

    @pytest.mark.parametrize("query", [Query(), BY_MODEL, BY_BOTH])
    def test_somebody_else(self, filled: Database, query: Query) -> None:
        """One user's usage never shows to another."""
        (only,) = read(filled, query, user="usr_bob")
        assert only.quantity == 1000
        assert read(filled, query, user="usr_nobody") == []

    @pytest.mark.parametrize("query", [Query(), BY_BOTH])
    def test_what_is_late_and_what_was_corrected(
        self, db: Database, subscribe: Subscribe, query: Query
    ) -> None:
        """Parts of the quantity: usage from before the period is on its first day."""
        subscribe()
        accept(
            db,
            [UsageEvent("usr_ana", "storage", Decimal(3), "k", START - timedelta(minutes=2))],
            rules=RULES,
            now=NOW,
        )
        use(db, "5", occurred=START + timedelta(hours=1))
        correct(
            db,
            Correction("usr_ana", "storage", Decimal(-1), "fix", "sent twice", corrects="k"),
            author="support",
            rules=RULES,
            now=after(hours=1),
        )
        (first,) = read(db, query)
        assert (first.day, first.quantity, first.late, first.corrected) == (
            day(1),
            Decimal(7),
            Decimal(2),
            Decimal(-1),
        )
        assert (first.period_start, first.subscription_id) == (START, "sub_usr_ana")
        assert first.period_end == datetime(2026, 10, 1, tzinfo=UTC)

    @pytest.mark.parametrize("query", [Query(), BY_MODEL, BY_BOTH])
    @pytest.mark.parametrize("limit", [1, 2, 100])
    def test_two_periods_on_one_day(
        self, db: Database, subscribe: Subscribe, query: Query, limit: int
    ) -> None:
        """A plan change: each period has sums of its own, as each has a dashboard of its own."""
        subscribe()
        use(db, "3")
        db.execute("update usage_period set closed_at = %s, plan_id = 'pln_small'", [NOW])
        db.execute(
            "insert into usage_period (user_id, subscription_id, plan_id, starts_at, ends_at)"
            " select user_id, subscription_id, 'pln_large', starts_at, ends_at from usage_period"
        )
        use(db, "4", at=after(minutes=1))
        found = read(db, query, limit=limit)
        assert [(s.plan_id, s.quantity) for s in found] == [
            ("pln_small", Decimal(3)),
            ("pln_large", Decimal(4)),
        ]
        assert len({s.period_id for s in found}) == 2

    def test_days_stay_when_the_ledger_is_pruned(self, filled: Database) -> None:
        """They are kept for good; properties go with their entries."""
        before = read(filled)
        filled.execute("delete from usage_event")
        assert read(filled) == before
        assert read(filled, BY_MODEL) == []

    def test_too_many_entries(self, filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sums by a property are refused where they would read too much; later days are less."""
        monkeypatch.setattr(sums, "MOST_ENTRIES", 4)
        with pytest.raises(InvalidRequest) as refused:
            read(filled, BY_MODEL)
        assert [(e.field, e.code) for e in refused.value.errors] == [("from", "too_many_entries")]
        assert len(read(filled)) == 3
        monkeypatch.setattr(sums, "MOST_ENTRIES", 5)
        assert len(read(filled, BY_MODEL)) == 5
        monkeypatch.setattr(sums, "MOST_ENTRIES", 3)
        assert len(read(filled, Query(since=day(12), prop="model"))) == 0

    @pytest.mark.parametrize("query", [Query(), BY_MODEL, BY_BOTH])
    def test_reads_only_the_users_own_rows(
        self, filled: Database, frozen: Database, subscribe: Subscribe, query: Query
    ) -> None:
        """Most of the ledger is of other users, and newer."""
        others = [f"usr_{n}" for n in range(20)]
        for other in others:
            subscribe(other)
        for n in range(100):
            use(filled, f"{n + 1}", user=others[n % 20], model=f"m{n}", at=after(hours=n))
        filled.execute("analyze usage_event, usage_daily, usage_period")
        # The tables have few pages here, how few depends on the tests before.
        frozen.execute("set local enable_seqscan = off")
        table = "usage_daily" if query.prop is None else "usage_event"
        before = _rows_read(frozen, table)
        assert len(page(frozen, "usr_ana", query).sums) > 2
        # The planner itself may look at the two ends of an index.
        assert _rows_read(frozen, table) - before <= (3 if query.prop is None else 5) + 2

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=-]{1,80}")))
    def test_other_cursors_are_refused(self, shared: Database, text: str) -> None:
        with pytest.raises(InvalidRequest):
            page(shared, "usr_x", Query(), cursor=text)

    @pytest.mark.parametrize(
        "fields",
        [
            "[]",
            "7",
            '{"a": 1}',
            '["x", 1, null, "", ""]',
            '["2026-09-01T00:00:00+00:00", 1, null, "\\u0000", ""]',
            '["2026-09-01T00:00:00+00:00", 1, null, "", "\\ud800"]',
            '["2026-09-01T00:00:00+00:00", 1, null, 7, ""]',
            '["2026-09-01T00:00:00+00:00", 1, "never", "", ""]',
            '["2026-09-01T00:00:00+00:00", 1, 7, "", ""]',
            '["2026-09-01T00:00:00+00:00", 9223372036854775808, null, "", ""]',
            '["2026-09-01T00:00:00+00:00", "1", null, "", ""]',
            '["0001-01-01T00:00:00+14:00", 1, null, "", ""]',
        ],
    )
    @pytest.mark.parametrize("query", [Query(), BY_BOTH])
    def test_forged_cursors_are_refused(self, shared: Database, fields: str, query: Query) -> None:
        """Well encoded, but not one of ours."""
        forged = base64.urlsafe_b64encode(fields.encode()).decode()
        with pytest.raises(InvalidRequest):
            page(shared, "usr_x", query, cursor=forged)


@dataclass(frozen=True)
class Step:
    """Something that happens to a user's usage, so many hours after the step before."""

    what: str
    feature: str
    quantity: Decimal
    model: str | None
    hours: int


def _rows_read(db: Database, table: str) -> int:
    """How many rows of a table this transaction has read, one by one or as a whole."""
    count: int = db.value(
        "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables"
        " where relname = %s",
        [table],
    )
    return count


QUANTITIES = st.sampled_from(
    [Decimal(text) for text in ("1", "0.000001", "2.5", "333333333.333333", "20")]
)
STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(["use", "use", "batch", "late", "add", "take", "hold"]),
        feature=st.sampled_from(["storage", "api"]),
        quantity=QUANTITIES,
        model=st.sampled_from([None, "", "a", "b", "=c"]),
        hours=st.integers(0, 30 * 24),
    ),
    max_size=12,
)


class TestAgreement:
    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(steps=STEPS, limit=st.sampled_from([1, 3, 100]))
    def test_all_sums_are_the_same(
        self, shared: Database, user: str, steps: list[Step], limit: int
    ) -> None:
        """Days, properties, ledger and dashboard agree to the last digit, whatever happened."""
        db = shared
        _forget(db, user)
        subscriber(db)(user, unlimited=True)
        grant_feature(db, user, "api", unlimited=True)
        now = NOW
        for number, step in enumerate(steps):
            now += timedelta(hours=step.hours)
            _act(db, user, number, step, now)

        days = read(db, user=user, limit=limit)
        both = read(db, BY_BOTH, user=user, limit=limit)
        values = read(db, BY_MODEL, user=user, limit=limit)
        other = read(db, Query(prop="region", by_day=False), user=user, limit=limit)
        assert _added(both, "day") == _added(days, "day")
        assert _added(both, "value") == _added(values, "value")
        assert _added(days) == _added(both) == _added(values) == _added(other)
        assert _added(days) == _of_ledger(db, user)

        dashboard = usage_of_user(db, user_id=user, currency="usd", now=now)
        assert len(dashboard) == 2
        for feature_shown in dashboard:
            shown = [
                (s.day, s.quantity)
                for s in days
                if s.feature == feature_shown.feature
                and s.period_start == feature_shown.period_start
            ]
            assert shown == [(d.date, d.quantity) for d in feature_shown.daily]
            assert sum(q for _, q in shown) == feature_shown.used - feature_shown.carried
        firsts = sorted({s.day for s in days if s.day})
        one_by_one = [
            read(
                db,
                Query(since=first, until=first + timedelta(days=1), prop="model"),
                user=user,
                limit=limit,
            )
            for first in firsts
        ]
        assert one_by_one == [[s for s in both if s.day == first] for first in firsts]


def _act(db: Database, user: str, number: int, step: Step, now: datetime) -> None:
    key = f"k{number}"
    properties = {} if step.model is None else {"model": step.model, "id": key}
    if step.what == "hold":
        wanted = UsageEvent(user, step.feature, step.quantity, key, properties=properties)
        held = reserve(db, wanted, expires_in=timedelta(minutes=5), rules=RULES, now=now)
        if held.reservation is not None:
            confirm(db, held.reservation, step.quantity, rules=RULES, now=now)
        return
    if step.what in ("add", "take"):
        amount = step.quantity if step.what == "add" else -min(step.quantity, Decimal("0.5"))
        corrects = f"k{number - 1}" if number % 2 else None
        fix = Correction(user, step.feature, amount, key, "wrong", corrects=corrects)
        correct(db, fix, author="support", rules=RULES, now=now)
        return
    occurred = {"use": None, "batch": now, "late": now - timedelta(days=20)}[step.what]
    events = [UsageEvent(user, step.feature, step.quantity, key, occurred, properties)]
    if step.what == "batch":
        other = "api" if step.feature == "storage" else "storage"
        days_ago = now - timedelta(days=3)
        events += [
            UsageEvent(user, other, step.quantity, key, days_ago, properties),
            UsageEvent(user, step.feature, step.quantity, f"{key}-again", days_ago, {}),
        ]
    accept(db, events, rules=RULES, now=now)


def _forget(db: Database, user: str) -> None:
    """Each example begins with nothing used."""
    for table in ("usage_event", "usage_reservation", "usage_credit", "entitlements"):
        db.execute(f"delete from {table} where user_id = %s", [user])  # noqa: S608 - our own names
    for table in ("usage_daily", "usage_total"):
        db.execute(
            f"delete from {table} where period in"  # noqa: S608 - our own names
            " (select id from usage_period where user_id = %s)",
            [user],
        )
    for table in ("usage_period", "subscriptions"):
        db.execute(f"delete from {table} where user_id = %s", [user])  # noqa: S608 - our own names


Added = dict[tuple[object, ...], tuple[Decimal, Decimal, Decimal]]


def _added(found: list[Sum], *names: str) -> Added:
    """What the sums add up to, by period and feature, and by these fields."""
    added: Added = defaultdict(lambda: (Decimal(0), Decimal(0), Decimal(0)))
    for each in found:
        key = (each.period_id, each.feature, *(getattr(each, name) for name in names))
        quantity, late, corrected = added[key]
        added[key] = (quantity + each.quantity, late + each.late, corrected + each.corrected)
    return dict(added)


def _of_ledger(db: Database, user: str) -> Added:
    entries = ledger_page(db, LedgerQuery(user), limit=1000, now=NOW + timedelta(days=500)).entries
    added: Added = defaultdict(lambda: (Decimal(0), Decimal(0), Decimal(0)))
    for each in entries:
        key = (each.period_id, each.feature)
        quantity, late, corrected = added[key]
        added[key] = (
            quantity + each.quantity,
            late + (each.quantity if each.late else 0),
            corrected + (each.quantity if each.kind == "correction" else 0),
        )
    return dict(added)
