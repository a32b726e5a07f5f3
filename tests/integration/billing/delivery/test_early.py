"""Valuable overage is delivered early, and never at the cost of other deliveries."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

from billing.commet.call_budget import Budget
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.flushing import flush
from billing.delivery.outbox import claim, lease
from billing.delivery.sending import Summary, deliver
from billing.errors import CommetUnavailable
from billing.usage.accepting import UsageEvent, accept
from billing.usage.rules import Rules
from tests.integration.billing.conftest import NOW, STATUSES, Subscribe
from tests.integration.billing.delivery.test_outbox import INTERVAL, Allowed, StandIn, use

# 100 are included, and 50 units beyond are worth 5.00.
RULES = Rules(STATUSES, ceilings={"usd": None}, at_once={"usd": Decimal(5)})


def report(db: Database, user: str, quantity: str, key: str) -> None:
    event = UsageEvent(user, "storage", Decimal(quantity), key)
    (verdict,) = accept(db, [event], rules=RULES, now=NOW)
    assert verdict.status == "accepted"


def run(
    db: Database,
    commet: StandIn,
    *,
    budget: Allowed | None = None,
    early_budget: Allowed | None = None,
    workers: int = 4,
) -> Summary:
    return deliver(
        db, commet, lambda: NOW, Deadline.after(60), INTERVAL,
        budget=budget or Allowed(), early_budget=early_budget or Allowed(), workers=workers,
        quiet=timedelta(0), jitter=lambda: 1.0,
    )  # fmt: skip


def sent(commet: StandIn) -> list[tuple[str, Any]]:
    """User and quantity of each delivery, in the order in which they came."""
    return [(e["customerId"], e["value"]) for e in commet.events.values()]  # type: ignore[misc]


class TestClaim:
    def test_valuable_overage_does_not_wait(self, db: Database, subscribe: Subscribe) -> None:
        """Within the interval what is worth less waits, and what is worth it does not."""
        for user in ("usr_ana", "usr_bob"):
            subscribe(user)
            report(db, user, "100", f"{user}-1")
        commet = StandIn()
        run(db, commet)
        report(db, "usr_ana", "50", "ana-2")
        report(db, "usr_bob", "49", "bob-2")
        run(db, commet)
        assert sent(commet)[2:] == [("usr_ana", 50)]
        report(db, "usr_bob", "1", "bob-3")
        run(db, commet)
        assert sent(commet)[3:] == [("usr_bob", 50)]

    def test_all_features_of_the_user(self, db: Database, subscribe: Subscribe) -> None:
        """The value is over all features, and so is the delivery."""
        subscribe()
        report(db, "usr_ana", "99", "a")
        commet = StandIn()
        run(db, commet)
        report(db, "usr_ana", "51", "b")
        assert claim(db, now=NOW, interval=INTERVAL) == 1
        assert db.all("select user_id from overage_due") == []
        (delivery,) = lease(db, 5, early_limit=5)
        assert (delivery.is_early, delivery.user_id) == (True, "usr_ana")

    def test_without_ever_having_been_delivered(self, db: Database, subscribe: Subscribe) -> None:
        """A first delivery is due anyway, and is no early one."""
        subscribe()
        report(db, "usr_ana", "200", "a")
        assert claim(db, now=NOW, interval=INTERVAL) == 1
        assert [delivery.is_early for delivery in lease(db, 5)] == [False]

    def test_once_the_interval_is_over(self, db: Database, subscribe: Subscribe) -> None:
        """An early delivery that had to wait so long is like any other."""
        subscribe()
        report(db, "usr_ana", "100", "a")
        run(db, StandIn())
        report(db, "usr_ana", "50", "b")
        claim(db, now=NOW, interval=INTERVAL)
        assert lease(db, 5) == []
        db.execute("update usage_delivery set early_until = now()")
        assert [delivery.is_early for delivery in lease(db, 5)] == [False]


def crowd(db: Database, subscribe: Subscribe, early: int, on_time: int) -> None:
    """So many users with valuable overage inside their interval, and so many who are due."""
    for n in range(early + on_time):
        subscribe(f"usr_{n}")
        report(db, f"usr_{n}", "100", f"{n}-1")
    claim(db, now=NOW, interval=INTERVAL)
    db.execute("update usage_delivery set state = 'sent', billed_period = period")
    for n in range(early):
        report(db, f"usr_{n}", str(50 + n), f"{n}-2")
    late = [f"usr_{n}" for n in range(early, early + on_time)]
    for user in late:
        report(db, user, "1", f"{user}-2")
    db.execute(
        "update usage_total set claimed_at = claimed_at - interval '1 hour'"
        " where period in (select id from usage_period where user_id = any (%s))",
        [late],
    )


class TestFairness:
    def test_a_thousand_early_ones_delay_nobody(self, db: Database, subscribe: Subscribe) -> None:
        """Whoever is due on time comes first, if the budget of a run is as small as it may be."""
        crowd(db, subscribe, early=1_000, on_time=40)
        commet = StandIn()
        budget = Allowed(40)
        run(db, commet, budget=budget)
        assert sorted(value for _, value in sent(commet)) == [1] * 40
        assert db.value("select count(*) from usage_delivery where early_until is not null") == 1000

    def test_the_most_valuable_first(self, db: Database, subscribe: Subscribe) -> None:
        """What the budget leaves over goes to early ones, by value."""
        crowd(db, subscribe, early=20, on_time=2)
        commet = StandIn()
        run(db, commet, budget=Allowed(7), workers=1)
        assert [value for _, value in sent(commet)] == [1, 1, 69, 68, 67, 66, 65]

    def test_half_of_the_budget(self, db: Database, subscribe: Subscribe) -> None:
        """Early ones have a second budget; when it is empty the others still go."""
        crowd(db, subscribe, early=20, on_time=5)
        commet = StandIn()
        done = run(db, commet, early_budget=Allowed(3))
        assert sorted(value for _, value in sent(commet)) == [1] * 5 + [67, 68, 69]
        assert done.sent == 8
        assert run(db, commet, early_budget=Allowed(None)).sent == 17

    def test_the_second_budget_is_taken_from_both(self, db: Database, subscribe: Subscribe) -> None:
        """An early delivery costs a call of the stack's budget too."""
        crowd(db, subscribe, early=4, on_time=0)
        budget, early = Allowed(3), Allowed(100)
        assert run(db, StandIn(), budget=budget, early_budget=early).sent == 3


