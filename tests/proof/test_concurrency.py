"""Eight processes take the same webhooks at once, shuffled and repeated: the state is the true one.

What is true is worked out here, in a few lines that know nothing of the mirror: each fact about a
subscription is what the newest event that speaks of it says.
"""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from billing.database.connection import Database, Row
from tests.integration.billing.conftest import add_user
from tests.integration.billing.signed import SEPTEMBER, body, iso, metered, moment, state
from tests.proof.delivering import PROCESSES, deliver
from tests.proof.scale import scaled

EVENTS = scaled(3000, 600)
FACTS = (
    "status", "plan_id", "billing_interval", "cancel_at_period_end", "period_start", "period_end",
    "scheduled_change",
)  # fmt: skip

Facts = dict[str, Any]


@pytest.mark.parametrize("users", [3, EVENTS // 6], ids=["few", "many"])
def test_any_order_any_number_of_times(
    processes: ProcessPoolExecutor, proof_url: str, proof_db: Database, users: int
) -> None:
    """Every event three times over eight processes: applied once, no deadlock, nothing failed."""
    chance = random.Random(users)  # noqa: S311 - the same tale every time
    names = [add_user(proof_db, f"usr_{n:04}") for n in range(users)]
    told = list(_tale(names, chance))
    deliveries = [each for each, _ in told] * 3
    chance.shuffle(deliveries)
    shares = [deliveries[n::PROCESSES] for n in range(PROCESSES)]

    outcomes = sum(
        processes.map(deliver, [proof_url] * PROCESSES, shares, [names] * PROCESSES), Counter()
    )

    # An error of any kind would have been answered with 200 and left a row that failed.
    assert outcomes == {"applied": EVENTS, "duplicate": 2 * EVENTS}
    assert proof_db.all("select status, count(*) from webhooks group by 1") == [
        {"status": "applied", "count": EVENTS}
    ]
    assert _deadlocks(proof_db) == 0
    expected = _true_facts(told)
    assert {
        row["id"]: _shown(row) for row in proof_db.all("select * from subscriptions")
    } == expected
    assert _included(proof_db) == _true_allowances(told)


def _tale(users: list[str], chance: random.Random) -> Iterator[tuple[bytes, Facts]]:
    """Events in the order they occur, each beside what it says."""
    for number in range(EVENTS):
        user = users[number % len(users)]
        sub = f"sub_{user}"
        yield chance.choice((_snapshot, _renewal, _plan_change, _canceling, _debt, _booking))(
            user, sub, number, chance
        )


def _snapshot(user: str, sub: str, minutes: int, chance: random.Random) -> tuple[bytes, Facts]:
    plan = chance.choice(["pln_pro", "pln_max"])
    status = chance.choice(["active", "trialing", "past_due", "paused"])
    included = chance.randrange(1, 1000)
    event = state(user, sub, minutes, status, plan=plan, features=[metered(included=included)])
    says = {"status": status, "plan_id": plan, "billing_interval": "monthly"}
    return event, {"user": user, "sub": sub, "says": says, "included": included}


def _renewal(user: str, sub: str, minutes: int, _: random.Random) -> tuple[bytes, Facts]:
    start, end = SEPTEMBER[0], iso(moment(60 * 24 * 30 + minutes))
    event = body(
        "subscription.activated", minutes, customerId=user, subscriptionId=sub, status="active",
        currentPeriodStart=start, currentPeriodEnd=end,
    )  # fmt: skip
    says = {"status": "active", "period_start": start, "period_end": end}
    return event, {"user": user, "sub": sub, "says": says}


def _plan_change(user: str, sub: str, minutes: int, chance: random.Random) -> tuple[bytes, Facts]:
    plan = chance.choice(["pln_pro", "pln_max"])
    interval = chance.choice(["monthly", "yearly"])
    event = body(
        "subscription.plan_changed", minutes, customerId=user, subscriptionId=sub,
        currentPlan={"id": plan, "name": plan}, billingInterval=interval,
    )  # fmt: skip
    says = {"plan_id": plan, "billing_interval": interval, "scheduled_change": None}
    return event, {"user": user, "sub": sub, "says": says}


def _canceling(user: str, sub: str, minutes: int, chance: random.Random) -> tuple[bytes, Facts]:
    scheduled = chance.random() < 0.5
    name = "cancellation_scheduled" if scheduled else "cancellation_revoked"
    event = body(
        f"subscription.{name}", minutes, customerId=user, subscriptionId=sub, status="active"
    )
    says = {"status": "active", "cancel_at_period_end": scheduled}
    return event, {"user": user, "sub": sub, "says": says}


def _booking(user: str, sub: str, minutes: int, chance: random.Random) -> tuple[bytes, Facts]:
    plan, at = chance.choice(("pln_free", "pln_usagepro")), moment(60 * 24 * 30)
    says: Facts = {"status": "active", "scheduled_change": None}
    more: Facts = {}
    name = chance.choice(("scheduled", "revoked"))
    if name == "scheduled":
        more = {
            "scheduledPlan": {"id": plan, "name": plan}, "scheduledBillingInterval": None,
            "effectiveAt": iso(at),
        }  # fmt: skip
        says["scheduled_change"] = {
            "plan_id": plan, "plan_name": plan, "interval": None,
            "effective_at": at.isoformat(),
        }  # fmt: skip
    event = body(
        f"subscription.plan_change_{name}", minutes, customerId=user, subscriptionId=sub,
        status="active", **more,
    )  # fmt: skip
    return event, {"user": user, "sub": sub, "says": says}


def _debt(user: str, sub: str, minutes: int, _: random.Random) -> tuple[bytes, Facts]:
    event = body(
        "subscription.past_due", minutes, customerId=user, subscriptionId=sub, status="past_due"
    )
    return event, {"user": user, "sub": sub, "says": {"status": "past_due"}}


def _true_facts(told: list[tuple[bytes, Facts]]) -> dict[str, Facts]:
    true: dict[str, Facts] = {}
    for _, each in told:
        unknown: Facts = dict.fromkeys(FACTS) | {"status": "unknown", "cancel_at_period_end": False}
        true[each["sub"]] = true.get(each["sub"], unknown) | each["says"]
    return true


def _true_allowances(told: list[tuple[bytes, Facts]]) -> dict[str, int]:
    return {each["user"]: each["included"] for _, each in told if "included" in each}


def _shown(row: Row) -> Facts:
    return {
        fact: iso(row[fact]) if fact.startswith("period_") and row[fact] else row[fact]
        for fact in FACTS
    }


def _included(db: Database) -> dict[str, int]:
    return {row["user_id"]: int(row["included"]) for row in db.all("select * from entitlements")}


def _deadlocks(db: Database) -> int:
    query = "select deadlocks from pg_stat_database where datname = current_database()"
    return int(db.value(query))
