"""Delivering usage: every unit once, whatever Commet, the network or we ourselves do."""

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from threading import Barrier, Lock

import pytest
from aws_lambda_powertools import Logger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from billing.commet.answers import FeatureAccess
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.delivery import closing
from billing.delivery.comparing import compare
from billing.delivery.outbox import Gauges, claim, gauges, lease, record, redrive, resolve
from billing.delivery.sending import Summary, attempt, deliver
from billing.errors import CommetRefused, CommetUnavailable
from billing.usage.accepting import UsageEvent, accept
from tests.integration.billing.conftest import NOW, RULES, START, Subscribe, after

END = datetime(2026, 10, 1, tzinfo=UTC)
INTERVAL = timedelta(minutes=5)
STORAGE = {
    "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage", "model": "metered",
    "allowed": True, "included": "100", "unlimited": False, "overage_enabled": True,
    "unit_price": "1000", "currency": "usd",
}  # fmt: skip
_keys = count()


@dataclass(frozen=True)
class Tracked:
    id: str


@dataclass
class StandIn:
    """Counts an event id once and a key's answer for good, as Commet does.

    `answers` are exceptions to raise, first come first served; None lets the call through. Those
    in `lost` are booked before they fail: the answer got lost, not the request.
    """

    answers: list[Exception | None] = field(default_factory=list)
    lost: list[Exception] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    events: dict[str, dict[str, object]] = field(default_factory=dict)
    totals: list[dict[str, object]] = field(default_factory=list)
    together: Barrier | None = None
    starts_at: datetime = START  # of the allowance that runs
    used: Decimal = Decimal(10**9)
    _lock: Lock = field(default_factory=Lock)

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Tracked:
        assert deadline.remaining() > 0
        if self.together:
            self.together.wait(timeout=10)
        with self._lock:
            return self._track(body, idempotency_key)

    def replace_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> Tracked:
        assert deadline.remaining() > 0
        with self._lock:
            self.calls.append((idempotency_key, body))
            answer = self.answers.pop(0) if self.answers else None
            if answer:
                raise answer
            self.totals.append(json.loads(body))
            return Tracked(f"adj_{idempotency_key}")

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:  # noqa: ARG002
        assert deadline.remaining() > 0
        consumption = {
            "model": "metered", "unitsUsed": self.used,
            "period": {"start": self.starts_at, "end": self.starts_at + timedelta(days=30)},
        }  # fmt: skip
        return [
            FeatureAccess.model_validate(
                {"code": "storage", "name": "Storage", "type": "usage", "allowed": True,
                 "consumption": consumption}
            )
        ]  # fmt: skip

    def _track(self, body: str, idempotency_key: str) -> Tracked:
        self.calls.append((idempotency_key, body))
        answer = self.answers.pop(0) if self.answers else None
        if (
            isinstance(answer, CommetRefused)
            and answer.commet_status == 400
            and json.loads(body)["eventId"] in self.events
        ):
            answer = None  # the key was answered already, and that answer is replayed
        if answer and not any(answer is lost for lost in self.lost):
            raise answer
        event = json.loads(body, parse_float=Decimal)
        known = self.events.setdefault(event["eventId"], event)
        assert known == event, "the same event id came with another body"
        if answer:
            raise answer
        return Tracked(f"evt_{event['eventId']}")

    @property
    def total(self) -> Decimal:
        return sum((Decimal(str(e["value"])) for e in self.events.values()), Decimal(0))


def use(db: Database, quantity: str, *, user: str = "usr_ana", now: datetime = NOW) -> None:
    event = UsageEvent(user, "storage", Decimal(quantity), f"key-{next(_keys)}")
    (verdict,) = accept(db, [event], rules=RULES, now=now)
    assert verdict.status == "accepted"


@dataclass
class Allowed:
    """A budget of so many calls; None: no end of them."""

    calls: int | None = None
    pauses: list[float] = field(default_factory=list)

    def wait(self, calls: int, deadline: Deadline) -> bool:  # noqa: ARG002
        if self.pauses or (self.calls is not None and calls > self.calls):
            return False
        if self.calls is not None:
            self.calls -= calls
        return True

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def run(
    db: Database,
    commet: StandIn,
    *,
    now: datetime = NOW,
    seconds: float = 60,
    interval: timedelta = INTERVAL,
    workers: int = 1,
    budget: Allowed | None = None,
) -> Summary:
    return deliver(
        db,
        commet,
        lambda: now,
        Deadline.after(seconds),
        interval,
        budget=budget or Allowed(),
        workers=workers,
        quiet=timedelta(0),
        jitter=lambda: 1.0,
    )


def rows(db: Database) -> list[dict[str, object]]:
    return db.all("select * from usage_delivery order by period, feature, seq")


def make_due(db: Database) -> None:
    """As if enough time had passed for leases and pauses to end."""
    db.execute("update usage_delivery set due_at = now()")


def age(db: Database, by: timedelta) -> None:
    """As if everything so far had happened that much earlier."""
    db.execute(
        "update usage_delivery set due_at = due_at - %(by)s, claimed_at = claimed_at - %(by)s,"
        " uncertain_since = uncertain_since - %(by)s",
        {"by": by},
    )
    db.execute("update usage_total set claimed_at = claimed_at - %(by)s", {"by": by})


