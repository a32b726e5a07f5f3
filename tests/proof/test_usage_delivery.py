"""Delivered once, whatever Commet and the network do: outages, storms, lost answers, refusals."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from typing import Any

import httpx
import pytest

from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.comparing import compare
from billing.delivery.outbox import KEY_LIFETIME, claim, redrive
from billing.delivery.sending import CallBudget, Summary, deliver
from billing.usage.accepting import UsageEvent, accept
from standin.testing import StandIn, standin
from tests.proof.crashing import RULES, Unlimited
from tests.proof.delivering import connect
from tests.proof.paying import sign_up, used_at
from tests.proof.scale import scaled

USERS = scaled(40, 6)
USAGE = "/usage/events"
# Of the plan usage_pro: units, and what one beyond them costs.
_INCLUDED, _PRICE = Decimal(100), Decimal("0.1")


@dataclass
class World:
    """Customers whose usage is accepted here and delivered to the stand-in, on its clock."""

    url: str
    db: Database
    commet: Commet
    remote: StandIn
    users: list[str]
    accepted: dict[str, Decimal] = field(default_factory=dict)
    _keys: Iterator[int] = field(default_factory=count)

    def now(self) -> datetime:
        return self.remote.control.now()

    def use(self, user: str, quantity: str) -> None:
        """Accepted, whatever else is broken."""
        event = UsageEvent(user, "storage", Decimal(quantity), f"key-{next(self._keys)}")
        (verdict,) = accept(self.db, [event], rules=RULES, now=self.now())
        assert verdict.status == "accepted"
        self.accepted[user] = self.accepted.get(user, Decimal(0)) + Decimal(quantity)

    def deliver(self) -> Summary:
        """One run, everything being due."""
        self.make_due()
        return self.run(self.db, Unlimited())

    def make_due(self) -> None:
        """As if every pause and lease had ended."""
        self.db.execute("update usage_delivery set due_at = now() where state = 'pending'")

    def run(self, db: Database, budget: CallBudget) -> Summary:
        """One run, on this connection."""
        return deliver(
            db, self.commet, self.now, Deadline.after(60), timedelta(0), budget=budget,
            workers=8, quiet=timedelta(0), jitter=lambda: 0.0,
        )  # fmt: skip

    def try_all(self) -> None:
        """In as many runs as it takes until each delivery was tried; none gets an answer."""
        untried = "select count(*) from usage_delivery where attempts = 0"
        for _ in range(USERS):
            done = self.run(self.db, Unlimited())  # what was never tried has been due longest
            assert (done.sent, done.parked) == (0, 0)
            if self.db.value(untried) == 0:
                return
        raise AssertionError("some are never tried")

    def attempts(self) -> "Counter[str]":
        """How often each event id came to Commet."""
        return Counter(
            entry["body"]["eventId"]
            for entry in self.remote.control.requests(path=USAGE, limit=10_000)
        )

    def deliver_all(self) -> None:
        """Until nothing is left to send, in as many runs as it takes."""
        for _ in range(100):
            done = self.deliver()
            if done.drained and not done.postponed:
                return
        raise AssertionError("it never ends")

    def time_passes(self, by: timedelta) -> None:
        """For Commet, for what we decide, and for the database's leases and back-off."""
        self.remote.control.advance(seconds=by.total_seconds())
        self.db.execute(
            "update usage_delivery set uncertain_since = uncertain_since - %(by)s,"
            " due_at = due_at - %(by)s, sent_at = sent_at - %(by)s",
            {"by": by},
        )

    def check(self) -> None:
        """Commet has every accepted unit once, and so say our books."""
        assert {user: used_at(self.commet, user) for user in self.accepted} == self.accepted
        states = self.db.all("select distinct state from usage_delivery")
        assert states == [{"state": "sent"}]
        wrong = self.db.all("select * from usage_total where total <> claimed")
        assert wrong == []
        assert self._billed() == {
            user: ((used - _INCLUDED) * _PRICE).quantize(Decimal("0.01"), ROUND_HALF_UP)
            for user, used in self.accepted.items()
            if used > _INCLUDED
        }

    def _billed(self) -> dict[str, Decimal]:
        """Everybody leaves: what each one's usage is billed, where there is a bill."""
        for sub in self.remote.control.state()["subscriptions"]:
            cancel(self, sub["id"])
        state = self.remote.control.state()
        users = {c["id"]: c["external_id"] for c in state["customers"]}
        return {
            users[invoice["customer_id"]]: Decimal(line["amount"]).scaleb(-2)
            for invoice in state["invoices"]
            for line in invoice["lines"]
            if line["line_type"] == "feature_overage"
            and users[invoice["customer_id"]] in self.accepted
        }


