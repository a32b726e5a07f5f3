"""Five hundred requests at one moment cross a threshold or a limit: it is told once."""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from billing import wiring
from billing.database.connection import Database
from functions.track_usage import app as track_usage
from tests.environments import forget
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.functions.calling import call, service_key, start
from tests.integration.functions.test_track_usage import usage

pytestmark = pytest.mark.handlers

BACKEND = "svc_backend_" + "a" * 64
ENVIRONMENTS, EACH = 5, 100

Send = Callable[..., Counter[str]]


def report(url: str, first: int, bodies: list[dict[str, Any]]) -> list[str]:
    """One Lambda environment: what became of each event, in a process of its own.

    A handler keeps its request in the process, so threads cannot share one.
    """
    with pytest.MonkeyPatch.context() as patch:
        keys = [service_key("backend", BACKEND, "usage:write")]
        start(patch, url, keys, {"OVERAGE_CEILING": "usd=10"})
        patch.setattr(track_usage.metrics.provider, "namespace", "test")
        patch.setattr(wiring, "clock", lambda: lambda: NOW)
        found = []
        for number, body in enumerate(bodies, first):
            answer = call("POST", "/usage", body | {"idempotency_key": f"k{number}"}, token=BACKEND)
            found.append("accepted" if answer.status == 202 else answer.code)
        wiring.database().close()
    forget()
    return found


@pytest.fixture(scope="module")
def environments() -> Iterator[ProcessPoolExecutor]:
    """All of them are there before the first begins to work."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(ENVIRONMENTS)
    with ProcessPoolExecutor(ENVIRONMENTS, spawn, initializer=ready.wait) as pool:
        yield pool


@pytest.fixture
def send(environments: ProcessPoolExecutor, database_url: str) -> Send:
    """Sends 500 events of a quantity at once; what became of how many."""

    def sending(quantity: str) -> Counter[str]:
        bodies = [usage(quantity)] * EACH
        runs = [
            environments.submit(report, database_url, number * EACH, bodies)
            for number in range(ENVIRONMENTS)
        ]
        return Counter(word for run in runs for word in run.result())

    return sending


def told(db: Database) -> list[str]:
    """The events about thresholds and limits, with their thresholds."""
    rows = db.all(
        "select type || coalesce(' ' || (data->'threshold'->>'percent'), '') as told"
        " from outgoing_event where type like '%threshold_reached' or type like '%limit_reached'"
    )
    return sorted(row["told"] for row in rows)


def test_the_marks_of_what_is_included(db: Database, subscribe: Subscribe, send: Send) -> None:
    subscribe(included=Decimal(1000))
    assert send("2") == {"accepted": 500}
    assert db.value("select total from usage_total") == 1000
    assert told(db) == ["usage.threshold_reached 100", "usage.threshold_reached 80"]


def test_refusals(db: Database, subscribe: Subscribe, send: Send) -> None:
    subscribe(included=Decimal(1), overage_enabled=False)
    assert send("2") == {"limit_reached": 500}
    assert told(db) == ["usage.limit_reached"]


def test_spending(db: Database, subscribe: Subscribe, send: Send) -> None:
    """100 are included, and 100 more may be bought: 200 in all."""
    subscribe()
    assert send("1") == {"accepted": 200, "spend_limit_reached": 300}
    assert db.value("select total from usage_total") == 200
    assert told(db) == [
        "spend.limit_reached",
        "spend.threshold_reached 100",
        "spend.threshold_reached 80",
        "usage.threshold_reached 100",
        "usage.threshold_reached 80",
    ]
