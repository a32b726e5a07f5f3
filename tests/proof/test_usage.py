"""Usage stays exact: whatever is done in whichever order, and however many do it at once."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.accounts.accounts import User
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.comparing import Compared, compare, repair
from billing.delivery.outbox import redrive
from billing.delivery.sending import deliver
from billing.operations import housekeeping
from billing.subscriptions.checkout import Checkouts
from billing.subscriptions.refresh import refresh
from billing.usage import accepting, corrections, reservations, spending, thresholds
from billing.usage.accepting import UsageEvent
from billing.usage.corrections import Correction
from billing.usage.reservations import Reservation
from billing.usage.thresholds import Level
from standin.testing import StandIn, standin
from tests.integration.billing.conftest import RULES, add_user, empty, grant_feature
from tests.proof.bills import periods_of, wrong_lines
from tests.proof.crossing import Crossings
from tests.proof.delivering import PROCESSES, connect
from tests.proof.scale import FULL, scaled
from tests.proof.using import NOW, hold_and_confirm, report

CAP = Decimal(50)  # what the plan `fixed_box` includes; beyond it nothing is sold
CAPPED, OPEN = "usr_capped", "usr_open"

users = st.sampled_from([CAPPED, CAPPED, OPEN])
# Few keys, so that they meet each other.
keys = st.sampled_from([f"key-{n}" for n in range(12)])
levels = st.sampled_from(
    [
        Level("usage", None, 50, None), Level("usage", "storage", None, Decimal("20.5")),
        Level("usage", "storage", 120, None), Level("spend", None, None, Decimal("0.5")),
        Level("spend", None, 40, None),
    ]
)  # fmt: skip
quantities = st.sampled_from([Decimal(text) for text in ("1", "2.5", "20", "30.000001", "90.25")])


class Unlimited:
    """A budget that never runs out."""

    def wait(self, calls: int, deadline: Deadline) -> bool:  # noqa: ARG002
        return True

    def pause(self, seconds: float) -> None:
        """Nobody waits in a proof."""


class Usage(RuleBasedStateMachine):
    """Everything that may happen to usage, beside a model of what must have been counted."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        # One of its own: over many lives years pass, and cards expire.
        self._running = ExitStack()
        self.remote: StandIn = self._running.enter_context(standin())
        self.db = Database(lambda: connect(self.url))
        self.commet = Commet(
            self.remote.base_url,
            lambda *, fresh=False: self.remote.api_key,  # noqa: ARG005
            live=False,
            sleep=lambda _: None,
        )
        # What was said to be counted, by user and key: it must be in the ledger, once.
        self.counted: dict[tuple[str, str], tuple[str, Decimal]] = {}
        self.reserved: list[Reservation] = []
        # Where the ledger keeps no more than the key.
        self.pruned: Counter[tuple[int, str]] = Counter()
        self.pruned_keys: set[tuple[str, str]] = set()
        # Users of whom Commet was told by somebody else.
        self.meddled: set[str] = set()
        # Every allowance there has been, with its customer's id and its start: Commet forgets them.
        self.allowances: dict[str, tuple[str, datetime]] = {}
        self._meddlings = 0
        self.crossings = Crossings(self.db, lambda: self.now)
        self.watching: list[tuple[str, str | None, str]] = []

    @property
    def now(self) -> datetime:
        return self.remote.control.now()

    @initialize()
    def subscribe(self) -> None:
        """Two customers who pay: one whose plan has a hard limit, one who pays for more."""
        empty(self.db._usable())
        for user, plan in ((CAPPED, "fixed_box"), (OPEN, "usage_pro")):
            add_user(self.db, user)
            started = Checkouts(self.db, self.commet, lambda: self.now).start(
                User(user, f"{user}@example.com", None),
                plan_code=plan,
                billing_interval="monthly",
                success_url="https://app.example/",
                deadline=Deadline.after(20),
            )
            self.remote.control.pay(started.subscription.id)
            self.learn(user)

    # --- what callers do ---------------------------------------------------------------------

    @rule(user=users, key=keys, quantity=quantities, days_ago=st.sampled_from([0, 0, 20]))
    def report(self, user: str, key: str, quantity: Decimal, days_ago: int) -> None:
        event = UsageEvent(user, "storage", quantity, key)
        if days_ago:
            event = UsageEvent(user, "storage", quantity, key, self.now - timedelta(days=days_ago))
        (verdict,) = accepting.accept(self.db, [event], rules=RULES, now=self.now)
        known = self.counted.get((user, key))
        if verdict.status == "accepted":
            assert known is None
            self.counted[user, key] = ("used", quantity)
        elif verdict.status == "duplicate":
            assert known == ("used", quantity)
        elif verdict.status == "conflict":
            assert known is not None
        else:
            assert known is None
            assert verdict.code != "unknown_user"

    @rule(user=users, batch=st.lists(st.tuples(keys, quantities), min_size=2, max_size=5))
    def report_many(self, user: str, batch: list[tuple[str, Decimal]]) -> None:
        events = [UsageEvent(user, "storage", quantity, key) for key, quantity in batch]
        verdicts = accepting.accept(self.db, events, rules=RULES, now=self.now)
        for (key, quantity), verdict in zip(batch, verdicts, strict=True):
            if verdict.status == "accepted":
                assert (user, key) not in self.counted
                self.counted[user, key] = ("used", quantity)
            elif verdict.status == "duplicate":
                assert self.counted[user, key] == ("used", quantity)

    @rule(user=users, key=keys, quantity=quantities, seconds=st.sampled_from([1, 300, 3600]))
    def reserve(self, user: str, key: str, quantity: Decimal, seconds: int) -> None:
        outcome = reservations.reserve(
            self.db,
            UsageEvent(user, "storage", quantity, key),
            expires_in=timedelta(seconds=seconds),
            rules=RULES,
            now=self.now,
        )
        if outcome.code is None:
            assert outcome.reservation is not None
            state = outcome.reservation.state
            # Who is told of success holds it, or is done.
            assert state == ("confirmed" if (user, key) in self.counted else "held")
            if not outcome.repeated:
                assert state == "held"
                self.reserved.append(outcome.reservation)
        elif outcome.code == "already_counted":
            assert self.counted[user, key][0] == "used"
        elif outcome.code == "reservation_released":
            assert (user, key) not in self.counted

    @precondition(lambda self: self.reserved)
    @rule(pick=st.integers(0, 99), quantity=st.none() | quantities)
    def confirm(self, pick: int, quantity: Decimal | None) -> None:
        reservation = self.reserved[pick % len(self.reserved)]
        took = quantity or reservation.quantity
        outcome = reservations.confirm(self.db, reservation, took, rules=RULES, now=self.now)
        place = (reservation.user_id, reservation.idempotency_key)
        if outcome.code is None and not outcome.repeated:
            assert place not in self.counted
            self.counted[place] = ("used", took)
        elif outcome.repeated:
            assert self.counted[place] == ("used", took)
        elif outcome.code == "conflict":
            assert place in self.counted

    @precondition(lambda self: self.reserved)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        reservation = self.reserved[pick % len(self.reserved)]
        outcome = reservations.release(self.db, reservation, now=self.now)
        # Long over, it is forgotten.
        assert outcome.code in (None, "reservation_confirmed", "reservation_not_found")

    @rule(
        user=users,
        key=keys,
        quantity=quantities,
        less=st.booleans(),
        meant=st.sampled_from([None, 0, 25]) | keys,
    )
    def correct(
        self, user: str, key: str, quantity: Decimal, *, less: bool, meant: int | str | None
    ) -> None:
        """Of the period that runs, that held a day so long ago, or that an entry was booked in."""
        signed = -quantity if less else quantity
        corrects = meant if isinstance(meant, str) else None
        when = self.now - timedelta(days=meant) if isinstance(meant, int) else None
        entry = self._ledger().get((user, str(corrects)))
        done = corrections.correct(
            self.db,
            Correction(user, "storage", signed, key, "a mistake", when, corrects),
            author="proof",
            rules=RULES,
            now=self.now,
        )
        known = self.counted.get((user, key))
        if done.booking and not done.repeated:
            assert known is None
            assert done.booking.used >= 0
            self.counted[user, key] = ("corrected", signed)
            if corrects is not None:
                assert entry is not None
                assert not less or self._ledger()[user, key]["period"] == entry["period"]
        elif done.booking:
            assert known == ("corrected", signed)
        elif done.code == "conflict":
            assert known is not None
        elif done.code == "entry_not_found":
            assert entry is None

    @rule(user=users, level=levels, by=st.sampled_from(["user", "product"]))
    def watch(self, user: str, level: Level, by: Literal["user", "product"]) -> None:
        """A threshold is added; a new one is told at once if it is reached."""
        added, is_new = thresholds.add(self.db, user, level, set_by=by, rules=RULES, now=self.now)
        assert added.id
        if is_new:
            self.watching.append((user, user if by == "user" else None, added.id))
        # An equal one changes nothing, so nothing is evaluated.
        self.crossings.look(changed=user if is_new else None)

    @precondition(lambda self: self.watching)
    @rule(pick=st.integers(0, 99))
    def stop_watching(self, pick: int) -> None:
        user, owner, threshold = self.watching.pop(pick % len(self.watching))
        thresholds.remove(self.db, threshold, user_id=owner, rules=RULES, now=self.now)
        self.crossings.look(changed=user)

    @rule(amount=st.sampled_from([None, Decimal(2), Decimal(20)]))
    def limit(self, amount: Decimal | None) -> None:
        """The open customer's spending has a limit, or none."""
        spending.set_limit(self.db, OPEN, amount, by="product", rules=RULES, now=self.now)
        self.crossings.look(changed=OPEN)

    # --- what time, Commet and the network do --------------------------------------------------

    @rule(hours=st.sampled_from([0.1, 2, 24, 24 * 14, 24 * 31, 24 * 65]))
    def time_passes(self, hours: float) -> None:
        """Months renew at Commet and nobody tells us."""
        self._advance(seconds=hours * 3600)

    def _advance(self, **moment: Any) -> None:
        """Moves the clock, by so much or to a time, and takes down what has been so far."""
        self._state()
        self.remote.control.advance(**moment)

    def _state(self) -> dict[str, Any]:
        state = self.remote.control.state()
        for sub in state["subscriptions"]:
            for each in (*sub["past_allowances"], sub["allowance"]):
                start = datetime.fromisoformat(each["start"])
                self.allowances[each["id"]] = (sub["customer_id"], start)
        return state

    @rule(user=users)
    def learn(self, user: str) -> None:
        """What a webhook or a refresh would tell."""
        refresh(self.db, self.commet, user, now=self.now, deadline=Deadline.after(20))

    @rule(told=st.booleans())
    def change_plan(self, *, told: bool) -> None:
        """The open customer goes up or down; up takes effect at once and begins a new period."""
        row = self.db.one("select id, plan_id from current_subscription where user_id = %s", [OPEN])
        assert row is not None
        other = "pln_usagemax" if row["plan_id"] == "pln_usagepro" else "pln_usagepro"
        httpx.post(
            f"{self.remote.base_url}/subscriptions/{row['id']}/change-plan",
            json={"newPlanId": other},
            headers={"x-api-key": self.remote.api_key},
            trust_env=False,
        )
        if told:
            self.learn(OPEN)

    @rule(user=users)
    def nearly_over(self, user: str) -> None:
        """Minutes before the end of a period totals that shrank are set right."""
        ends_at = self.db.value(
            "select ends_at from usage_period where user_id = %s and closed_at is null", [user]
        )
        if ends_at and ends_at - timedelta(minutes=10) > self.now:
            self._advance(to=ends_at - timedelta(minutes=10))

    @rule(user=users)
    def meddle(self, user: str) -> None:
        """Somebody else tells Commet of usage."""
        self._meddlings += 1
        self.meddled.add(user)
        httpx.post(
            f"{self.remote.base_url}/usage/events",
            json={
                "featureCode": "storage", "customerId": user, "value": 3,
                "eventId": f"else-{self._meddlings}",
            },
            headers={"x-api-key": self.remote.api_key},
            trust_env=False,
        )  # fmt: skip

    @rule(
        fault=st.sampled_from(
            [
                None,
                {"status": 503},
                {"status": 503, "after": True},
                {"reset": "before"},
                {"reset": "after"},
                {"truncate": True},
                {"status": 429, "retry_after": 1},
                {"code": "idempotency_in_progress"},
            ]
        ),
        times=st.integers(1, 4),
        path=st.sampled_from(["/usage/events", "/usage", "/usage*"]),
    )
    def send(self, fault: dict[str, Any] | None, times: int, path: str) -> None:
        control = self.remote.control
        if fault:
            control.fault(match={"path": path}, action=fault, times=times)
        self._deliver()
        control.clear_faults()

    @rule()
    def tidy(self) -> None:
        reservations.tidy(self.db, now=self.now)

    @rule()
    def compare_totals(self) -> None:
        self._compare()

    @rule()
    def repair_and_redrive(self) -> None:
        """What an operator does: whatever is parked is sent again, whatever differs replaced."""
        repair(self.db)
        redrive(self.db)

    @rule(days=st.sampled_from([1, 45]))
    def make_small(self, days: int) -> None:
        """Periods closed so long ago shrink: their deliveries to one, their ledger to its keys."""
        before = self.now - timedelta(days=days)
        housekeeping.compact_deliveries(self.db, before=before, deadline=Deadline.after(20))
        rows = self._ledger()
        self.db.execute("delete from rounds where name = 'ledger'")
        housekeeping.prune_ledger(self.db, self.now, before=before, deadline=Deadline.after(20))
        kept = self._ledger()
        for place in rows.keys() - kept.keys():
            row = rows[place]
            self.pruned_keys.add(place)
            self.pruned[row["period"], row["feature"]] += row["quantity"]

    def _ledger(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = self.db.all("select * from usage_event")
        return {(row["user_id"], row["idempotency_key"]): row for row in rows}

    def _compare(self) -> Compared:
        self.db.execute("update usage_delivery set compare_at = now() where compare_at is not null")
        return compare(
            self.db,
            self.commet,
            Unlimited(),
            lambda: self.now,
            Deadline.after(60),
            quiet=timedelta(0),
            every=timedelta(0),
        )

    def _deliver(self) -> bool:
        self.db.execute("update usage_delivery set due_at = now() where state = 'pending'")
        summary = deliver(
            self.db,
            self.commet,
            lambda: self.now,
            Deadline.after(60),
            timedelta(0),
            budget=Unlimited(),
            workers=2,
            quiet=timedelta(0),
            jitter=lambda: 0.0,
        )
        return summary.drained and not summary.postponed

    # --- what must hold ------------------------------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        """Ledger, totals, days and deliveries tell the same, per feature and period."""
        rows = self.db.all(
            """
            select t.period, t.feature,
                   t.total - (select coalesce(sum(quantity), 0) from usage_event e
                              where e.period = t.period and e.feature = t.feature) as pruned
            from usage_total t
            """
        )
        pruned = {(r["period"], r["feature"]): r["pruned"] for r in rows if r["pruned"]}
        assert pruned == {place: quantity for place, quantity in self.pruned.items() if quantity}
        wrong = self.db.all(
            """
            select t.period, t.feature, t.total, t.claimed
            from usage_total t
            where t.total <> (select coalesce(sum(quantity), 0) from usage_daily d
                              where d.period = t.period and d.feature = t.feature)
               or t.claimed <> (select coalesce(sum(quantity), 0) from usage_delivery d
                                where d.period = t.period and d.feature = t.feature)
               or t.carried <> (select coalesce(sum(quantity), 0) from usage_delivery d
                                where d.billed_period = t.period and d.feature = t.feature
                                  and d.period <> t.period and d.state = 'sent')
            """
        )
        assert wrong == []

    @invariant()
    def nothing_accepted_is_lost_or_doubled(self) -> None:
        ledger = {place: row["quantity"] for place, row in self._ledger().items()}
        assert ledger == {
            place: quantity
            for place, (_, quantity) in self.counted.items()
            if place not in self.pruned_keys
        }

    @invariant()
    def limits_hold(self) -> None:
        """No period of the capped customer passes the limit, with what is held in the open one."""
        totals = self.db.all(
            "select t.total, p.closed_at is null as open from usage_total t"
            " join usage_period p on p.id = t.period where p.user_id = %s",
            [CAPPED],
        )
        held = self.db.value(
            "select coalesce(sum(quantity), 0) from usage_reservation"
            " where user_id = %s and state = 'held' and expires_at > %s",
            [CAPPED, self.now],
        )
        assert held <= CAP
        for row in totals:
            assert row["total"] + (held if row["open"] else 0) <= CAP

    @invariant()
    def thresholds_are_told(self) -> None:
        """Events tell each threshold that is reached, once, and no other."""
        self.crossings.look()

    def teardown(self) -> None:
        """In the end Commet has what was delivered, and nothing waits that could be sent."""
        try:
            self.remote.control.clear_faults()
            for user in (CAPPED, OPEN):
                self.learn(user)
            for _ in range(6):
                drained = self._deliver()
                if not self._compare().repairs_begun and drained and not self._is_any_unclaimed():
                    break
                self._advance(seconds=120)
            assert self.db.value("select count(*) from usage_delivery where state = 'pending'") == 0
            for user in (CAPPED, OPEN):
                self._hold_against_commet(user)
            self._leave()
            assert self._wrong_bills() == []
        finally:
            self.commet._http.close()
            self.db.close()
            self._running.close()

    def _is_any_unclaimed(self) -> bool:
        """A total is lowered to a whole number, and its fraction is delivered after that."""
        return bool(
            self.db.value(
                "select exists (select from usage_total where claimed + withheld < total)"
            )
        )

    def _leave(self) -> None:
        """Both customers cancel, and are billed for what is left."""
        for sub in self._state()["subscriptions"]:
            httpx.post(
                f"{self.remote.base_url}/subscriptions/{sub['id']}/cancel",
                json={"immediate": True},
                headers={"x-api-key": self.remote.api_key},
                trust_env=False,
            )

    def _wrong_bills(self) -> list[str]:
        """Where an invoice is otherwise than the totals say, of those whom nobody meddled with."""
        periods = periods_of(self.db)
        state = self.remote.control.state()
        return [
            line
            for user in {CAPPED, OPEN} - self.meddled
            for line in wrong_lines([p for p in periods if p.user_id == user], state)
        ]

    def _hold_against_commet(self, user: str) -> None:
        """Period by period, as Commet booked it; what is not known to us lies in one of them."""
        state = self._state()
        customer = next(c["id"] for c in state["customers"] if c["external_id"] == user)
        meters = {m["id"]: Decimal(str(m["used"])) for m in state["meters"]}
        theirs: dict[datetime, Decimal] = {}
        for allowance, (whose, start) in self.allowances.items():
            if whose == customer:
                used = meters.get(f"{allowance}:storage", Decimal(0))
                theirs[start] = theirs.get(start, Decimal(0)) + used
        rows = self.db.all(
            "select p.starts_at, sum(d.quantity) as quantity from usage_delivery d"
            " left join usage_period p on p.id = d.billed_period"
            " where d.user_id = %s and d.state = 'sent' group by p.starts_at",
            [user],
        )
        ours = {row["starts_at"]: row["quantity"] for row in rows}
        unknown = ours.pop(None, Decimal(0))
        differ = {
            start: theirs.get(start, Decimal(0)) - ours.get(start, Decimal(0))
            for start in theirs.keys() | ours.keys()
        }
        if user in self.meddled:
            self._hold_what_runs_against(user, customer, state, meters)
            return
        assert sum(differ.values(), Decimal(0)) == unknown
        assert all(0 <= each <= unknown for each in differ.values())

    def _hold_what_runs_against(
        self, user: str, customer: str, state: dict[str, Any], meters: dict[str, Decimal]
    ) -> None:
        """Whatever others told Commet: the period that runs agrees, or is known to differ by that.

        By the allowance itself: after a change of plans two of them begin on the same day.
        """
        ours = self.db.one(
            "select p.starts_at, f.theirs,"
            " (select coalesce(sum(d.quantity), 0) from usage_delivery d"
            "  where d.billed_period = p.id and d.state = 'sent') as sent,"
            " exists (select from usage_delivery d"
            "         where d.user_id = p.user_id and d.state = 'sent' and d.billed_period is null"
            "         and d.answered_at > p.starts_at - interval '1 minute') as in_doubt"
            " from usage_period p left join usage_drift f on f.period = p.id"
            " where p.user_id = %s and p.closed_at is null"
            # Who used nothing here is not compared.
            " and exists (select from usage_total t where t.period = p.id)",
            [user],
        )
        (allowance,) = [
            s["allowance"] for s in state["subscriptions"] if s["customer_id"] == customer
        ]
        if ours is None or ours["in_doubt"]:
            return
        if ours["starts_at"] != datetime.fromisoformat(allowance["start"]):
            return
        theirs = meters.get(f"{allowance['id']}:storage", Decimal(0))
        assert ours["theirs"] == (None if theirs == ours["sent"] else theirs)


class TestWhateverHappens:
    def test_usage_stays_exact(self, proof_url: str) -> None:
        """Random lives of two customers, with a Commet that loses answers and months that pass."""
        Usage.url = proof_url
        run_state_machine_as_test(
            Usage,
            settings=settings(
                max_examples=scaled(300, 10),
                stateful_step_count=scaled(50, 30),
                derandomize=not FULL,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


class TestManyAtOnce:
    """Processes of their own with threads of their own: 40 senders, each of which waits for its
    answer before it sends the next.
    """

    def _subscribe(self, db: Database, *, included: int) -> None:
        add_user(db, "usr_ana")
        db.execute(
            "insert into subscriptions"
            " (id, user_id, status, billing_interval, created_at, changed_at)"
            " values ('sub_ana', 'usr_ana', 'active', 'monthly', %(now)s, %(now)s)",
            {"now": NOW},
        )
        db.execute(
            "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
            " values ('usr_ana', 'sub_ana', %s, %s)",
            [NOW - timedelta(days=9), NOW + timedelta(days=20)],
        )
        grant_feature(db, "usr_ana", "storage", included=Decimal(included), overage_enabled=False)

    def _used(self, db: Database) -> set[Decimal]:
        """What ledger, total and days say: one number where they agree."""
        row = db.one(
            "select (select sum(quantity) from usage_event) as ledger,"
            " (select sum(total) from usage_total) as total,"
            " (select sum(quantity) from usage_daily) as daily"
        )
        assert row is not None
        return set(row.values())

    def test_one_key_a_thousand_times(
        self, processes: ProcessPoolExecutor, proof_url: str, proof_db: Database
    ) -> None:
        """40 send it again and again: one is told it was accepted, those who send something else
        are told that.
        """
        self._subscribe(proof_db, included=100)
        sent = list(processes.map(report, [proof_url] * PROCESSES, [["k"] * 125] * PROCESSES,
                                  [["7", "9"]] * PROCESSES))  # fmt: skip
        words = Counter(word for each in sent for word in each)
        assert words["accepted"] == 1
        (used,) = self._used(proof_db)
        assert used in (7, 9)
        # Those who sent what stands were told so, and the others that it was something else.
        same = {Decimal(7): PROCESSES * 63, Decimal(9): PROCESSES * 62}[used]
        assert (words["duplicate"], words["conflict"]) == (same - 1, 1000 - same)

    def test_five_hundred_for_one_limit(
        self, processes: ProcessPoolExecutor, proof_url: str, proof_db: Database
    ) -> None:
        """504 callers for 30 places, single and in batches, 40 at once: 30 get one."""
        self._subscribe(proof_db, included=30)
        shares = [[f"{n}-{m}" for m in range(63)] for n in range(PROCESSES)]
        sent = list(processes.map(report, [proof_url] * PROCESSES, shares, [["1"]] * PROCESSES))
        words = Counter(word for each in sent for word in each)
        assert words == {"accepted": 30, "limit_reached": 8 * 63 - 30}
        assert self._used(proof_db) == {Decimal(30)}

    @pytest.mark.parametrize("included", [40, 120])
    def test_reservations_and_confirms(
        self, processes: ProcessPoolExecutor, proof_url: str, proof_db: Database, included: int
    ) -> None:
        """504 jobs, 40 at once, hold, then take less, as much or more, or give back: never beyond
        the limit.
        """
        self._subscribe(proof_db, included=included)
        told = list(processes.map(hold_and_confirm, [proof_url] * PROCESSES, range(PROCESSES),
                                  [63] * PROCESSES))  # fmt: skip
        booked = sum((sum(each, Decimal(0)) for each in told), Decimal(0))
        assert self._used(proof_db) == {booked}
        # A hold is at most 3 and every one ended: hardly anything is left unused.
        assert included - 3 <= booked <= included
        assert proof_db.value("select count(*) from usage_reservation where state = 'held'") == 0