@pytest.fixture
def world(proof_url: str, proof_db: Database) -> Iterator[World]:
    with standin() as remote:
        commet = Commet(
            remote.base_url, lambda *, fresh=False: remote.api_key, live=False,  # noqa: ARG005
            sleep=lambda _: None,
        )  # fmt: skip
        users = [f"usr_{n}" for n in range(USERS)]
        for user in users:
            sign_up(proof_db, commet, remote, user)
        yield World(proof_url, proof_db, commet, remote, users)
        commet._http.close()


@pytest.mark.parametrize(
    "action",
    [{"reset": "before"}, {"reset": "after"}, {"status": 503}, {"status": 503, "after": True}],
    ids=[
        "nothing arrives",
        "every answer is lost",
        "refuses to work",
        "works and says it does not",
    ],
)
def test_down_for_an_hour(world: World, action: dict[str, Any]) -> None:
    """Everything is accepted meanwhile, and delivered once afterwards."""
    world.remote.control.fault(match={"path": USAGE}, action=action, times=None)
    for minute in range(0, 60, 5):
        for user in world.users:
            world.use(user, f"{minute + 1}.25")
        summary = world.deliver()
        assert (summary.sent, summary.parked) == (0, 0)
        world.time_passes(timedelta(minutes=5))
    world.remote.control.clear_faults()
    world.deliver_all()
    world.check()


@pytest.mark.parametrize("booked", [True, False], ids=["it worked", "it did not"])
def test_silent_for_longer_than_a_key_lives(world: World, *, booked: bool) -> None:
    """After a day a key says nothing any more: totals decide what is sent again."""
    action = {"reset": "after" if booked else "before"}
    for user in world.users:
        world.use(user, "2.5")
    world.remote.control.fault(match={"path": USAGE}, action=action, times=None)
    world.try_all()
    world.time_passes(KEY_LIFETIME + timedelta(minutes=1))
    tried = world.attempts()
    for user in world.users:
        world.use(user, "1.25")
    # Those are next, and Commet's silence ends the run after a few of them.
    claim(world.db, now=world.now(), interval=timedelta(0))
    world.db.execute(
        "update usage_delivery set due_at = now() - interval '2 days' where attempts = 0"
    )
    assert world.run(world.db, Unlimited()).parked == USERS
    assert (world.attempts() - tried).keys().isdisjoint(tried)
    world.remote.control.clear_faults()
    # The new ones first: a total is clear only when nothing of its user is on its way.
    world.deliver_all()
    decided = compare(
        world.db, world.commet, Unlimited(), world.now, Deadline.after(60), quiet=timedelta(0)
    ).decided
    assert decided == USERS
    world.deliver_all()
    world.check()


@pytest.mark.parametrize("seed", range(scaled(20, 2)))
def test_answers_get_lost(world: World, seed: int) -> None:
    """Cut before or after, in half, as nonsense, as 500, in any mixture: each unit counts once."""
    dice = random.Random(seed)  # noqa: S311
    ways: list[dict[str, Any]] = [
        {"reset": "before"}, {"reset": "after"}, {"truncate": True}, {"invalid_json": True},
        {"status": 500}, {"status": 500, "after": True}, {"status": 502, "invalid_json": True},
        {"code": "idempotency_in_progress"}, {"status": 429, "retry_after": 1},
        {"status": 429, "retry_after": "soon"},
    ]  # fmt: skip
    for _ in range(scaled(10, 4)):
        for user in world.users:
            world.use(user, str(dice.randint(1, 400) / Decimal(4)))
        for way in dice.sample(ways, 4):
            world.remote.control.fault(
                match={"path": USAGE}, action=way, times=dice.randint(1, 6), skip=dice.randint(0, 3)
            )
        world.deliver()
    world.remote.control.clear_faults()
    world.deliver_all()
    world.check()