class TestClaim:
    def test_growth_becomes_one_delivery(self, db: Database, subscribe: Subscribe) -> None:
        """However many events there were; the body says all of it, exactly."""
        subscribe()
        use(db, "0.1")
        use(db, "0.2")
        assert claim(db, now=NOW, interval=INTERVAL) == 1
        (row,) = rows(db)
        assert json.loads(str(row["body"]), parse_float=Decimal) == {
            "featureCode": "storage",
            "customerId": "usr_ana",
            "value": Decimal("0.3"),
            "eventId": f"{row['period']}:usr_ana:storage:1",
            "timestamp": "2026-09-10T12:00:00.000Z",
        }

    def test_nothing_grew(self, db: Database, subscribe: Subscribe) -> None:
        """Claiming again finds nothing."""
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        assert claim(db, now=NOW, interval=timedelta(0)) == 0

    def test_once_per_interval(self, db: Database, subscribe: Subscribe) -> None:
        """More growth waits for the interval to pass, then goes as one."""
        subscribe()
        for quantity in ("1", "2", "4"):
            use(db, quantity)
            claim(db, now=NOW, interval=INTERVAL)
        assert [r["quantity"] for r in rows(db)] == [1]
        age(db, INTERVAL)
        assert claim(db, now=NOW, interval=INTERVAL) == 1
        assert [r["quantity"] for r in rows(db)] == [1, 6]

    def test_at_once_when_the_period_closes(self, db: Database, subscribe: Subscribe) -> None:
        """In the last 15 minutes growth does not wait: it should be on this period's invoice."""
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        use(db, "2")
        almost = END - timedelta(minutes=15)
        assert claim(db, now=almost - timedelta(seconds=1), interval=INTERVAL) == 0
        assert claim(db, now=almost, interval=INTERVAL) == 1

    def test_what_is_left_of_an_ended_period(self, db: Database, subscribe: Subscribe) -> None:
        """Sent after the end, with a time inside the period; then nothing is left to claim."""
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        use(db, "2")
        use(db, "4", now=END)  # turns the period over
        assert claim(db, now=after(days=25), interval=INTERVAL) == 2
        bodies = [json.loads(str(r["body"])) for r in rows(db)]
        assert [(b["value"], b["timestamp"]) for b in bodies] == [
            (1, "2026-09-10T12:00:00.000Z"),
            (2, "2026-09-30T23:59:59.999Z"),
            (4, "2026-10-05T12:00:00.000Z"),
        ]
        assert [
            row["fully_claimed"]
            for row in db.all("select fully_claimed from usage_total order by period")
        ] == [
            True,
            False,
        ]

    def test_a_period_that_was_replaced(self, db: Database, subscribe: Subscribe) -> None:
        """A plan change ends a period early: the rest goes at once, dated before the next one."""
        subscribe()
        use(db, "7")
        claim(db, now=NOW, interval=INTERVAL)
        use(db, "1")
        change = after(hours=1)
        db.execute("update usage_period set closed_at = %s", [after(hours=1, seconds=5)])
        db.execute(
            "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
            " values ('usr_ana', 'sub_usr_ana', %s, %s)",
            [change, END],
        )
        assert claim(db, now=after(hours=2), interval=INTERVAL) == 1
        row = rows(db)[-1]
        assert json.loads(str(row["body"]))["timestamp"] == "2026-09-10T12:59:59.999Z"

    def test_an_ended_period_that_nobody_closed(self, db: Database, subscribe: Subscribe) -> None:
        """Flushed all the same, and dated inside it."""
        subscribe()
        use(db, "1")
        claim(db, now=END + timedelta(days=2), interval=INTERVAL)
        (row,) = rows(db)
        assert json.loads(str(row["body"]))["timestamp"] == "2026-09-30T23:59:59.999Z"

    def test_more_digits_than_a_double_keeps(self, db: Database, subscribe: Subscribe) -> None:
        """A difference of more than 15 digits goes in two deliveries, each of them exact."""
        subscribe()
        use(db, "0.000001")
        claim(db, now=NOW, interval=timedelta(0))
        use(db, "999999999.999999")
        use(db, "1")
        assert claim(db, now=NOW, interval=timedelta(0)) == 1
        assert claim(db, now=NOW, interval=timedelta(0)) == 1
        assert [r["quantity"] for r in rows(db)] == [
            Decimal("0.000001"),
            Decimal(1000000000),
            Decimal("0.999999"),
        ]

    def test_a_settled_period_that_comes_back(self, db: Database, subscribe: Subscribe) -> None:
        """A subscription over for a moment goes on in its period, and so does delivery."""
        subscribe()
        use(db, "1")
        db.execute("update usage_period set closed_at = now()")
        claim(db, now=NOW, interval=INTERVAL)
        db.execute("update usage_period set closed_at = null")
        use(db, "2")
        age(db, INTERVAL)
        assert claim(db, now=NOW, interval=INTERVAL) == 1

    def test_long_ids(self, db: Database, subscribe: Subscribe) -> None:
        """Commet takes 200 characters of event id; longer names are shortened, not cut."""
        users = [subscribe("u" * 99 + last, feature="f" * 100) for last in "ab"]
        for user in users:
            accept(
                db,
                [UsageEvent(user, "f" * 100, Decimal(1), "k")],
                rules=RULES,
                now=NOW,
            )
        claim(db, now=NOW, interval=INTERVAL)
        ids = {str(r["event_id"]) for r in rows(db)}
        assert len(ids) == 2
        assert all(len(i) < 190 for i in ids)

    def test_two_at_once(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Overlapping runs, with usage still coming in, claim everything once."""
        users = [subscribe(f"usr_{n}") for n in range(10)]

        def work(n: int) -> int:
            mine = connect()
            claimed = 0
            for i in range(20):
                use(mine, "1", user=users[(n + i) % 10])
                claimed += claim(mine, now=NOW, interval=timedelta(0))
            return claimed

        with ThreadPoolExecutor(8) as pool:
            claimed = sum(pool.map(work, range(8)))
        claimed += claim(db, now=NOW, interval=timedelta(0))
        assert len(rows(db)) == claimed
        assert db.one(
            "select sum(total) as total, sum(claimed) as claimed,"
            " (select sum(quantity) from usage_delivery) as delivered from usage_total"
        ) == {"total": 160, "claimed": 160, "delivered": 160}


class TestDeliver:
    def test_sends_what_was_used(self, db: Database, subscribe: Subscribe) -> None:
        """One call, its key made of the event id; then there is nothing left."""
        subscribe()
        use(db, "1.5")
        commet = StandIn()
        assert run(db, commet) == Summary(claimed=1, sent=1, drained=True)
        (row,) = rows(db)
        assert commet.calls == [(f"{row['event_id']}:1", row["body"])]
        assert (row["state"], row["remote_id"]) == ("sent", f"evt_{row['event_id']}")
        assert row["sent_at"] is not None
        assert run(db, commet) == Summary(drained=True)

    @pytest.mark.parametrize("lost", [True, False])
    def test_no_answer(self, db: Database, subscribe: Subscribe, *, lost: bool) -> None:
        """Sent again, later, byte for byte; Commet counts it once whether it had it or not."""
        subscribe()
        use(db, "1")
        silence = CommetUnavailable()
        commet = StandIn([silence], [silence] if lost else [])
        assert run(db, commet) == Summary(claimed=1, postponed=1, drained=True)
        make_due(db)
        use(db, "10")
        assert run(db, commet) == Summary(sent=1, drained=True)
        assert commet.calls[0] == commet.calls[1]
        assert commet.total == 1

    def test_a_crash_before_the_answer_is_noted(self, db: Database, subscribe: Subscribe) -> None:
        """The lease ends, and the next run sends the same again."""
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        commet = StandIn()
        (leased,) = lease(db)
        commet.track_usage(
            leased.body, idempotency_key=leased.idempotency_key, deadline=Deadline.after(1)
        )
        assert run(db, commet) == Summary(drained=True)  # nobody else takes it meanwhile
        make_due(db)
        assert run(db, commet) == Summary(sent=1, drained=True)
        assert commet.calls[0] == commet.calls[1]
        assert commet.total == 1

    def test_known_already(self, db: Database, subscribe: Subscribe) -> None:
        """`duplicate` says that Commet has it."""
        subscribe()
        use(db, "1")
        commet = StandIn([CommetRefused("duplicate", commet_status=409)])
        assert run(db, commet).sent == 1
        assert rows(db)[0]["state"] == "sent"

    def test_a_refusal_parks_one_and_stops_nobody(self, db: Database, subscribe: Subscribe) -> None:
        """It is kept with Commet's reason; the others go out in the same run."""
        for user in ("usr_a", "usr_b", "usr_c"):
            subscribe(user)
            use(db, "1", user=user)
        commet = StandIn([CommetRefused("feature_not_in_plan", commet_status=400)])
        assert run(db, commet) == Summary(claimed=3, sent=2, parked=1, drained=True)
        parked = [r for r in rows(db) if r["state"] == "parked"]
        assert [r["reason"] for r in parked] == ["feature_not_in_plan"]
        make_due(db)
        assert run(db, commet) == Summary(drained=True)

    @pytest.mark.parametrize("status", [401, 403])
    def test_our_key_is_refused(self, db: Database, subscribe: Subscribe, status: int) -> None:
        """That says nothing of the usage: all stays pending, and the run ends after one call."""
        for user in ("usr_a", "usr_b"):
            subscribe(user)
            use(db, "1", user=user)
        commet = StandIn([CommetRefused("unauthorized", commet_status=status)])
        assert run(db, commet) == Summary(claimed=2, postponed=1)
        assert {r["state"] for r in rows(db)} == {"pending"}
        assert [r["uncertain_since"] for r in rows(db)] == [None, None]

    def test_too_many_requests(self, db: Database, subscribe: Subscribe) -> None:
        """Commet says when: not before, and nothing else until the next run."""
        for user in ("usr_a", "usr_b"):
            subscribe(user)
            use(db, "1", user=user)
        commet = StandIn([CommetUnavailable(retry_after=90, commet_code="rate_limited")])
        assert run(db, commet) == Summary(claimed=2, postponed=1)
        assert len(commet.calls) == 1
        waiting = db.value(
            "select count(*) from usage_delivery"
            " where due_at between now() + interval '60 s' and now() + interval '90 s'"
        )
        assert waiting == 1

    def test_commet_is_down(self, db: Database, subscribe: Subscribe) -> None:
        """After three calls without an answer a run gives up; nothing is lost."""
        for n in range(5):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        commet = StandIn([CommetUnavailable() for _ in range(5)])
        assert run(db, commet) == Summary(claimed=5, postponed=3)
        commet.answers.clear()
        make_due(db)
        assert run(db, commet) == Summary(sent=5, drained=True)
        assert commet.total == 5

    def test_pauses_grow(self, db: Database, subscribe: Subscribe) -> None:
        """From two seconds, doubling, to ten minutes."""
        subscribe()
        use(db, "1")
        commet = StandIn([CommetUnavailable() for _ in range(12)])
        pauses = []
        for _ in range(12):
            run(db, commet)
            pauses.append(
                round(
                    db.value("select extract(epoch from due_at - now())::float from usage_delivery")
                )
            )
            make_due(db)
        assert pauses[:4] == [2, 4, 8, 16]
        assert pauses[-2:] == [600, 600]

    def test_no_time_left(self, db: Database, subscribe: Subscribe) -> None:
        """A call that could not finish is not begun."""
        subscribe()
        use(db, "1")
        commet = StandIn()
        assert run(db, commet, seconds=5) == Summary(claimed=1)
        assert commet.calls == []

    def test_unconfirmed_for_a_day(self, db: Database, subscribe: Subscribe) -> None:
        """Commet's memory of the key is over: sending it again might count it twice."""
        subscribe()
        use(db, "1")
        commet = StandIn([CommetUnavailable()])
        run(db, commet)
        age(db, timedelta(hours=23))
        commet.answers = [CommetUnavailable()]
        assert run(db, commet).postponed == 1
        age(db, timedelta(hours=1))
        assert run(db, commet) == Summary(parked=1, drained=True)
        assert len(commet.calls) == 2
        assert (rows(db)[0]["state"], rows(db)[0]["reason"]) == ("parked", "unconfirmed")

    def test_turned_away_for_a_day(self, db: Database, subscribe: Subscribe) -> None:
        """What certainly had no effect may be tried for as long as it takes."""
        subscribe()
        use(db, "1")
        commet = StandIn([CommetRefused("unauthorized", commet_status=401)])
        run(db, commet)
        age(db, timedelta(days=3))
        assert run(db, commet) == Summary(sent=1, drained=True)

    def test_an_answer_after_parking(self, db: Database, subscribe: Subscribe) -> None:
        """A confirmation that comes late is still the truth."""
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        (leased,) = lease(db)
        db.execute("update usage_delivery set state = 'parked', reason = 'unconfirmed'")
        record(db, [attempt(StandIn(), leased, Deadline.after(1), now=NOW)], now=NOW)
        assert (rows(db)[0]["state"], rows(db)[0]["reason"]) == ("sent", None)

    def test_runs_that_overlap(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> None:
        """Each delivery is sent by one of them."""
        for n in range(40):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        commet = StandIn()
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: run(connect(), commet), range(4)))
        assert sum(s.claimed for s in done) == 40
        assert sum(s.sent for s in done) == len(commet.calls) == commet.total == 40


