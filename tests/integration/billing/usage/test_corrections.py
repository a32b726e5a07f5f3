"""Correcting what was booked: where it goes, what is refused, what has to be given back."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.database.connection import Database
from billing.delivery.outbox import claim
from billing.usage.accepting import UsageEvent, accept
from billing.usage.corrections import Corrected, Correction, Credit, correct
from billing.usage.reservations import reserve
from billing.usage.rules import Rules
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    START,
    Subscribe,
    after,
    booked,
    grant_feature,
)

END = datetime(2026, 10, 1, tzinfo=UTC)
OCTOBER = after(days=25)


def use(db: Database, quantity: str, *, key: str = "e", now: datetime = NOW) -> str:
    event = UsageEvent("usr_ana", "storage", Decimal(quantity), f"{key}-{quantity}-{now}")
    (verdict,) = accept(db, [event], rules=RULES, now=now)
    return verdict.code or verdict.status


def adjust(
    db: Database,
    quantity: str,
    *,
    key: str = "fix",
    user: str = "usr_ana",
    now: datetime = NOW,
    feature: str = "storage",
    occurred_at: datetime | None = None,
    corrects: str | None = None,
    author: str = "support",
) -> Corrected:
    correction = Correction(
        user, feature, Decimal(quantity), key, "sent twice", occurred_at, corrects
    )
    return correct(db, correction, author=author, rules=RULES, now=now)


def deliver(db: Database) -> None:
    """Claims all growth; Commet books it in the period that counted it."""
    claim(db, now=NOW, interval=timedelta(0))
    db.execute("update usage_delivery set state = 'sent', billed_period = period")


def totals(db: Database) -> list[tuple[object, ...]]:
    """Total and claimed of each period, oldest first."""
    rows = db.all("select total, claimed from usage_total order by period")
    return [(row["total"], row["claimed"]) for row in rows]


class TestLess:
    def test_lowers_the_total(self, db: Database, subscribe: Subscribe) -> None:
        """At once, in ledger, total and day; with who did it and why."""
        subscribe()
        use(db, "30")
        done = adjust(db, "-10.5", now=after(days=1))
        assert done.booking is not None
        assert (done.booking.used, done.booking.needs_credit) == (Decimal("19.5"), None)
        assert (done.booking.period_start, done.booking.period_end) == (START, END)
        assert set(booked(db, "usr_ana").values()) == {Decimal("19.5")}
        assert db.one(
            "select kind, reason, author, quantity from usage_event where kind <> 'event'"
        ) == {
            "kind": "correction",
            "reason": "sent twice",
            "author": "support",
            "quantity": Decimal("-10.5"),
        }

    def test_never_below_zero(self, db: Database, subscribe: Subscribe) -> None:
        """Refused whole, and the key stays free."""
        subscribe()
        assert adjust(db, "-1").code == "below_zero"
        use(db, "5")
        assert adjust(db, "-5.000001").code == "below_zero"
        assert adjust(db, "-5").code is None
        assert totals(db) == [(0, 0)]

    def test_makes_room(self, db: Database, subscribe: Subscribe) -> None:
        """What was taken off may be used."""
        subscribe(overage_enabled=False)
        use(db, "100")
        adjust(db, "-40")
        assert use(db, "40") == "accepted"
        assert use(db, "0.000001") == "limit_reached"

    def test_deliveries_wait_until_it_is_passed_again(
        self, db: Database, subscribe: Subscribe
    ) -> None:
        """Commet keeps what it was told; only what exceeds that is sent."""
        subscribe()
        use(db, "30")
        assert claim(db, now=NOW, interval=timedelta(0)) == 1
        adjust(db, "-10")
        assert totals(db) == [(20, 30)]
        use(db, "10")
        assert claim(db, now=NOW, interval=timedelta(0)) == 0
        use(db, "0.5")
        assert claim(db, now=NOW, interval=timedelta(0)) == 1
        assert db.value("select quantity from usage_delivery where seq = 2") == Decimal("0.5")

    def test_without_access(self, db: Database, subscribe: Subscribe) -> None:
        """A mistake is put right whatever became of the subscription."""
        subscribe()
        use(db, "30")
        db.execute("update subscriptions set status = 'past_due'")
        done = correct(
            db,
            Correction("usr_ana", "storage", Decimal(-10), "fix", "sent twice"),
            author="support",
            rules=Rules({"active"}),
            now=NOW,
        )
        assert done.code is None


class TestAPeriodThatIsOver:
    def test_needs_a_credit(self, db: Database, subscribe: Subscribe) -> None:
        """The time it happened says which period; Commet cannot be told any more."""
        subscribe()
        use(db, "30")
        use(db, "7", now=OCTOBER)
        claim(db, now=OCTOBER, interval=timedelta(0))
        done = adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        # The plan includes all of it.
        credit = Credit(Decimal(10), Decimal(0), "usd")
        assert (done.booking.period_start, done.booking.needs_credit) == (START, credit)
        assert totals(db) == [(20, 30), (7, 7)]
        assert db.value("select needs_credit from usage_event where kind = 'correction'") is True

    def test_of_which_less_is_on_its_way(self, db: Database, subscribe: Subscribe) -> None:
        """What Commet was not told yet, it will not be told: there is nothing to give back."""
        subscribe()
        use(db, "30")
        claim(db, now=NOW, interval=timedelta(0))
        use(db, "5")
        for key, quantity, credit in (("a", "-4", None), ("b", "-3", Decimal(2))):
            done = adjust(db, quantity, key=key, now=OCTOBER, occurred_at=NOW)
            assert done.booking is not None
            assert (done.booking.needs_credit and done.booking.needs_credit.quantity) == credit

    def test_that_commet_refused(self, db: Database, subscribe: Subscribe) -> None:
        """What it never took it never billed."""
        subscribe()
        use(db, "30")
        claim(db, now=NOW, interval=timedelta(0))
        db.execute("update usage_delivery set state = 'parked', reason = 'feature_disabled'")
        done = adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        assert done.booking.needs_credit is None

    @pytest.mark.parametrize(
        ("quantities", "expected"),
        [
            (["-6"], [("1", "0.10")]),
            (["-5", "-1"], [None, ("1", "0.10")]),
            (["-40"], [("35", "3.00")]),  # of which 30 were beyond the included
            (["-25", "-20", "-5"], [("20", "2.00"), ("20", "1.00"), ("5", "0.00")]),
        ],
    )
    def test_what_is_said_is_what_is_credited(
        self,
        db: Database,
        subscribe: Subscribe,
        quantities: list[str],
        expected: list[tuple[str, str] | None],
    ) -> None:
        """130 were sent and 5 more never will be: what is said adds up to what is parked."""
        subscribe()
        use(db, "130")
        deliver(db)
        use(db, "5")
        said = []
        for quantity in quantities:
            done = adjust(db, quantity, key=quantity, now=OCTOBER, occurred_at=NOW)
            assert done.booking is not None
            said.append(done.booking.needs_credit)
        assert said == [one and Credit(Decimal(one[0]), Decimal(one[1]), "usd") for one in expected]
        db.value("select credit_closed_periods(10)")
        assert db.one("select excess, amount from usage_delivery where kind = 'credit'") == {
            "excess": sum(one.quantity for one in said if one),
            "amount": sum(one.amount or 0 for one in said if one),
        }
        again = adjust(db, quantities[0], key=quantities[0], now=OCTOBER, occurred_at=NOW)
        assert again.booking is not None
        assert (again.repeated, again.booking.needs_credit) == (True, said[0])

    def test_that_commet_refused_in_part(self, db: Database, subscribe: Subscribe) -> None:
        """Refused usage goes first; only the rest was billed."""
        subscribe(included=Decimal(0))
        for quantity in ("8", "10"):
            use(db, quantity)
            claim(db, now=NOW, interval=timedelta(0))
        db.execute(
            "update usage_delivery set state = 'parked', reason = 'feature_disabled' where seq = 2"
        )
        done = adjust(db, "-12", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        assert done.booking.needs_credit == Credit(Decimal(2), Decimal("0.2"), "usd")

    @pytest.mark.parametrize(
        ("entitlement", "amount"),
        [
            ({}, None),
            ({"overage_enabled": False}, Decimal(0)),
            ({"unlimited": True}, Decimal(0)),
            ({"included": 200}, Decimal(0)),
        ],
    )
    @pytest.mark.parametrize("kept", [False, True])
    def test_of_a_price_that_is_not_known(
        self,
        db: Database,
        subscribe: Subscribe,
        entitlement: dict[str, object],
        amount: Decimal | None,
        *,
        kept: bool,
    ) -> None:
        """Its worth is not known either, unless nothing would have been billed at any price."""
        subscribe()
        use(db, "130")
        deliver(db)
        db.execute(
            "update entitlements set unit_price = null, overage_enabled = %(overage_enabled)s,"
            " unlimited = %(unlimited)s, included = %(included)s",
            {"overage_enabled": True, "unlimited": False, "included": 100} | entitlement,
        )
        db.execute("update usage_period set closed_at = ends_at")
        if kept:
            db.value("select keep_terms('usr_ana', %s)", [OCTOBER])
            db.execute(
                "update entitlements set overage_enabled = true, unit_price = 7, included = 1"
            )
        done = adjust(db, "-20", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        assert done.booking.needs_credit == Credit(Decimal(20), amount, "usd")
        db.value("select credit_closed_periods(10)")
        assert db.value("select amount from usage_delivery where kind = 'credit'") == amount

    def test_beside_what_was_carried_into_it(self, db: Database, subscribe: Subscribe) -> None:
        """That takes up what is included too."""
        subscribe()
        use(db, "50")
        deliver(db)
        db.execute("update usage_total set carried = 60")
        done = adjust(db, "-20", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        assert done.booking.needs_credit == Credit(Decimal(20), Decimal(1), "usd")
        db.value("select credit_closed_periods(10)")
        assert db.value("select amount from usage_delivery where kind = 'credit'") == 1

    def test_told_before_credits_were_kept(self, db: Database, subscribe: Subscribe) -> None:
        """A correction that is sent again from then is answered as it was."""
        subscribe()
        use(db, "130")
        claim(db, now=NOW, interval=timedelta(0))
        adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        db.execute("delete from usage_credit")
        again = adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        assert again.booking is not None
        assert again.booking.needs_credit == Credit(Decimal(10), None, None)

    def test_leaves_nothing_to_send(self, db: Database, subscribe: Subscribe) -> None:
        """Everything of that period was claimed; delivery looks at it again and notes a credit."""
        subscribe()
        use(db, "30")
        use(db, "7", now=OCTOBER)
        claim(db, now=OCTOBER, interval=timedelta(0))
        adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        assert claim(db, now=OCTOBER, interval=timedelta(0)) == 0
        assert db.value("select fully_claimed from usage_total order by period limit 1") is False

    def test_is_not_guessed(self, db: Database, subscribe: Subscribe) -> None:
        """Without a time the running period is meant, where so much was not used."""
        subscribe()
        use(db, "30")
        assert adjust(db, "-10", now=OCTOBER).code == "below_zero"

    def test_whose_end_nobody_noticed(self, db: Database, subscribe: Subscribe) -> None:
        """A paused subscription does not turn over, yet its period has ended: none runs."""
        subscribe()
        use(db, "30")
        claim(db, now=NOW, interval=timedelta(0))
        db.execute("update subscriptions set status = 'paused'")
        assert adjust(db, "-1", key="in time", now=END - timedelta(seconds=1)).code is None
        assert adjust(db, "-10", now=OCTOBER).code == "no_period"
        done = adjust(db, "-10", now=OCTOBER, occurred_at=NOW)
        assert done.booking is not None
        assert done.booking.needs_credit
        assert adjust(db, "-10", key="now", now=OCTOBER, occurred_at=OCTOBER).code == "no_period"

    def test_and_after_which_there_is_none(self, db: Database, subscribe: Subscribe) -> None:
        """A subscription that was canceled has no running period: which one is meant is said."""
        subscribe()
        use(db, "30")
        claim(db, now=NOW, interval=timedelta(0))
        db.execute("update usage_period set closed_at = %s", [NOW])
        db.execute("update subscriptions set status = 'canceled'")
        later = after(days=1)
        assert adjust(db, "-3", now=later).code == "no_period"
        # Paid for until then, but over: nobody used anything.
        assert adjust(db, "-3", now=after(days=6), occurred_at=after(days=5)).code == "no_period"
        assert adjust(db, "-3", now=later, occurred_at=NOW).code is None
        done = adjust(db, "-4", key="named", now=later, corrects=f"e-30-{NOW}")
        assert done.booking is not None
        assert done.booking.needs_credit
        assert totals(db) == [(23, 30)]

    def test_before_it_is(self, db: Database, subscribe: Subscribe) -> None:
        """A clock that is ahead of ours sees the end of the period that runs."""
        subscribe()
        use(db, "30")
        almost = END - timedelta(minutes=1)
        ahead = END + timedelta(minutes=1)
        assert adjust(db, "-10", now=almost, occurred_at=ahead).code is None

    def test_the_newer_of_two_that_began_together(self, db: Database, subscribe: Subscribe) -> None:
        """After a plan change on the first day the running period is the one that is meant."""
        subscribe()
        use(db, "30")
        db.execute("update usage_period set closed_at = %s", [NOW])
        db.execute(
            "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
            " values ('usr_ana', 'sub_usr_ana', %s, %s)",
            [START, END],
        )
        use(db, "8", now=after(hours=1))
        assert adjust(db, "-8", now=after(hours=1), occurred_at=NOW).code is None
        assert totals(db) == [(30, 0), (0, 0)]

    def test_before_anything_was_counted(self, db: Database, subscribe: Subscribe) -> None:
        """There is no period to correct."""
        subscribe()
        assert adjust(db, "-1", occurred_at=START - timedelta(days=1)).code == "no_period"
        subscribe("usr_new", starts_at=None)
        assert adjust(db, "-1", user="usr_new").code == "no_period"


class TestAnEntry:
    """Which period is meant is said by the key of the entry that was wrong."""

    LATE = datetime(2026, 9, 25, tzinfo=UTC)

    @pytest.fixture
    def late(self, db: Database, subscribe: Subscribe) -> None:
        """10 used in September; 10 more were reported in October, when they were late."""
        subscribe()
        for key, now, when in (("early", NOW, None), ("late", OCTOBER, self.LATE)):
            event = UsageEvent("usr_ana", "storage", Decimal(10), key, when)
            accept(db, [event], rules=RULES, now=now)
        claim(db, now=OCTOBER, interval=timedelta(0))

    @pytest.mark.usefixtures("late")
    def test_that_was_late(self, db: Database) -> None:
        """It lies in the period it was booked in, not in the one that held its time."""
        done = adjust(db, "-4", now=OCTOBER, corrects="late")
        assert done.booking is not None
        assert (done.booking.period_start, done.booking.used) == (END, Decimal(6))
        assert done.booking.needs_credit is None
        assert totals(db) == [(10, 10), (6, 10)]
        entry = "select occurred_at, late from usage_event where kind = 'correction'"
        assert db.one(entry) == {"occurred_at": self.LATE, "late": True}
        assert adjust(db, "-4", key="by time", now=OCTOBER, occurred_at=self.LATE).code is None
        assert totals(db) == [(6, 10), (6, 10)]

    @pytest.mark.usefixtures("late")
    def test_of_a_period_that_is_over(self, db: Database) -> None:
        """What has to be given back is that period's; a correction can be corrected too."""
        for key, corrects in (("a", "early"), ("b", "a")):
            done = adjust(db, "-4", key=key, now=OCTOBER, corrects=corrects)
            assert done.booking is not None
            assert done.booking.needs_credit == Credit(Decimal(4), Decimal(0), "usd")
        assert totals(db) == [(2, 10), (10, 10)]

    @pytest.mark.usefixtures("late")
    def test_that_is_not_there(self, db: Database, subscribe: Subscribe) -> None:
        """No such key, or of another user or feature: nothing is guessed."""
        subscribe("usr_bea", feature="calls")
        grant_feature(db, "usr_bea", "storage")
        for quantity in ("-1", "1"):
            told = [
                adjust(db, quantity, now=OCTOBER, corrects="missing"),
                adjust(db, quantity, now=OCTOBER, corrects="late", user="usr_bea"),
                adjust(db, quantity, now=OCTOBER, corrects="late", feature="calls"),
            ]
            assert [done.code for done in told] == ["entry_not_found"] * 3
        assert adjust(db, "-1", user="usr_no", corrects="late").code == "unknown_user"

    @pytest.mark.usefixtures("late")
    def test_of_which_there_was_more(self, db: Database) -> None:
        """That goes into the open period, as old as the entry is, and so not for ever."""
        done = adjust(db, "5", now=OCTOBER, corrects="early")
        assert done.booking is not None
        assert done.booking.period_start == END
        entry = "select occurred_at, late from usage_event where kind = 'correction'"
        assert db.one(entry) == {"occurred_at": NOW, "late": True}
        much_later = NOW + timedelta(days=36)
        assert adjust(db, "5", key="b", now=much_later, corrects="early").code == "too_old"

    @pytest.mark.usefixtures("late")
    def test_is_part_of_what_was_asked(self, db: Database) -> None:
        """The same key for another entry is a conflict; again is again once that is gone, too."""
        first = adjust(db, "-4", now=OCTOBER, corrects="late")
        for corrects in ("early", None):
            assert adjust(db, "-4", now=OCTOBER, corrects=corrects).code == "conflict"
        db.execute("delete from usage_event where idempotency_key = 'late'")
        again = adjust(db, "-4", now=OCTOBER, corrects="late")
        assert (again.booking, again.repeated) == (first.booking, True)

    def test_and_a_time(self) -> None:
        """Two answers to one question are none."""
        with pytest.raises(ValueError, match="corrects"):
            Correction("usr_ana", "storage", Decimal(1), "fix", "r", NOW, "late")


