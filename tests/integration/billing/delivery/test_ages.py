"""Each age a delivery may reach, at both sides of its boundary."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery import closing, comparing, outbox
from billing.delivery.comparing import Doubt
from billing.delivery.outbox import Outcome, Result, claim, gauges, lease, record
from billing.delivery.sending import attempt
from tests.integration.billing.conftest import NOW, after, subscriber
from tests.integration.billing.delivery.test_outbox import END, INTERVAL, StandIn, rows, use

MOMENT = timedelta(microseconds=1)
DAY = timedelta(hours=24)
MINUTE = timedelta(minutes=1)

Delivery = Callable[..., None]


@pytest.fixture
def delivery(frozen: Database) -> Delivery:
    """Makes one delivery of 10 and sets columns of the row, times to so much before now."""
    subscriber(frozen)()
    use(frozen, "10")
    assert claim(frozen, now=NOW, interval=INTERVAL) == 1

    def change(**columns: object) -> None:
        for column, value in columns.items():
            to = "now() - %s" if isinstance(value, timedelta) else "%s"
            frozen.execute(f"update usage_delivery set {column} = {to}", [value])  # noqa: S608

    return change


class TestTheKey:
    """Commet forgets an idempotency key after 24 hours; a lease of a minute ends before that."""

    @pytest.mark.parametrize(("age", "leased"), [(DAY - MINUTE - MOMENT, 1), (DAY - MINUTE, 0)])
    def test_sent_as_long_as_the_lease_ends_first(
        self, frozen: Database, delivery: Delivery, age: timedelta, leased: int
    ) -> None:
        delivery(uncertain_since=age)
        assert len(lease(frozen)) == leased

    @pytest.mark.parametrize(("age", "parked"), [(DAY - MOMENT, 0), (DAY, 1)])
    def test_parked_when_it_is_forgotten(
        self, frozen: Database, delivery: Delivery, age: timedelta, parked: int
    ) -> None:
        delivery(uncertain_since=age)
        soon = Deadline.after(20)
        assert closing.park_unsendable(frozen, NOW, closing.Steps(), soon) == parked

    def test_never_sent_and_never_parked_between(self) -> None:
        """In its last minute it is neither: a call that is under way may use the key up."""
        assert outbox.LEASE == MINUTE
        assert timedelta(0) < outbox.LEASE < outbox.KEY_LIFETIME == DAY


class TestTheLease:
    @pytest.mark.parametrize(("age", "leased"), [(MINUTE - MOMENT, 0), (MINUTE, 1)])
    def test_a_minute(
        self, frozen: Database, delivery: Delivery, age: timedelta, leased: int
    ) -> None:
        """A run that died is outlived by its lease for a minute, and for no longer."""
        assert len(lease(frozen)) == 1
        delivery(uncertain_since=None)
        frozen.execute("update usage_delivery set due_at = due_at - %s", [age])
        assert len(lease(frozen)) == leased


class TestAnAnswer:
    def answer(self, frozen: Database, at: datetime) -> tuple[object, bool]:
        """The period an answer of that time places the delivery in, and whether it is in doubt."""
        (leased,) = lease(frozen)
        record(frozen, [Result(leased, Outcome.SENT)], now=at)
        (row,) = rows(frozen)
        return row["billed_period"] == row["period"], row["compare_at"] is not None

    @pytest.mark.parametrize(
        ("at", "placed"), [(END - MINUTE - MOMENT, True), (END - MINUTE, False)]
    )
    @pytest.mark.usefixtures("delivery")
    def test_in_the_last_minute(self, frozen: Database, at: datetime, *, placed: bool) -> None:
        """Clocks differ by up to a minute, so Commet may have booked it in the next period."""
        assert self.answer(frozen, at) == (placed, not placed)

    @pytest.mark.usefixtures("delivery")
    def test_after_a_plan_change(self, frozen: Database) -> None:
        """The period was closed early: its end by the calendar says nothing any more."""
        frozen.execute("update usage_period set closed_at = %s", [after(minutes=1)])
        assert self.answer(frozen, after(minutes=2)) == (False, True)


class TestClaiming:
    @pytest.mark.parametrize(("age", "claimed"), [(INTERVAL - MOMENT, 0), (INTERVAL, 1)])
    @pytest.mark.usefixtures("delivery")
    def test_once_per_interval(self, frozen: Database, age: timedelta, claimed: int) -> None:
        use(frozen, "1")
        frozen.execute("update usage_total set claimed_at = now() - %s", [age])
        assert claim(frozen, now=NOW, interval=INTERVAL) == claimed

    @pytest.mark.parametrize(("left", "claimed"), [(MOMENT, 0), (timedelta(0), 1)])
    @pytest.mark.usefixtures("delivery")
    def test_a_pause_ends(self, frozen: Database, left: timedelta, claimed: int) -> None:
        use(frozen, "1")
        frozen.execute("update usage_total set claims_paused_until = now() + %s", [left])
        assert claim(frozen, now=NOW, interval=timedelta(0)) == claimed


class TestDoubt:
    HOUR = timedelta(hours=1)

    def in_doubt(self, frozen: Database) -> dict[str, bool]:
        values = {
            "user_id": "usr_ana",
            "quiet": outbox.QUIET,
            "key_lifetime": outbox.KEY_LIFETIME,
            "patience": outbox.PATIENCE,
        }
        row = frozen.one(comparing._sql["in_doubt"], values)
        assert row is not None
        return {name: row[name] for name in ("fresh", "overdue")}

    @pytest.mark.parametrize(("age", "overdue"), [(HOUR - MOMENT, False), (HOUR, True)])
    @pytest.mark.parametrize("since", ["doubted_at", "sent_at", "uncertain_since"])
    def test_for_an_hour(
        self, frozen: Database, delivery: Delivery, since: str, age: timedelta, *, overdue: bool
    ) -> None:
        """Counted from the doubt, the answer, or the end of a key that was never answered."""
        age += DAY if since == "uncertain_since" else timedelta(0)
        delivery(compare_at=timedelta(0), **{since: age})
        assert self.in_doubt(frozen)["overdue"] is overdue

    @pytest.mark.parametrize(("age", "fresh"), [(MINUTE - MOMENT, True), (MINUTE, False)])
    def test_a_minute_until_commet_shows_it(
        self, frozen: Database, delivery: Delivery, age: timedelta, *, fresh: bool
    ) -> None:
        delivery(compare_at=timedelta(0), sent_at=age)
        assert self.in_doubt(frozen)["fresh"] is fresh

    @pytest.mark.parametrize(("age", "waits"), [(DAY + HOUR - MOMENT, 0), (DAY + HOUR, 1)])
    def test_then_it_waits_for_a_person(
        self, frozen: Database, delivery: Delivery, age: timedelta, waits: int
    ) -> None:
        delivery(state="parked", reason="unconfirmed", compare_at=timedelta(0), uncertain_since=age)
        assert gauges(frozen).parked_deliveries == waits


class TestReplacing:
    """10 were sent a while ago and 4 taken back; the total is replaced while Commet takes that."""

    @pytest.fixture(autouse=True)
    def _shrunk(self, frozen: Database, delivery: Delivery) -> None:
        delivery(state="sent", sent_at=DAY, answered_at=NOW)
        frozen.execute("update usage_delivery set billed_period = period")
        frozen.execute("update usage_total set total = 6")

    def begin(self, frozen: Database, *, now: datetime = NOW, quiet: timedelta = MINUTE) -> str:
        return str(
            frozen.value(
                "select begin_replacement(period, feature, %s, %s, %s, 'correction')"
                " from usage_total",
                [now, quiet, outbox.MARGIN],
            )
        )

    @pytest.mark.parametrize(
        ("at", "word"), [(END - MINUTE - MOMENT, "begun"), (END - MINUTE, "over")]
    )
    def test_not_in_the_last_minute(self, frozen: Database, at: datetime, word: str) -> None:
        assert self.begin(frozen, now=at) == word

    def test_not_in_a_period_that_was_closed_early(self, frozen: Database) -> None:
        frozen.execute("update usage_period set closed_at = %s", [NOW])
        assert self.begin(frozen) == "over"

    @pytest.mark.parametrize(("age", "word"), [(MINUTE - MOMENT, "waiting"), (MINUTE, "begun")])
    def test_when_commet_shows_what_was_sent(
        self, frozen: Database, delivery: Delivery, age: timedelta, word: str
    ) -> None:
        delivery(sent_at=age)
        assert self.begin(frozen) == word

    @pytest.mark.parametrize(
        ("column", "word"), [("compare_at", "waiting"), ("billed_period", "in_doubt")]
    )
    def test_not_while_in_doubt(
        self, frozen: Database, delivery: Delivery, column: str, word: str
    ) -> None:
        """Whether the doubt is to be decided yet, or nobody can decide it any more."""
        delivery(**{column: timedelta(0) if column == "compare_at" else None})
        assert self.begin(frozen) == word

    @pytest.mark.parametrize(
        ("answered", "word"), [(-MINUTE, "begun"), (-MINUTE + MOMENT, "in_doubt")]
    )
    def test_what_was_answered_before_the_period(
        self, frozen: Database, delivery: Delivery, answered: timedelta, word: str
    ) -> None:
        """A doubt about an earlier period is none about this one; clocks differ by a minute."""
        starts_at = frozen.value("select starts_at from usage_period")
        delivery(billed_period=None, answered_at=starts_at + answered)
        assert self.begin(frozen) == word

    def test_not_while_a_delivery_is_pending(self, frozen: Database) -> None:
        frozen.execute(
            "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body)"
            " select period, feature, 2, user_id, 1, 'e', '' from usage_delivery"
        )
        assert self.begin(frozen) == "waiting"

    @pytest.mark.parametrize("state", ["pending", "parked"])
    def test_not_twice(self, frozen: Database, state: str) -> None:
        """Nor after the replacement was parked as unconfirmed: a person has to decide first."""
        assert self.begin(frozen) == "begun"
        frozen.execute(
            "update usage_delivery set state = %s, reason = 'unconfirmed'"
            " where kind = 'replacement'",
            [state],
        )
        assert self.begin(frozen) == "waiting"

    def test_waiting_pauses_claims_for_a_minute_and_a_half(
        self, frozen: Database, delivery: Delivery
    ) -> None:
        """So that new deliveries do not keep the replacement waiting for ever."""
        delivery(sent_at=timedelta(0))
        assert self.begin(frozen) == "waiting"
        paused = "select claims_paused_until - now() from usage_total"
        assert frozen.value(paused) == timedelta(seconds=90)

    def found(self, frozen: Database, at: datetime) -> int:
        values = {
            "now": at, "margin": outbox.MARGIN, "closing": outbox.CLOSING, "quiet": outbox.QUIET,
            "limit": 9,
        }  # fmt: skip
        return len(frozen.all(closing._sql["to_be_replaced"], values))

    def book(self, frozen: Database, at: datetime, kind: str) -> None:
        frozen.execute(
            "insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity,"
            " occurred_at, booked_at, period, late, kind)"
            " select 'usr_ana', %(kind)s, '', feature, 1, %(at)s, %(at)s, period, false, %(kind)s"
            " from usage_total",
            {"at": at, "kind": kind},
        )

    @pytest.mark.parametrize(
        ("at", "found"),
        [
            (END - timedelta(minutes=15) - MOMENT, 0),
            (END - timedelta(minutes=15), 1),
            (END - MINUTE - MOMENT, 1),
            (END - MINUTE, 0),
        ],
    )
    def test_in_the_last_quarter_of_an_hour(
        self, frozen: Database, at: datetime, found: int
    ) -> None:
        """Quiet or not."""
        self.book(frozen, at, "correction")
        assert self.found(frozen, at) == found

    @pytest.mark.parametrize(("age", "found"), [(MINUTE - MOMENT, 0), (MINUTE, 1)])
    def test_once_nothing_was_booked_for_a_minute(
        self, frozen: Database, age: timedelta, found: int
    ) -> None:
        """Neither corrected nor used: usage may raise it again."""
        self.book(frozen, after(minutes=-5), "correction")
        self.book(frozen, NOW, "event")
        assert self.found(frozen, NOW + age) == found

    @pytest.mark.parametrize(("age", "found"), [(15 * MINUTE - MOMENT, 0), (15 * MINUTE, 1)])
    def test_once_it_was_not_corrected_for_a_quarter_of_an_hour(
        self, frozen: Database, age: timedelta, found: int
    ) -> None:
        """A total that never rests is replaced all the same."""
        self.book(frozen, after(days=1), "correction")
        self.book(frozen, after(days=1) + age, "event")
        assert self.found(frozen, after(days=1) + age) == found

    @pytest.mark.parametrize(("age", "found"), [(timedelta(hours=1) - MOMENT, 0), (60 * MINUTE, 1)])
    def test_an_hour_after_commet_refused(
        self, frozen: Database, age: timedelta, found: int
    ) -> None:
        """And without that pause when the period is about to end."""
        assert self.begin(frozen) == "begun"
        frozen.execute(
            "select undo_replacement(period, feature, seq, 'refused') from usage_delivery"
            " where kind = 'replacement'"
        )
        frozen.execute("update usage_total set replace_after = replace_after - %s", [age])
        assert self.found(frozen, after(days=2)) == found
        assert self.found(frozen, END - 15 * MINUTE) == 1

    @pytest.mark.parametrize(
        ("at", "sent"), [(END - MINUTE / 2 - MOMENT, True), (END - MINUTE / 2, False)]
    )
    def test_not_sent_in_the_last_half_minute(
        self, frozen: Database, at: datetime, *, sent: bool
    ) -> None:
        """Neither by the run that has leased it nor, then, by any other: it is parked."""
        assert self.begin(frozen) == "begun"
        soon, steps = Deadline.after(20), closing.Steps()
        commet = StandIn()
        if sent:
            assert closing.park_unsendable(frozen, at, steps, soon) == 0
        (leased,) = lease(frozen)
        result = attempt(commet, leased, soon, now=at)
        assert (result.outcome is Outcome.SENT, len(commet.calls)) == (sent, int(sent))
        frozen.execute("update usage_delivery set due_at = now()")
        assert closing.park_unsendable(frozen, at, steps, soon) == int(not sent)


class TestWhereItMayBe:
    """By the times of a delivery in doubt: in its own period, or in the one that began at END."""

    def doubt(self, **times: datetime | None) -> Doubt:
        columns: dict[str, Any] = {"ends_at": END, "tried_at": None, "answered_at": None} | times
        return Doubt(
            period=1, feature="storage", seq=1, kind="event", quantity=Decimal(1), state="sent",
            event_id="e", fresh=False, overdue=False, **columns,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("answered", "before"),
        [(END - MINUTE - MOMENT, True), (END - MINUTE, False), (None, False)],
    )
    def test_answered_before_it_began(self, answered: datetime | None, *, before: bool) -> None:
        assert self.doubt(answered_at=answered).was_answered_before(END) is before

    @pytest.mark.parametrize(
        ("ends_at", "tried_at", "there"),
        [
            (END, None, True),
            (END - MOMENT, None, False),
            (END - MOMENT, END - MINUTE, True),
            (END - MOMENT, END - MINUTE - MOMENT, False),
        ],
    )
    def test_no_period_lies_between(
        self, ends_at: datetime, tried_at: datetime | None, *, there: bool
    ) -> None:
        assert self.doubt(ends_at=ends_at, tried_at=tried_at).is_in_own_period_or(END) is there


class TestAPeriodHeardOfLate:
    """Commet's new period began at NOW; a delivery sent since may be booked there."""

    @pytest.mark.parametrize(("answered", "doubted"), [(-MINUTE, False), (-MINUTE + MOMENT, True)])
    @pytest.mark.parametrize("ready", [False, True])
    def test_within_a_minute_of_its_start(
        self,
        frozen: Database,
        delivery: Delivery,
        answered: timedelta,
        *,
        doubted: bool,
        ready: bool,
    ) -> None:
        """By the change that tells of the period, or when totals are made ready to compare."""
        delivery(state="sent", answered_at=NOW + answered)
        if not ready:
            frozen.execute("update usage_delivery set billed_period = period")
        frozen.execute(
            "select record_period('usr_ana', 'sub_usr_ana', 'pln_new', false, %s, %s, %s)",
            [NOW, END, after(hours=1)],
        )
        if ready:
            frozen.execute("update usage_delivery set billed_period = period")
            frozen.execute(comparing._sql["make_ready"], {"user_id": "usr_ana"})
        (row,) = rows(frozen)
        assert (row["billed_period"] is None, row["compare_at"] is not None) == (doubted, doubted)