class TestFlush:
    def leave(self, db: Database, commet: StandIn, user: str = "usr_ana", **other: Any) -> None:
        flush(
            db, commet, user, clock=lambda: NOW, interval=INTERVAL,
            budget=other.get("budget", Budget(db, 1000)),
            deadline=other.get("deadline", Deadline.after(20)),
        )  # fmt: skip

    def test_everything_due_or_not(self, db: Database, subscribe: Subscribe) -> None:
        """Whatever was used is at Commet before the link is given, and nobody else's is."""
        for user in ("usr_ana", "usr_bob"):
            subscribe(user)
            use(db, "10", user=user)
        run(db, StandIn())
        for user in ("usr_ana", "usr_bob"):
            use(db, "1", user=user)
        commet = StandIn()
        self.leave(db, commet)
        assert sent(commet) == [("usr_ana", 1)]
        again = StandIn()
        self.leave(db, again)
        assert sent(again) == []

    def test_what_comes_later_is_due_at_once(self, db: Database, subscribe: Subscribe) -> None:
        """For two hours any overage is delivered by the next run."""
        subscribe()
        report(db, "usr_ana", "100", "a")
        commet = StandIn()
        self.leave(db, commet)
        report(db, "usr_ana", "0.1", "b")
        run(db, commet)
        assert sent(commet) == [("usr_ana", 100), ("usr_ana", Decimal("0.1"))]
        hours = "select overage_due_until - now() from users where id = 'usr_ana'"
        assert timedelta(minutes=119) < db.value(hours) <= timedelta(hours=2)

    def test_commet_does_not_answer(self, db: Database, subscribe: Subscribe) -> None:
        """It is sent again with the same key later."""
        subscribe()
        use(db, "7")
        commet = StandIn(answers=[CommetUnavailable()])
        self.leave(db, commet)
        assert sent(commet) == []
        db.execute("update usage_delivery set due_at = now()")
        run(db, commet)
        assert sent(commet) == [("usr_ana", 7)]
        assert len({key for key, _ in commet.calls}) == 1

    def test_no_call_is_left(self, db: Database, subscribe: Subscribe) -> None:
        """The budget is the stack's: usage waits for the next run, which may send it at once."""
        subscribe()
        use(db, "7")
        budget = Budget(db, 1000)
        budget.pause(60)
        commet = StandIn()
        self.leave(db, commet, budget=budget)
        assert commet.calls == []
        assert db.value("select uncertain_since from usage_delivery") is None
        db.execute("update usage_delivery set due_at = now()")
        run(db, commet)
        assert sent(commet) == [("usr_ana", 7)]

    def test_two_visits_at_once(
        self, db: Database, connect: Callable[[], Database], subscribe: Subscribe
    ) -> None:
        """Every unit is sent once."""
        subscribe()
        use(db, "7")
        commet = StandIn()
        others = [connect() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            for left in [pool.submit(self.leave, other, commet) for other in others]:
                left.result()
        assert commet.total == 7