class TestMore:
    def test_is_usage(self, db: Database, subscribe: Subscribe) -> None:
        """It raises the total of the open period and is sent like any other."""
        subscribe()
        assert adjust(db, "5", occurred_at=START - timedelta(days=1)).code == "before_subscription"
        assert adjust(db, "5", occurred_at=START - timedelta(minutes=1)).code is None
        assert claim(db, now=NOW, interval=timedelta(0)) == 1
        assert db.value("select late from usage_event") is True

    def test_and_held_to_the_limit(self, db: Database, subscribe: Subscribe) -> None:
        """Beside what is used and what is held."""
        subscribe(overage_enabled=False)
        use(db, "50")
        reserve(db, UsageEvent("usr_ana", "storage", Decimal(30), "job"), rules=RULES, now=NOW)
        assert adjust(db, "20.000001").code == "limit_reached"
        assert adjust(db, "20").code is None

    @pytest.mark.parametrize(
        ("age", "code"),
        [
            (timedelta(days=35), None),
            (timedelta(days=35, microseconds=1), "too_old"),
            (timedelta(minutes=-5), None),
            (timedelta(minutes=-5, microseconds=-1), "in_future"),
        ],
    )
    def test_bounds(
        self, db: Database, subscribe: Subscribe, age: timedelta, code: str | None
    ) -> None:
        """As old as usage may be, and no more ahead."""
        subscribe(starts_at=NOW - timedelta(days=36))
        assert adjust(db, "1", occurred_at=NOW - age).code == code

    def test_refusals_are_those_of_usage(self, db: Database, subscribe: Subscribe) -> None:
        """Unknown users, missing access and missing features."""
        assert adjust(db, "1", user="usr_nobody").code == "unknown_user"
        assert adjust(db, "-1", user="usr_nobody").code == "unknown_user"
        subscribe(status="paused")
        assert adjust(db, "1").code == "subscription_required"

    def test_too_much(self, db: Database, subscribe: Subscribe) -> None:
        """A total ends at the largest quantity, and can be lowered from there by any quantity."""
        subscribe()
        use(db, "999999999999999")
        assert adjust(db, "0.000001").code == "total_too_large"
        assert adjust(db, "-0.000001", key="down").code is None
        assert adjust(db, "-999999999.999999", key="down again").code is None


