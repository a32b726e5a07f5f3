"""Reading the ledger: all of it, once, in order, and at the same cost however long it is."""

import base64
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.database.connection import Database
from billing.errors import InvalidRequest
from billing.usage import ledger
from billing.usage.accepting import UsageEvent, accept
from billing.usage.corrections import Correction, correct
from billing.usage.ledger import Entry, Query, page
from tests.integration.billing.conftest import NOW, RULES, START, Subscribe, after


def use(
    db: Database, key: str, *, user: str = "usr_ana", feature: str = "storage", at: datetime = NOW
) -> None:
    event = UsageEvent(user, feature, Decimal(1), key)
    (verdict,) = accept(db, [event], rules=RULES, now=at)
    assert verdict.status == "accepted"


def read(db: Database, query: Query | None = None, *, limit: int = 2) -> list[str]:
    """The keys of all pages."""
    keys: list[str] = []
    cursor = None
    for _ in range(100):
        found = page(db, query or Query(), cursor=cursor, limit=limit, now=after(days=5))
        assert len(found.entries) <= limit
        keys += [entry.idempotency_key for entry in found.entries]
        cursor = found.next_cursor
        if cursor is None:
            return keys
    raise AssertionError("the pages never end")


@pytest.fixture
def filled(db: Database, subscribe: Subscribe) -> Database:
    """Two users, two features, several entries at one moment."""
    for user in ("usr_ana", "usr_bob"):
        subscribe(user)
        subscribe(user, feature="api")
    for n, at in enumerate([NOW, NOW, NOW, after(hours=1), after(hours=2)]):
        use(db, f"a{n}", at=at)
        use(db, f"b{n}", user="usr_bob", feature="api" if n % 2 else "storage", at=at)
    return db


class TestPage:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 11])
    def test_everything_once_in_order(self, filled: Database, limit: int) -> None:
        """By time of booking, then user, then key, whatever the size of a page."""
        assert read(filled, limit=limit) == [
            "a0", "a1", "a2", "b0", "b1", "b2", "a3", "b3", "a4", "b4",
        ]  # fmt: skip

    @pytest.mark.parametrize("limit", [1, 2, 100])
    def test_filters(self, filled: Database, limit: int) -> None:
        """One user, one feature, a span of time: the start belongs to it, the end does not."""
        assert read(filled, Query("usr_bob"), limit=limit) == ["b0", "b1", "b2", "b3", "b4"]
        assert read(filled, Query("usr_bob", "api"), limit=limit) == ["b1", "b3"]
        assert read(filled, Query(feature="api"), limit=limit) == ["b1", "b3"]
        span = Query(since=after(hours=1), until=after(hours=2))
        assert read(filled, span, limit=limit) == ["a3", "b3"]
        assert read(filled, Query("usr_nobody"), limit=limit) == []

    @pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
    def test_times_at_the_edge(self, filled: Database, moment: str) -> None:
        """Moments that UTC has no year for are before, or after, everything."""
        at = datetime.fromisoformat(moment)
        late = at.year == 9999
        assert len(read(filled, Query(since=at))) == (0 if late else 10)
        assert len(read(filled, Query(until=at))) == (10 if late else 0)

    def test_a_rare_feature_does_not_hold_a_page_up(
        self, filled: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page looks at so many entries and then ends, even empty; the next goes on there."""
        monkeypatch.setattr(ledger, "_LOOK_AT", 3)
        first = page(filled, Query(feature="api"), limit=1, now=after(days=5))
        assert ([*first.entries], first.next_cursor is None) == ([], False)
        assert read(filled, Query(feature="api"), limit=1) == ["b1", "b3"]
        assert read(filled, Query("usr_bob", "api"), limit=1) == ["b1", "b3"]

    def test_what_is_booked_meanwhile_is_not_part_of_it(self, filled: Database) -> None:
        """The first page settles where the last one ends."""
        first = page(filled, Query(), limit=9, now=after(hours=2))
        use(filled, "late", at=after(hours=3))
        rest = page(filled, Query(), cursor=first.next_cursor, limit=9, now=after(hours=4))
        assert [e.idempotency_key for e in rest.entries] == ["b4"]
        assert rest.next_cursor is None

    def test_an_entry_says_everything(self, db: Database, subscribe: Subscribe) -> None:
        """What was counted, when, where, by whom and why."""
        subscribe()
        early = START - timedelta(minutes=1)
        accept(
            db,
            [UsageEvent("usr_ana", "storage", Decimal("2.50"), "k", early, {"bucket": "eu"})],
            rules=RULES,
            now=NOW,
        )
        correct(
            db,
            Correction("usr_ana", "storage", Decimal(-1), "fix", "sent twice"),
            author="support",
            rules=RULES,
            now=after(hours=1),
        )
        event, correction = page(db, Query(), now=after(days=1)).entries
        assert event == Entry(
            user_id="usr_ana",
            idempotency_key="k",
            kind="event",
            feature="storage",
            quantity=Decimal("2.5"),
            occurred_at=early,
            booked_at=NOW,
            period_id=str(db.value("select id from usage_period")),
            period_start=START,
            period_end=datetime.fromisoformat("2026-10-01T00:00:00Z"),
            subscription_id="sub_usr_ana",
            plan_id=None,
            late=True,
            reason=None,
            author=None,
            needs_credit=False,
            properties={"bucket": "eu"},
        )
        assert (correction.kind, correction.quantity) == ("correction", Decimal(-1))
        assert (correction.reason, correction.author) == ("sent twice", "support")

    def test_no_page_reads_the_whole_ledger(self, filled: Database) -> None:
        """Both orders come from an index, however little the planner knows of the table."""
        start = ledger._Cursor(after(days=1))
        values = {
            "user_id": "usr_ana", "feature": None, "since": START, "until": after(days=1),
            "after_time": start.booked_at, "after_user": "", "after_key": "",
            "after_feature": "", "look_at": 3, "limit": 3,
        }  # fmt: skip
        filled.execute("set enable_seqscan = off")
        for name in ("page_of_user", "page_of_all"):
            plan = filled.all("explain " + ledger._sql[name], values)
            text = "\n".join(str(row["QUERY PLAN"]) for row in plan)
            assert "usage_event_period_booked" in text or "usage_event_booked" in text, text

    @settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_=-]{1,80}")))
    def test_other_cursors_are_refused(self, shared: Database, text: str) -> None:
        """Whatever comes as one, it is told politely."""
        with pytest.raises(InvalidRequest):
            page(shared, Query(), cursor=text, now=NOW)

    @pytest.mark.parametrize(
        "fields",
        [
            "[]", '["2026-09-01T00:00:00+00:00", "x", "", "", ""]',
            '{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}',
            '["2026-09-01T00:00:00+00:00", "2026-09-01T00:00:00+00:00", "\\u0000", "", ""]',
            '["2026-09-01T00:00:00+00:00", "2026-09-01T00:00:00+00:00", "\\ud800", "", ""]',
            '["0001-01-01T00:00:00+14:00", "2026-09-01T00:00:00+00:00", "", "", ""]',
        ],
    )  # fmt: skip
    def test_forged_cursors_are_refused(self, shared: Database, fields: str) -> None:
        """Well encoded, but not one of ours."""
        forged = base64.urlsafe_b64encode(fields.encode()).decode()
        with pytest.raises(InvalidRequest):
            page(shared, Query(), cursor=forged, now=NOW)