class TestLease:
    def test_no_more_than_asked_for(self, db: Database, subscribe: Subscribe) -> None:
        """Nor where Postgres believes in a single row, and would look for others once for each."""
        users = [f"usr_{number}" for number in range(12)]
        for user in users:
            subscribe(user)
        use(db, "1", user=users[0])
        claim(db, now=NOW, interval=INTERVAL)
        db.execute("vacuum analyze")
        for user in users[1:]:
            use(db, "1", user=user)
        claim(db, now=NOW, interval=INTERVAL)
        assert [len(lease(db, limit)) for limit in (1, 2, 10)] == [1, 2, 9]


class TestSideBySide:
    def test_as_many_calls_as_workers(self, db: Database, subscribe: Subscribe) -> None:
        """Four are under way at the same time: none would get through without the others."""
        for n in range(8):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        commet = StandIn(together=Barrier(4))
        assert run(db, commet, workers=4) == Summary(claimed=8, sent=8, drained=True)
        assert commet.total == 8

    def test_a_slow_one_keeps_nobody_waiting(self, db: Database, subscribe: Subscribe) -> None:
        """One call hangs until all the others are answered and written down."""
        for n in range(6):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        commet = StandIn()

        class Slow(StandIn):
            def track_usage(
                self, body: str, *, idempotency_key: str, deadline: Deadline
            ) -> Tracked:
                while "usr_0" in body and len(commet.events) < 5:
                    assert deadline.remaining() > 0
                return commet.track_usage(body, idempotency_key=idempotency_key, deadline=deadline)

        assert run(db, Slow(), workers=2).sent == 6

    def test_a_bug_of_one(self, db: Database, subscribe: Subscribe) -> None:
        """Whatever is wrong with one delivery, the others are sent."""
        for user in ("usr_a", "usr_b", "usr_c"):
            subscribe(user)
            use(db, "1", user=user)
        commet = StandIn([RuntimeError("unthinkable")])
        assert run(db, commet, workers=3) == Summary(claimed=3, sent=2, postponed=1, drained=True)


class TestBudget:
    def test_spent(self, db: Database, subscribe: Subscribe) -> None:
        """A run sends what the stack may and leaves the rest to the next, as it was."""
        for n in range(5):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        commet = StandIn()
        assert run(db, commet, workers=2, budget=Allowed(3)) == Summary(claimed=5, sent=3)
        assert [r["attempts"] for r in rows(db)].count(0) == 2
        assert run(db, commet, workers=2, budget=Allowed(9)).sent == 2

    def test_a_pause_is_everybodys(self, db: Database, subscribe: Subscribe) -> None:
        """What Commet asks for is told to the whole stack; untold it is a few seconds."""
        for user in ("usr_a", "usr_b", "usr_c"):
            subscribe(user)
            use(db, "1", user=user)
        told, untold = Allowed(), Allowed()
        limited = CommetUnavailable(retry_after=90, commet_code="rate_limited")
        assert run(db, StandIn([limited]), budget=told) == Summary(claimed=3, postponed=1)
        assert told.pauses == [90]
        run(db, StandIn([CommetUnavailable(commet_code="rate_limited")]), budget=untold)
        assert untold.pauses == [5]

    def test_in_progress_is_not_a_pause(self, db: Database, subscribe: Subscribe) -> None:
        """Commet is still answering somebody else about this one: the others need not wait."""
        for user in ("usr_a", "usr_b"):
            subscribe(user)
            use(db, "1", user=user)
        budget = Allowed()
        busy = CommetUnavailable(retry_after=2, commet_code="idempotency_in_progress")
        assert run(db, StandIn([busy]), budget=budget).sent == 1
        assert budget.pauses == []


class TestCommetIsDown:
    def test_one_users_trouble_is_not_it(self, db: Database, subscribe: Subscribe) -> None:
        """Many deliveries of one user fail in a row, and the others' still go out."""
        for feature in range(20):
            subscribe("usr_a", feature=f"f{feature}")
            accept(
                db,
                [UsageEvent("usr_a", f"f{feature}", Decimal(1), f"k{feature}")],
                rules=RULES,
                now=NOW,
            )
        claim(db, now=NOW, interval=INTERVAL)
        subscribe("usr_b")
        use(db, "1", user="usr_b")
        commet = StandIn([CommetUnavailable() for _ in range(20)])
        assert run(db, commet) == Summary(claimed=1, sent=1, postponed=20, drained=True)