class TestKeys:
    def test_again_changes_nothing(self, db: Database, subscribe: Subscribe) -> None:
        """The same answer, also to another key of the backend's."""
        subscribe()
        use(db, "30")
        first = adjust(db, "-10")
        again = adjust(db, "-10.0", author="rotated", now=after(days=1))
        assert (again.booking, again.repeated) == (first.booking, True)
        assert totals(db) == [(20, 0)]

    def test_another_amount_is_a_conflict(self, db: Database, subscribe: Subscribe) -> None:
        """So is a key that reported usage."""
        subscribe()
        use(db, "30")
        adjust(db, "-10")
        assert adjust(db, "-11").code == "conflict"
        assert adjust(db, "-1", key=f"e-30-{NOW}").code == "conflict"

    def test_fingerprints_outlive_the_code(self) -> None:
        """Those in the ledger are known again by every later version."""
        correction = Correction("usr_ana", "storage", Decimal("-1.5"), "fix", "sent twice", NOW)
        assert correction.fingerprint.hex() == "e1c3f85ea81fa58053c2683745c718db"

    @pytest.mark.parametrize("quantity", ["0", "0.0000001", "-1000000000000000", "NaN"])
    def test_no_quantity(self, quantity: str) -> None:
        """What could not be booked is no correction."""
        with pytest.raises(ValueError, match="quantity"):
            Correction("usr_ana", "storage", Decimal(quantity), "fix", "reason")