def test_a_storm_of_429(world: World) -> None:
    """Two runs at once share the pause Commet asks for; it is asked little more than it has to."""
    for user in world.users:
        world.use(user, "1.5")
    storms, workers = scaled(5, 2), 8
    others = Database(lambda: connect(world.url))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(storms):
            for user in world.users:
                world.use(user, "0.25")
            world.remote.control.fault(
                match={"path": USAGE}, action={"status": 429, "retry_after": 60}, times=None
            )
            world.make_due()
            runs = [pool.submit(world.run, db, Budget(db, 1000)) for db in (world.db, others)]
            assert sum(run.result().sent for run in runs) == 0
            world.remote.control.clear_faults()
            world.db.execute("delete from call_budget")  # as if the minute had passed
    refused = world.remote.control.requests(path=USAGE, limit=10_000)
    # What was under way when the first said so, in both runs; nobody calls after that.
    assert len(refused) <= storms * 2 * workers
    world.deliver_all()
    world.check()
    others.close()


def test_still_in_progress(world: World) -> None:
    """Sent again while Commet works on it: it says so, and neither waits nor counts it twice."""
    user = world.users[0]
    world.use(user, "7")
    world.remote.control.fault(
        match={"path": USAGE}, action={"code": "idempotency_in_progress", "retry_after": 1}, times=5
    )
    assert world.deliver().postponed == 1
    world.remote.control.clear_faults()
    world.deliver_all()
    world.check()


def test_parked_then_upgraded(world: World) -> None:
    """Commet refuses what a plan does not hold; redriven after an upgrade it is there once."""
    user = "usr_boxed"
    subscription = sign_up(world.db, world.commet, world.remote, user, plan="fixed_box")
    for other in world.users:
        world.use(other, "1")
    world.use(user, "50")
    assert world.deliver().sent == USERS + 1
    for quantity in ("20", "30.5"):
        world.use(user, quantity)
        assert world.deliver().parked == 1  # ours still believes in the old plan
    upgrade(world, user, subscription)
    assert world.deliver() == Summary(drained=True)  # nothing is sent by itself
    assert redrive(world.db, user_id=user) == 2
    assert world.deliver().sent == 2
    tracked = {
        entry["body"]["eventId"]: Decimal(str(entry["body"]["value"]))
        for entry in world.remote.control.requests(path=USAGE, limit=10_000)
        if entry["body"]["customerId"] == user and entry["status"] < 300
    }
    assert sum(tracked.values()) == world.accepted[user] == Decimal("100.5")
    # The upgrade began a new period at Commet, which holds what came after it.
    assert used_at(world.commet, user) == Decimal("50.5")
    del world.accepted[user]
    world.check()


def upgrade(world: World, user: str, subscription: str) -> None:
    """Ends a subscription with a hard limit and pays for one without."""
    assert cancel(world, subscription) == 200
    made = world.commet.create_subscription(
        user_id=user, plan_code="usage_max", billing_interval="monthly",
        success_url="https://app.example/", idempotency_key="upgrade", deadline=Deadline.after(20),
    )  # fmt: skip
    world.remote.control.pay(made.id)


def cancel(world: World, subscription: str) -> int:
    """Ends a subscription at once; the status of Commet's answer."""
    return httpx.post(
        f"{world.remote.base_url}/subscriptions/{subscription}/cancel",
        json={"immediate": True},
        headers={"x-api-key": world.remote.api_key},
        trust_env=False,
    ).status_code
