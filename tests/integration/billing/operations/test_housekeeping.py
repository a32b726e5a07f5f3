"""The ledger and the outbox stay small, and no key is ever free again."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.outbox import Outcome, Result, claim, lease, record, redrive, resolve
from billing.operations import housekeeping
from billing.operations.housekeeping import compact_deliveries, prune_ledger
from billing.usage.accepting import UsageEvent, accept
from billing.usage.corrections import Correction, correct
from billing.usage.reservations import reserve
from tests.integration.billing.conftest import NOW, RULES, Subscribe, grant_feature
from tests.integration.billing.delivery.test_outbox import StandIn, rows, run, use

LATER = NOW + timedelta(days=500)
END = datetime.fromisoformat("2026-10-01T00:00:00Z")


def soon() -> Deadline:
    return Deadline.after(20)


def prune(db: Database, *, before: datetime = LATER) -> int:
    db.execute("delete from rounds")
    return prune_ledger(db, NOW, before=before, deadline=soon())


def kept(db: Database) -> int:
    return int(db.value("select count(*) from usage_event"))


def send(db: Database, key: str, quantity: str = "1", *, user: str = "usr_ana") -> str:
    (verdict,) = accept(
        db, [UsageEvent(user, "storage", Decimal(quantity), key)], rules=RULES, now=END
    )
    return verdict.status


@pytest.fixture
def long_ago(db: Database, subscribe: Subscribe) -> None:
    """Two events, `a` and `b`, delivered in a period that has been over since."""
    subscribe(ends_at=NOW + timedelta(days=1))
    for key in "ab":
        (verdict,) = accept(
            db, [UsageEvent("usr_ana", "storage", Decimal(1), key)], rules=RULES, now=NOW
        )
        assert verdict.status == "accepted"
    run(db, StandIn())
    send(db, "later")  # turns the period over
    run(db, StandIn(), now=END)
    db.execute("update usage_delivery set compare_at = null")


@pytest.mark.usefixtures("long_ago")
class TestPruneLedger:
    def test_rows_become_keys(self, db: Database) -> None:
        """Those of the period that is over; the running one keeps its rows."""
        assert prune(db) == 2
        assert kept(db) == 1
        assert db.value("select count(*) from usage_key") == 2
        assert db.value("select sum(total) from usage_total") == 3

    def test_a_key_is_never_free_again(self, db: Database) -> None:
        """The same event is a duplicate, another one under its key a conflict, as before."""
        before = [send(db, "a"), send(db, "a", "2")]
        prune(db)
        assert [send(db, "a"), send(db, "a", "2")] == before == ["duplicate", "conflict"]
        assert send(db, "c") == "accepted"

    def test_what_is_gone_cannot_be_named(self, db: Database) -> None:
        """A key does not tell which period its entry was booked in."""
        correction = Correction("usr_ana", "storage", Decimal(-1), "fix", "r", corrects="a")
        prune(db)
        corrected = correct(db, correction, author="me", rules=RULES, now=END)
        assert corrected.code == "entry_not_found"

    def test_with_what_was_said_of_it(self, db: Database) -> None:
        """A credit that was given back is kept no longer than the correction it was for."""
        correction = Correction("usr_ana", "storage", Decimal(-1), "fix", "a mistake", NOW)
        corrected = correct(db, correction, author="me", rules=RULES, now=END)
        assert corrected.booking is not None
        assert corrected.booking.needs_credit is not None
        run(db, StandIn(), now=END)
        assert prune(db) == 0
        assert db.value("select count(*) from usage_credit") == 1
        credit = next(str(row["event_id"]) for row in rows(db) if row["kind"] == "credit")
        resolve(db, user_id="usr_ana", event_id=credit, note="Given.")
        assert prune(db) == 3
        assert db.value("select count(*) from usage_credit") == 0

    def test_in_a_batch(self, db: Database) -> None:
        """Pruned, kept and new keys beside each other."""
        prune(db)
        events = [
            UsageEvent("usr_ana", "storage", Decimal(1), key) for key in ("a", "later", "new")
        ]
        verdicts = accept(db, events, rules=RULES, now=END)
        assert [v.status for v in verdicts] == ["duplicate", "duplicate", "accepted"]

    def test_not_for_other_ways_of_booking(self, db: Database) -> None:
        """Neither a correction nor a reservation takes a key that was used."""
        prune(db)
        correction = Correction("usr_ana", "storage", Decimal(-1), "a", "a mistake")
        corrected = correct(db, correction, author="me", rules=RULES, now=END)
        assert corrected.code == "conflict"
        work = UsageEvent("usr_ana", "storage", Decimal(1), "b")
        assert reserve(db, work, rules=RULES, now=END).code == "already_counted"

    def test_keys_are_each_users_own(self, db: Database, subscribe: Subscribe) -> None:
        """Another user may use the same one."""
        prune(db)
        subscribe("usr_ben", ends_at=END + timedelta(days=30))
        assert send(db, "a", user="usr_ben") == "accepted"

    def test_entry_by_entry(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """One request booked three features under one key: each entry leaves its own key."""
        features = ("api", "cpu", "storage")
        for feature in features:
            grant_feature(db, "usr_ana", feature)
        work = [UsageEvent("usr_ana", feature, Decimal(1), "req-77") for feature in features]
        accept(db, work, rules=RULES, now=END)
        run(db, StandIn(), now=END)
        db.execute("update usage_period set closed_at = %s where closed_at is null", [END])
        db.execute("update usage_total set claimed = total, fully_claimed = true")
        monkeypatch.setattr(housekeeping, "_AT_ONCE", 1)
        assert (prune(db), kept(db)) == (6, 0)
        again = [*work, replace(work[0], quantity=Decimal(2))]
        verdicts = accept(db, again, rules=RULES, now=END)
        assert [v.status for v in verdicts] == ["duplicate"] * 3 + ["conflict"]

    def test_not_before_its_time(self, db: Database) -> None:
        """By the time of booking and the end of the period."""
        assert prune(db, before=NOW) == 0
        assert prune(db, before=NOW + timedelta(hours=1)) == 0
        assert kept(db) == 3

    @pytest.mark.parametrize(
        "change",
        [
            "update usage_total set fully_claimed = false",
            "update usage_delivery set state = 'pending'",
            "update usage_delivery set state = 'parked', reason = 'unconfirmed'",
            "update usage_delivery set compare_at = now()",
        ],
    )
    def test_not_while_something_is_open(self, db: Database, change: str) -> None:
        """What is not sent, decided or given back may be asked about yet."""
        db.execute(change)
        assert prune(db) == 0
        db.execute("update usage_delivery set resolved_at = now(), compare_at = null")
        db.execute("update usage_total set fully_claimed = true")
        assert prune(db) == 2

    def test_while_the_same_events_come_again(
        self, db: Database, connect: Callable[[], Database]
    ) -> None:
        """Replaced in one statement: a row or its key is always found."""
        other = connect()
        with db._usable().transaction():
            statement = "select prune_ledger(%s, '-infinity', '', '', '', 100)"
            db._usable().execute(statement, [LATER])
            assert send(other, "a") == "duplicate"
        assert send(other, "a") == "duplicate"

    def test_goes_on_where_it_stopped(self, db: Database) -> None:
        """A run without time leaves the rest of the round to the next."""
        db.execute("delete from rounds")
        assert prune_ledger(db, NOW, before=LATER, deadline=Deadline.after(0)) == 0
        assert prune_ledger(db, NOW, before=LATER, deadline=soon()) == 2
        assert prune_ledger(db, NOW, before=LATER, deadline=soon()) == 0


class TestCompactDeliveries:
    def test_one_for_each_feature_and_period_billed(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """Their sum is what it was, and so is what totals are compared with."""
        subscribe(ends_at=NOW + timedelta(days=1))
        for quantity in ("1", "2", "4"):
            use(db, quantity)
            run(db, StandIn(), interval=timedelta(0))
        use(db, "8", now=END)
        run(db, StandIn(), now=END)
        old, *_ = rows(db)
        assert compact_deliveries(db, before=LATER, deadline=soon()) == 1
        merged, new = rows(db)
        assert (merged["kind"], merged["seq"], merged["quantity"]) == ("merged", 3, 7)
        assert (merged["billed_period"], merged["note"]) == (old["period"], "merged from 3")
        assert (new["kind"], new["quantity"]) == ("event", 8)
        assert compact_deliveries(db, before=LATER, deadline=soon()) == 0

    def test_so_many_at_a_time(self, db: Database, subscribe: Subscribe) -> None:
        """By deliveries, not periods: a part of a period is merged, and the rest later."""
        for user in ("usr_ana", "usr_ben"):
            for feature in ("cpu", "disk", "gpu"):
                subscribe(user, feature=feature, ends_at=NOW + timedelta(days=1))
        db.execute("update usage_period set closed_at = ends_at")
        db.execute(
            "insert into usage_total (period, feature, total, claimed, seq, fully_claimed)"
            " select p.id, e.feature, 10, 10, 10, true"
            " from usage_period p join entitlements e using (user_id)"
        )
        db.execute(
            "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
            " state, sent_at, billed_period)"
            " select p.id, t.feature, n, p.user_id, 1, '', '', 'sent', now(), p.id"
            " from usage_total t join usage_period p on p.id = t.period, generate_series(1, 10) n"
        )
        statement = "select * from compact_deliveries(%s, 15)"
        seen = [db.one(statement, [LATER]) for _ in range(4)]
        assert [tuple(s.values()) for s in seen if s] == [(2, 0), (2, 1), (1, 1), (0, 0)]
        assert [(r["kind"], r["seq"], r["quantity"]) for r in rows(db)] == [("merged", 10, 10)] * 6

    def test_not_while_something_is_open(self, db: Database, subscribe: Subscribe) -> None:
        """One that is parked keeps its siblings, until it is sent or dealt with."""
        subscribe(ends_at=NOW + timedelta(days=1))
        for quantity in ("1", "2"):
            use(db, quantity)
            run(db, StandIn(), interval=timedelta(0))
        use(db, "4")
        claim(db, now=NOW, interval=timedelta(0))
        (leased,) = lease(db)
        record(db, [Result(leased, Outcome.PARKED, reason="feature_disabled")], now=NOW)
        use(db, "8", now=END)
        run(db, StandIn(), now=END)
        assert compact_deliveries(db, before=LATER, deadline=soon()) == 0
        assert redrive(db) == 1
        assert compact_deliveries(db, before=LATER, deadline=soon()) == 0
        db.execute("update usage_delivery set state = 'parked' where state = 'pending'")
        resolve(db, user_id="usr_ana", event_id=leased.event_id, note="Waived.")
        assert compact_deliveries(db, before=LATER, deadline=soon()) == 1
        assert [(r["kind"], r["state"]) for r in rows(db)][:2] == [
            ("merged", "sent"),
            ("event", "parked"),
        ]