class TestKeyIsOver:
    """Tried a day ago and never answered: never sent again, and no call is waited for."""

    @pytest.fixture
    def silent(self) -> StandIn:
        return StandIn([CommetUnavailable() for _ in range(100)])

    @pytest.fixture
    def tried(self, db: Database, subscribe: Subscribe, silent: StandIn) -> None:
        """Three users' deliveries, a day after the first attempt."""
        for user in ("usr_0", "usr_1", "usr_2"):
            subscribe(user)
            use(db, "1", user=user)
        assert run(db, silent).postponed == 3
        silent.calls.clear()
        age(db, timedelta(hours=24))

    def states(self, db: Database) -> list[tuple[object, object, bool]]:
        return [(r["state"], r["reason"], r["compare_at"] is not None) for r in rows(db)]

    PARKED = ("parked", "unconfirmed", True)

    @pytest.mark.usefixtures("tried")
    def test_commet_is_still_silent(
        self, db: Database, subscribe: Subscribe, silent: StandIn
    ) -> None:
        """Others have waited longer and end the run: parked all the same."""
        for n in range(3, 9):
            subscribe(f"usr_{n}")
            use(db, "1", user=f"usr_{n}")
        claim(db, now=NOW, interval=INTERVAL)
        db.execute(
            "update usage_delivery set due_at = now() - interval '2 days' where attempts = 0"
        )
        assert run(db, silent) == Summary(parked=3, postponed=3)
        assert self.states(db) == [self.PARKED] * 3 + [("pending", None, False)] * 6
        assert not any(f"usr_{n}" in body for n in range(3) for _, body in silent.calls)

    @pytest.mark.usefixtures("tried")
    def test_no_call_is_allowed(self, db: Database, silent: StandIn) -> None:
        """The budget is spent, or Commet has asked for a pause."""
        assert run(db, silent, budget=Allowed(0)).parked == 3
        assert silent.calls == []

    @pytest.mark.usefixtures("tried")
    def test_asked_to_wait_for_days(self, db: Database, silent: StandIn) -> None:
        """What Commet asked for would hide the delivery from those who look after it."""
        db.execute("update usage_delivery set due_at = now() + interval '7 days'")
        assert run(db, silent) == Summary(parked=3, drained=True)

    @pytest.mark.usefixtures("tried")
    def test_more_than_one_statement_takes(
        self, db: Database, silent: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of them in one run."""
        monkeypatch.setattr("billing.delivery.closing._PARK_LIMIT", 2)
        assert run(db, silent) == Summary(parked=3, drained=True)

    @pytest.mark.usefixtures("tried")
    def test_the_last_minute_of_a_key(self, db: Database, silent: StandIn) -> None:
        """It might end while the call is under way: not sent, and parked when it has ended."""
        age(db, timedelta(seconds=-30))
        assert run(db, silent) == Summary(drained=True)
        age(db, timedelta(seconds=30))
        assert run(db, silent) == Summary(parked=3, drained=True)
        assert silent.calls == []

    @pytest.mark.usefixtures("tried")
    def test_a_statement_that_fails(
        self, db: Database, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not parked in this run, and not sent either; others are."""
        subscribe("usr_other")
        use(db, "1", user="usr_other")
        broken = {**closing._sql.texts, "park_expired": "select 1 / 0"}
        monkeypatch.setattr(closing, "_sql", broken)
        commet = StandIn()
        assert run(db, commet) == Summary(claimed=1, sent=1, drained=True, steps_failed=1)
        assert [json.loads(body)["customerId"] for _, body in commet.calls] == ["usr_other"]

    @pytest.mark.usefixtures("tried")
    def test_many_runs_at_once(self, db: Database, connect: Callable[[], Database]) -> None:
        """Each is parked once, whichever run does it."""
        commet = StandIn()
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda mine: run(mine, commet), [connect() for _ in range(4)]))
        assert sum(each.parked for each in done) == 3
        assert self.states(db) == [self.PARKED] * 3
        assert commet.calls == []

    @pytest.mark.usefixtures("tried")
    def test_while_somebody_sends_it(self, db: Database, connect: Callable[[], Database]) -> None:
        """A lease is over before the key is, so nobody parks what is on its way."""
        age(db, timedelta(seconds=-62))
        commet, other, seen = StandIn(), connect(), []

        class Watched(StandIn):
            def track_usage(
                self, body: str, *, idempotency_key: str, deadline: Deadline
            ) -> Tracked:
                seen.append(run(other, commet))
                return commet.track_usage(body, idempotency_key=idempotency_key, deadline=deadline)

        db.execute("update usage_delivery set due_at = now() + interval '1 hour' where period > 1")
        assert run(db, Watched()).sent == 1
        assert seen == [Summary(drained=True)]
        leased = "due_at - uncertain_since <= interval '24 hours'"
        assert db.value(f"select {leased} from usage_delivery where state = 'sent'")  # noqa: S608


class TestLostToCancellation:
    @pytest.fixture
    def canceled(self, db: Database, subscribe: Subscribe) -> None:
        """95 of the 100 included were sent; 3, 4 and 5 more were not when all was over."""
        subscribe()
        use(db, "95")
        run(db, StandIn())
        for quantity in ("3", "4", "5"):
            use(db, quantity)
            claim(db, now=NOW, interval=timedelta(0))
        db.execute("update subscriptions set status = 'canceled'")
        db.execute("update usage_period set closed_at = %s", [NOW])

    def refused(self) -> StandIn:
        return StandIn([CommetRefused("no_active_subscription", commet_status=404)] * 3)

    @pytest.mark.usefixtures("canceled")
    def test_with_its_money_value(self, db: Database) -> None:
        """What lies beyond the included, in the order it was counted, at the unit price."""
        assert run(db, self.refused()).parked == 3
        lost = [r for r in rows(db) if r["state"] == "parked"]
        assert {r["reason"] for r in lost} == {"lost_to_cancellation"}
        amounts = [(r["quantity"], r["amount"], r["currency"]) for r in lost]
        assert amounts == [(3, 0, "usd"), (4, Decimal("0.2"), "usd"), (5, Decimal("0.5"), "usd")]

    @pytest.mark.usefixtures("canceled")
    def test_what_was_carried_took_up_what_is_included(self, db: Database) -> None:
        """What an earlier period left for this one came first, so that more lies beyond."""
        db.execute("update usage_total set carried = 4")
        assert run(db, self.refused()).parked == 3
        lost = [r["amount"] for r in rows(db) if r["state"] == "parked"]
        assert lost == [Decimal("0.2"), Decimal("0.4"), Decimal("0.5")]

    @pytest.mark.usefixtures("canceled")
    def test_calls_have_used_up_the_time(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it was worth is told all the same, if not of all at once."""
        with monkeypatch.context() as patched:
            patched.setattr("billing.delivery.closing.mark_lost", lambda *_: None)
            assert run(db, self.refused()).parked == 3
        run(db, StandIn(), seconds=0)
        lost = [r for r in rows(db) if r["state"] == "parked"]
        assert {r["reason"] for r in lost} == {"lost_to_cancellation"}

    @pytest.mark.usefixtures("canceled")
    def test_the_terms_are_those_of_then(self, db: Database) -> None:
        """Although the entitlement is gone by the time Commet refuses."""
        change = {"features": [], "ends_all": True}
        db.execute(
            "select record_change('usr_ana', %s, %s, %s)", [after(seconds=1), Jsonb(change), NOW]
        )
        run(db, self.refused())
        assert db.value("select sum(amount) from usage_delivery") == Decimal("0.7")

    @pytest.fixture
    def ended_twice(self, db: Database, subscribe: Subscribe) -> None:
        """112 were used. The subscription ended and began anew, of which the end was heard last.

        So the terms went an hour before the subscription ended again.
        """
        subscribe()
        use(db, "112")
        claim(db, now=NOW, interval=timedelta(0))
        begun = {"subscription": {"id": "sub_usr_ana", "known": {"status": "active"}}}
        self.hear(db, after(seconds=2), begun, now=NOW)
        self.hear(db, after(seconds=1), {"features": [], "ends_all": True}, now=NOW)
        assert db.value("select status from subscriptions") == "active"
        ended = {"subscription": {"id": "sub_usr_ana", "known": {"status": "canceled"}}}
        self.hear(db, after(hours=1), ended, now=after(hours=1))

    def hear(self, db: Database, at: datetime, change: object, *, now: datetime) -> None:
        db.execute("select record_change('usr_ana', %s, %s, %s)", [at, Jsonb(change), now])

    @pytest.mark.usefixtures("ended_twice")
    def test_the_terms_went_first(self, db: Database) -> None:
        """What was lost costs what it did when it was used."""
        assert run(db, self.refused()).parked == 1
        lost = [(r["reason"], r["amount"]) for r in rows(db)]
        assert lost == [("lost_to_cancellation", Decimal("1.2"))]

    @pytest.mark.usefixtures("ended_twice")
    def test_the_terms_went_first_and_others_came(self, db: Database) -> None:
        """What a later subscription takes for usage changes nothing."""
        other = {"features": [STORAGE | {"included": "1000", "unit_price": "800"}]}
        self.hear(db, after(hours=2), other, now=after(hours=2))
        assert run(db, self.refused()).parked == 1
        assert [r["amount"] for r in rows(db)] == [Decimal("1.2")]

    @pytest.mark.usefixtures("ended_twice")
    def test_late_usage_after_the_terms_went(self, db: Database) -> None:
        """It is taken as in any period that is over."""
        late = UsageEvent("usr_ana", "storage", Decimal(1), "late", NOW)
        (verdict,) = accept(db, [late], rules=RULES, now=after(hours=1, minutes=5))
        assert verdict.status == "accepted"

    def test_the_subscription_may_come_back(self, db: Database, subscribe: Subscribe) -> None:
        """Refused while it is only past due or paused: nothing is lost yet."""
        subscribe()
        use(db, "1")
        db.execute("update subscriptions set status = 'paused'")
        run(db, self.refused())
        assert rows(db)[0]["reason"] == "no_active_subscription"
        db.execute("update subscriptions set status = 'canceled'")
        run(db, StandIn())
        assert rows(db)[0]["reason"] == "lost_to_cancellation"


class TestRedrive:
    @pytest.fixture
    def parked(self, db: Database, subscribe: Subscribe) -> None:
        """Refused usage of two users."""
        for user in ("usr_a", "usr_b"):
            subscribe(user)
            use(db, "1", user=user)
        refusal = CommetRefused("included_limit_reached", commet_status=402)
        assert run(db, StandIn([refusal, refusal])).parked == 2

    @pytest.mark.usefixtures("parked")
    def test_under_another_key(self, db: Database) -> None:
        """The old key would replay the refusal; the event id stays, so it counts once."""
        assert redrive(db) == 2
        commet = StandIn()
        assert run(db, commet) == Summary(sent=2, drained=True)
        assert sorted(key for key, _ in commet.calls) == sorted(
            f"{r['event_id']}:2" for r in rows(db)
        )
        assert redrive(db) == 0

    @pytest.mark.usefixtures("parked")
    def test_one_user_or_one_delivery(self, db: Database) -> None:
        """Only what was asked for."""
        assert redrive(db, user_id="usr_a") == 1
        other = next(str(r["event_id"]) for r in rows(db) if r["state"] == "parked")
        assert redrive(db, event_id="nothing") == 0
        assert redrive(db, event_id=other) == 1

    @pytest.mark.usefixtures("parked")
    @pytest.mark.parametrize("reason", ["unconfirmed", "lost_to_cancellation"])
    def test_what_must_be_named(self, db: Database, reason: str) -> None:
        """What may count twice, or on somebody's next bill, is not redriven in passing."""
        db.execute("update usage_delivery set reason = %s", [reason])
        assert redrive(db) == redrive(db, user_id="usr_a") == 0
        assert redrive(db, reason=reason) == 2

    @pytest.mark.usefixtures("parked")
    def test_a_late_answer_to_the_old_key(self, db: Database) -> None:
        """A worker that slept through the redrive does not park it again."""
        db.execute("update usage_delivery set state = 'pending', due_at = now()")
        slow, _ = lease(db, 2)
        db.execute("update usage_delivery set state = 'parked'")
        redrive(db)
        refusal = CommetRefused("included_limit_reached", commet_status=402)
        record(db, [attempt(StandIn([refusal]), slow, Deadline.after(1), now=NOW)], now=NOW)
        assert {r["state"] for r in rows(db)} == {"pending"}

    @pytest.mark.usefixtures("parked")
    def test_dealt_with_by_hand(self, db: Database) -> None:
        """Off the list, with a note; it is not redriven any more."""
        assert gauges(db).parked_deliveries == 2
        (first, second) = rows(db)
        user, event = str(first["user_id"]), str(first["event_id"])
        assert resolve(db, user_id=user, event_id=event, note="Waived.")
        assert not resolve(db, user_id=user, event_id=event, note="Waived again.")
        assert gauges(db).parked_deliveries == 1
        assert redrive(db) == 1
        assert [r["note"] for r in rows(db)] == ["Waived.", None]
        assert second["note"] is None


class TestGauges:
    def test_how_the_outbox_stands(self, db: Database, subscribe: Subscribe) -> None:
        """The age of the oldest that is due, and what waits for a human."""
        assert gauges(db) == Gauges(0, 0, 0)
        subscribe()
        use(db, "1")
        claim(db, now=NOW, interval=INTERVAL)
        age(db, timedelta(minutes=10))
        assert 600 <= gauges(db).outbox_age_seconds < 700
        db.execute("update usage_delivery set due_at = now() + interval '1 hour'")
        assert gauges(db).outbox_age_seconds == 0
        db.execute(
            "update usage_delivery set state = 'parked', reason = 'unconfirmed', compare_at = now()"
        )
        assert gauges(db).parked_deliveries == 0  # totals are compared first
        db.execute("update usage_delivery set compare_at = null")
        assert gauges(db).parked_deliveries == 1

    def test_no_answer_for_hours(self, db: Database, subscribe: Subscribe) -> None:
        """Tried again and again, always a little later: it has waited since the first time."""
        subscribe()
        use(db, "1")
        run(db, StandIn([CommetUnavailable()]))
        assert gauges(db).outbox_age_seconds < 100
        age(db, timedelta(hours=2))
        run(db, StandIn([CommetUnavailable()]))
        assert 7200 <= gauges(db).outbox_age_seconds < 7300
        make_due(db)
        run(db, StandIn())
        assert gauges(db).outbox_age_seconds == 0

    def test_totals_that_nobody_tells(self, db: Database, subscribe: Subscribe) -> None:
        """An hour for totals to decide; then a human hears of it, though Commet is silent."""
        subscribe()
        use(db, "1")
        run(db, StandIn([CommetUnavailable()]))
        age(db, timedelta(hours=24))
        run(db, StandIn())
        assert gauges(db).parked_deliveries == 0
        age(db, timedelta(minutes=61))
        db.execute("update usage_delivery set compare_at = now() + interval '2 minutes'")
        assert gauges(db).parked_deliveries == 1


class TestReplacing:
    """A total that shrank is replaced before its period ends; nothing else is in its way."""

    @pytest.fixture
    def shrunk(self, db: Database, subscribe: Subscribe) -> None:
        """10 were sent and 4 taken back, a quarter of an hour before the end."""
        subscribe()
        use(db, "10")
        run(db, StandIn())
        db.execute("update usage_total set total = 6")

    ALMOST = END - timedelta(minutes=14)

    @pytest.mark.usefixtures("shrunk")
    def test_reads_no_more_than_its_own(self, db: Database, subscribe: Subscribe) -> None:
        """However much was delivered for others."""
        subscribe("usr_other")
        db.execute(
            "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
            " state, sent_at, billed_period)"
            " select p.id, 'storage', n, p.user_id, 1, n, '', 'sent',"
            " now() - interval '1 hour', p.id from usage_period p, generate_series(1, 5000) n"
            " where p.user_id = 'usr_other'"
        )
        db.execute("analyze usage_delivery")
        connection = db._usable()
        # Else Postgres still counts what earlier tests read on this connection.
        connection.execute("select pg_stat_force_next_flush()")
        with connection.transaction():
            assert connection.execute(
                "select begin_replacement(period, feature, %s, '0', '1 min', 'r') as done"
                " from usage_total",
                [self.ALMOST],
            ).fetchone() == {"done": "begun"}
            read = connection.execute(
                "select seq_tup_read + idx_tup_fetch as rows from pg_stat_xact_user_tables"
                " where relname = 'usage_delivery'"
            ).fetchone()
        assert read is not None
        assert read["rows"] < 100

    @pytest.mark.usefixtures("shrunk")
    @pytest.mark.parametrize(
        "step", ["to_be_replaced", "begin_replacement", "resume_claims", "mark_lost"]
    )
    def test_a_step_that_fails_stops_no_other(
        self, db: Database, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """What is due is sent all the same, and the run says that something failed."""
        subscribe("usr_other")
        use(db, "5", user="usr_other")
        stream = io.StringIO()
        Logger()  # a function makes the one that the layer's loggers write through
        monkeypatch.setattr(closing.logger.registered_handler, "stream", stream)
        broken = {**closing._sql.texts, step: "do $$ begin perform 1 / 0; end $$"}
        monkeypatch.setattr(closing, "_sql", broken)
        done = run(db, StandIn(), now=self.ALMOST)
        [line] = [each for each in stream.getvalue().splitlines() if "step_failed" in each]
        assert json.loads(line)["sqlstate"] == "22012"
        assert "inline_code_block line 1 at PERFORM" in json.loads(line)["routine"][0]
        assert (done.claimed, done.steps_failed) == (1, 1)
        assert done.sent >= 1

    @pytest.mark.usefixtures("shrunk")
    def test_takes_two_calls_of_the_budget(self, db: Database) -> None:
        """Commet is asked first. A third is taken for the next delivery, of which there is none."""
        budget = Allowed(10)
        assert run(db, StandIn(), now=self.ALMOST, budget=budget).sent == 1
        assert budget.calls == 7

    @pytest.mark.usefixtures("shrunk")
    @pytest.mark.parametrize(
        ("allowance", "reason"),
        [
            (StandIn(starts_at=START + timedelta(days=2)), "period_over"),
            (StandIn(used=Decimal(5)), "already_lower"),
        ],
    )
    @pytest.mark.parametrize("tried", [False, True])
    def test_commet_counts_in_another_allowance(
        self,
        db: Database,
        caplog: pytest.LogCaptureFixture,
        allowance: StandIn,
        reason: str,
        *,
        tried: bool,
    ) -> None:
        """Nothing is replaced. The replacement is undone, or parked if it may have been made.

        Commet is asked about the subscription.
        """
        if tried:
            run(db, StandIn([CommetUnavailable()]), now=self.ALMOST)
            make_due(db)
        caplog.clear()
        assert run(db, allowance, now=self.ALMOST).parked == 1
        assert allowance.totals == []
        assert [vars(r)["reason"] for r in caplog.records] == ["unconfirmed" if tried else reason]
        assert [r["kind"] for r in rows(db)] == ["event", "replacement"][: 1 + tried]
        assert db.value("select refresh_due <= now() from subscriptions")

    @pytest.mark.usefixtures("shrunk")
    def test_a_question_that_is_not_answered(self, db: Database) -> None:
        """The replacement was not tried: its key begins to age when it is."""

        class Silent(StandIn):
            def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:  # noqa: ARG002
                raise CommetUnavailable

        assert run(db, Silent(), now=self.ALMOST).postponed == 1
        assert rows(db)[1]["uncertain_since"] is None
        make_due(db)
        commet = StandIn()
        assert run(db, commet, now=self.ALMOST).sent == 1
        assert [total["value"] for total in commet.totals] == [6]

    @pytest.mark.usefixtures("shrunk")
    def test_a_question_that_is_refused(self, db: Database) -> None:
        """As if the replacement were."""

        class Unknown(StandIn):
            def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:  # noqa: ARG002
                raise CommetRefused("customer_not_found", commet_status=404)

        assert run(db, Unknown(), now=self.ALMOST).parked == 1
        assert [r["kind"] for r in rows(db)] == ["event"]

    @pytest.mark.usefixtures("shrunk")
    def test_a_plan_change_comes_first(self, db: Database) -> None:
        """It would replace the total of the new plan: not sent any more, and undone."""
        commet = StandIn([CommetUnavailable(commet_code="rate_limited")])
        assert run(db, commet, now=self.ALMOST).postponed == 1
        commet.calls.clear()
        db.execute(
            "select record_period('usr_ana', 'sub_usr_ana', 'pln_new', false, %s, %s, %s)",
            [self.ALMOST, END + timedelta(days=30), self.ALMOST],
        )
        make_due(db)
        assert run(db, commet, now=self.ALMOST + timedelta(minutes=1)).parked == 1
        assert commet.calls == []
        assert "replacement" not in [r["kind"] for r in rows(db)]

    @pytest.mark.usefixtures("shrunk")
    @pytest.mark.parametrize(
        ("answer", "reason", "kinds"),
        [
            (CommetUnavailable(commet_code="rate_limited"), "period_over", ["event"]),
            (CommetUnavailable(), "unconfirmed", ["event", "replacement"]),
        ],
    )
    def test_over_while_no_call_is_allowed(
        self,
        db: Database,
        caplog: pytest.LogCaptureFixture,
        answer: CommetUnavailable,
        reason: str,
        kinds: list[str],
    ) -> None:
        """Given up without one, so that usage is claimed again."""
        run(db, StandIn([answer]), now=self.ALMOST)
        use(db, "20", now=self.ALMOST)
        assert run(db, StandIn(), now=END + timedelta(minutes=1)).parked == 0  # it is to wait yet
        make_due(db)
        caplog.clear()
        done = run(db, StandIn(), now=END + timedelta(minutes=1), budget=Allowed(0))
        assert (done.parked, done.claimed) == (1, 1)
        assert [r["kind"] for r in rows(db)] == [*kinds, "event"]
        assert [vars(record)["reason"] for record in caplog.records] == [reason]

    @pytest.mark.usefixtures("shrunk")
    def test_over_while_somebody_sends_it(
        self, db: Database, connect: Callable[[], Database]
    ) -> None:
        """Its lease is respected: the answer is still the truth."""
        other, seen = connect(), []

        class Watched(StandIn):
            def replace_usage(
                self, body: str, *, idempotency_key: str, deadline: Deadline
            ) -> Tracked:
                seen.append(run(other, StandIn(), now=END + timedelta(minutes=1)).parked)
                return super().replace_usage(
                    body, idempotency_key=idempotency_key, deadline=deadline
                )

        assert run(db, Watched(), now=self.ALMOST).sent == 1
        assert seen == [0]

    @pytest.mark.usefixtures("shrunk")
    def test_an_answer_that_never_comes(self, db: Database) -> None:
        """Once its period is over a replacement in doubt holds nothing back."""
        commet = StandIn([CommetUnavailable()])
        run(db, commet, now=self.ALMOST)
        use(db, "20", now=self.ALMOST)
        make_due(db)
        done = run(db, commet, now=END + timedelta(minutes=1))
        assert (done.parked, done.sent) == (1, 1)
        assert db.one("select total, claimed from usage_total") == {"total": 26, "claimed": 26}
        assert [(r["kind"], r["reason"]) for r in rows(db)][1] == ("replacement", "unconfirmed")

    @pytest.mark.usefixtures("shrunk")
    def test_growth_of_an_earlier_period(self, db: Database, subscribe: Subscribe) -> None:
        """Commet would count it in what is being replaced, so it goes first."""
        db.execute(
            "update usage_period set closed_at = ends_at, starts_at = starts_at - '1 d'::interval"
        )
        subscribe()
        new = db.value("select max(id) from usage_period")
        db.execute(
            "insert into usage_total (period, feature, total) values (%s, 'storage', 1)", [new]
        )
        statement = "select begin_replacement(%s, 'storage', %s, '0', '1 min', 'r')"
        db.execute("update usage_total set total = 11 where claimed = 10")
        assert db.value(statement, [new, NOW]) == "waiting"
        assert claim(db, now=NOW, interval=INTERVAL) == 1
        db.execute("update usage_delivery set state = 'sent', billed_period = period")
        assert db.value(statement, [new, NOW]) == "begun"
        # ... and what grows or is driven again later waits for the answer.
        db.execute("update usage_total set total = 12, fully_claimed = false where claimed = 11")
        assert claim(db, now=NOW, interval=INTERVAL) == 0
        db.execute(
            "update usage_delivery set state = 'parked', reason = 'feature_disabled'"
            " where kind = 'event'"
        )
        assert redrive(db) == 0
        db.execute("update usage_total set claims_paused_until = null")
        assert redrive(db) == 2
        assert claim(db, now=NOW, interval=INTERVAL) == 1

    def part_refused(self, db: Database, sent: str, refused: str) -> None:
        """So much was sent, and then so much refused."""
        use(db, sent)
        run(db, StandIn())
        use(db, refused)
        claim(db, now=NOW, interval=timedelta(0))
        refusal = CommetRefused("included_limit_reached", commet_status=402)
        assert run(db, StandIn([refusal])).parked == 1

    def until_quiet(self, db: Database) -> list[object]:
        """What Commet's total is replaced by in the last minutes, and what usage follows."""
        commet = StandIn()
        for _ in range(3):
            run(db, commet, now=self.ALMOST)
        assert run(db, commet, now=self.ALMOST) == Summary(drained=True)
        assert (
            db.value("select count(*) from usage_total where claims_paused_until is not null") == 0
        )
        claimed = db.value("select claimed from usage_total")
        assert claimed == db.value("select sum(quantity) from usage_delivery")
        return [*(total["value"] for total in commet.totals), commet.total]

    @pytest.mark.parametrize(
        ("quantities", "told"),
        [
            (("8", "10", "6"), [6, Decimal(0)]),
            (("8.5", "10", "6.25"), [6, Decimal("0.25")]),
            (("8", "10", "0"), [0, Decimal(0)]),
            (("8", "10.5", "15.25"), [Decimal(0)]),  # there is nothing to replace
            (("8", "10", "8"), [Decimal(0)]),
        ],
    )
    def test_what_was_refused_goes_first(
        self,
        db: Database,
        subscribe: Subscribe,
        quantities: tuple[str, str, str],
        told: list[object],
    ) -> None:
        """Commet has none of it: only what it has beyond the truth is taken back there."""
        subscribe()
        sent, refused, left = quantities
        self.part_refused(db, sent, refused)
        db.execute("update usage_total set total = %s", [Decimal(left)])
        assert self.until_quiet(db) == told
        assert db.one("select total, claimed from usage_total") == {
            "total": Decimal(left),
            "claimed": Decimal(left),
        }
        assert run(db, StandIn(), now=END + timedelta(minutes=1)).sent == 0
        assert "credit" not in [r["kind"] for r in rows(db)]

    def test_what_may_have_arrived_is_not_refused(self, db: Database, subscribe: Subscribe) -> None:
        """It stays as it is; and a total that is told once is not told again and again."""
        subscribe()
        self.part_refused(db, "8", "10")
        db.execute("update usage_delivery set reason = 'unconfirmed' where state = 'parked'")
        db.execute("update usage_total set total = 6")
        assert self.until_quiet(db) == [0, Decimal(0)]
        assert [(r["kind"], r["state"], r["quantity"]) for r in rows(db)] == [
            ("event", "sent", 8),
            ("event", "parked", 10),
            ("replacement", "sent", -8),
        ]

    def test_nothing_to_replace(self, db: Database, subscribe: Subscribe) -> None:
        """Commet booked all of it elsewhere, and asking for a repair replaces it all the same."""
        subscribe()
        use(db, "8")
        run(db, StandIn())
        db.execute("update usage_delivery set billed_period = period + 1")
        db.execute("update usage_total set total = 6")
        assert self.until_quiet(db) == [Decimal(0)]
        repair = (
            "select begin_replacement(period, feature, %s, '0', '1 min', 'drift') from usage_total"
        )
        assert db.value(repair, [self.ALMOST]) == "begun"


class TestOneLockAtATime:
    """Acceptance locks many totals; whoever replaces or drives again must not do so crosswise."""

    @pytest.fixture
    def blocked(
        self, db: Database, subscribe: Subscribe, connect: Callable[[], Database]
    ) -> Iterator[Connection]:
        """Two shrunken totals; somebody is busy with the second."""
        for user in ("usr_a", "usr_b"):
            subscribe(user)
            use(db, "10", user=user)
        run(db, StandIn())
        db.execute("update usage_total set total = 6")
        busy = connect()._usable()
        busy.execute("begin")
        busy.execute(
            "select from usage_total where period = (select max(period) from usage_total)"
            " for update"
        )
        yield busy
        busy.execute("rollback")

    def wait_for_a_lock(self, db: Database) -> None:
        limit = Deadline.after(20)
        while not db.value(
            "select count(*) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        ):
            assert limit.remaining() > 0

    FREE = (
        "select count(*) from (select from usage_total"
        " where period = (select min(period) from usage_total) for update skip locked) as free"
    )

    def test_of_replacements(
        self, db: Database, blocked: Connection, connect: Callable[[], Database]
    ) -> None:
        """The first is done with when the second waits."""
        with ThreadPoolExecutor(1) as pool:
            other = connect()
            done = pool.submit(run, other, StandIn(), now=END - timedelta(minutes=14))
            try:
                self.wait_for_a_lock(db)
                assert db.value(self.FREE) == 1
            finally:
                blocked.execute("rollback")
            assert done.result().sent == 2

    def test_of_repairs(
        self, db: Database, blocked: Connection, connect: Callable[[], Database]
    ) -> None:
        """The same where a person has asked for it."""
        db.execute(
            "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at,"
            " repair) select period, feature, user_id, 10, 11, now(), now(), 'asked'"
            " from usage_delivery order by period"
        )

        class Nobody:
            def feature_access(self, *_: object) -> list[FeatureAccess]:
                return []

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(
                compare, connect(), Nobody(), Allowed(0), lambda: NOW, Deadline.after(60),
                quiet=timedelta(0),
            )  # fmt: skip
            try:
                self.wait_for_a_lock(db)
                assert db.value(self.FREE) == 1
            finally:
                blocked.execute("rollback")
            assert done.result().repairs_begun == 2

    @pytest.mark.usefixtures("blocked")
    def test_of_what_is_driven_again(self, db: Database) -> None:
        """It waits for no total at all."""
        db.execute("set lock_timeout = '5s'")
        db.execute("update usage_delivery set state = 'parked', reason = 'feature_disabled'")
        assert redrive(db) == 2


class TestCredit:
    """A correction of a period that is over."""

    def refuse(self, db: Database, *quantities: str) -> None:
        for quantity in quantities:
            use(db, quantity)
            claim(db, now=NOW, interval=timedelta(0))
        refusal = CommetRefused("feature_disabled", commet_status=400)
        assert run(db, StandIn([refusal] * len(quantities))).parked == len(quantities)

    def take_back(self, db: Database, quantity: str) -> None:
        db.execute("update usage_period set closed_at = %s", [NOW])
        db.execute(
            "update usage_total set total = total - %s, fully_claimed = false", [Decimal(quantity)]
        )

    def test_what_was_never_billed(self, db: Database, subscribe: Subscribe) -> None:
        """Refused usage that is taken back is done with: no credit, and nothing to send."""
        subscribe(included=Decimal(0))
        self.refuse(db, "10")
        self.take_back(db, "10")
        commet = StandIn()
        run(db, commet)
        (row,) = rows(db)
        assert (row["kind"], row["quantity"], row["resolved_at"] is None) == ("event", 0, False)
        assert gauges(db).parked_deliveries == 0
        assert redrive(db) == 0
        assert db.one("select total, claimed, fully_claimed from usage_total") == {
            "total": 0,
            "claimed": 0,
            "fully_claimed": True,
        }

    def test_a_part_of_it(self, db: Database, subscribe: Subscribe) -> None:
        """The newest first; what is left can be sent, as what it is now."""
        subscribe(included=Decimal(0))
        self.refuse(db, "10", "4")
        self.take_back(db, "6.5")
        run(db, StandIn())
        assert [r["quantity"] for r in rows(db)] == [Decimal("7.5"), 0]
        commet = StandIn()
        assert redrive(db) == 1
        run(db, commet)
        assert commet.total == Decimal("7.5")

    def test_more_than_was_refused(self, db: Database, subscribe: Subscribe) -> None:
        """Only what Commet has is to be given back."""
        subscribe(included=Decimal(0))
        use(db, "20")
        run(db, StandIn())
        self.refuse(db, "10")
        self.take_back(db, "12")
        run(db, StandIn())
        credit = rows(db)[-1]
        assert (credit["reason"], credit["quantity"]) == ("needs_credit", -2)
        assert (credit["excess"], credit["amount"]) == (2, Decimal("0.2"))
        assert db.one("select total, claimed from usage_total") == {"total": 18, "claimed": 18}

    def test_what_was_lost(self, db: Database, subscribe: Subscribe) -> None:
        """Its worth is that of what is left."""
        subscribe(included=Decimal(0))
        use(db, "10")
        claim(db, now=NOW, interval=timedelta(0))
        db.execute("update subscriptions set status = 'canceled'")
        refusal = CommetRefused("no_active_subscription", commet_status=404)
        run(db, StandIn([refusal]))
        assert [r["amount"] for r in rows(db)] == [1]
        self.take_back(db, "4")
        run(db, StandIn())
        assert [(r["reason"], r["quantity"], r["amount"]) for r in rows(db)] == [
            ("lost_to_cancellation", 6, Decimal("0.6"))
        ]

    def test_is_never_delivered(self, db: Database, subscribe: Subscribe) -> None:
        """It is money: to say that Commet has it would take it off what Commet counts."""
        subscribe(included=Decimal(0))
        use(db, "10")
        run(db, StandIn())
        self.take_back(db, "4")
        run(db, StandIn())
        credit = str(rows(db)[-1]["event_id"])
        assert not resolve(db, user_id="usr_ana", event_id=credit, note="Given.", delivered=True)
        assert resolve(db, user_id="usr_ana", event_id=credit, note="Given.")
        assert rows(db)[-1]["state"] == "parked"


_failures: list[Callable[[], Exception | None]] = [
    lambda: None,
    CommetUnavailable,
    lambda: CommetUnavailable(retry_after=1, commet_code="rate_limited"),
    lambda: CommetRefused("duplicate", commet_status=409),
    lambda: CommetRefused("feature_disabled", commet_status=400),
    lambda: CommetRefused("unauthorized", commet_status=401),
]

_steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("use"),
            st.sampled_from(["usr_a", "usr_b"]),
            st.sampled_from(["0.000001", "1", "12.5", "99999"]),
        ),
        st.tuples(st.just("run"), st.integers(0, len(_failures) - 1), st.booleans()),
        st.tuples(st.just("crash"), st.just(0), st.booleans()),
        st.tuples(st.just("wait"), st.integers(0, 30), st.none()),
    ),
    max_size=25,
)


class TestInvariants:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=_steps)
    def test_whatever_happens(
        self,
        db: Database,
        subscribe: Subscribe,
        steps: list[tuple[str, str | int, str | bool | None]],
    ) -> None:
        """Per period, events = total = days = claimed + unclaimed, claimed = deliveries, and
        Commet has exactly what is not pending or parked as refused."""
        db.execute(
            "truncate usage_event, usage_total, usage_daily, usage_delivery, usage_period cascade"
        )
        subscribe("usr_a")
        subscribe("usr_b")
        commet = StandIn()
        now = NOW
        for what, argument, detail in steps:
            if what == "use":
                use(db, str(detail), user=str(argument), now=now)
            elif what == "run":
                answer = _failures[int(argument or 0)]()
                commet.answers = [answer]
                commet.lost = [answer] if detail and isinstance(answer, CommetUnavailable) else []
                if isinstance(answer, CommetRefused) and answer.commet_code == "duplicate":
                    commet.lost = [answer]
                run(db, commet, now=now, interval=timedelta(0))
                commet.answers = []
                make_due(db)
            elif what == "crash":
                claim(db, now=now, interval=timedelta(0))
                leased = lease(db)
                if leased and detail:
                    commet.track_usage(
                        leased[0].body,
                        idempotency_key=leased[0].idempotency_key,
                        deadline=Deadline.after(1),
                    )
                make_due(db)
            else:
                now += timedelta(days=int(argument or 0))
            self._holds(db)
        commet.answers = []
        run(db, commet, now=now, interval=timedelta(0))
        refused = db.value(
            "select coalesce(sum(quantity), 0) from usage_delivery where state = 'parked'"
        )
        accepted = db.value("select coalesce(sum(quantity), 0) from usage_event")
        assert commet.total + refused == accepted

    def _holds(self, db: Database) -> None:
        wrong = db.all(
            """
            select t.period, t.feature from usage_total t
            where t.total <> (select sum(quantity) from usage_event e
                              where e.period = t.period and e.feature = t.feature)
               or t.total <> (select sum(quantity) from usage_daily d
                              where d.period = t.period and d.feature = t.feature)
               or t.claimed <> (select coalesce(sum(quantity), 0) from usage_delivery y
                                where y.period = t.period and y.feature = t.feature)
               or t.claimed > t.total
               or t.fully_claimed and t.claimed <> t.total
            """
        )
        assert wrong == []
