"""What the proofs of usage run in processes of their own, each with several threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import TypeVar

from billing.database.connection import Database
from billing.usage import accepting, reservations
from billing.usage.accepting import UsageEvent
from billing.usage.rules import Rules
from tests.proof.delivering import connect

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
STATUSES = frozenset({"active"})
# Nothing limits what users spend.
RULES = Rules(STATUSES, ceilings={"usd": None}, at_once={"usd": None})
THREADS = 5  # of each process, each with a connection: the test server has room for 130

Item = TypeVar("Item")
Told = TypeVar("Told")


def report(url: str, keys: Sequence[str], quantities: Sequence[str]) -> list[str]:
    """What each key is told; quantities take turns, as do single events and batches."""
    events = [
        UsageEvent("usr_ana", "storage", Decimal(quantities[n % len(quantities)]), key)
        for n, key in enumerate(keys)
    ]
    return _at_once(url, _report, events)


def hold_and_confirm(url: str, process: int, jobs: int) -> list[Decimal]:
    """What was booked, job by job. Every hold ends: confirmed or released."""
    return _at_once(url, _hold_and_confirm, range(process * jobs, (process + 1) * jobs))


def _at_once(
    url: str, work: Callable[[Database, Sequence[Item]], list[Told]], items: Sequence[Item]
) -> list[Told]:
    """Deals the items out to threads, which begin together."""
    ready = Barrier(THREADS)

    def run(thread: int) -> list[Told]:
        db = Database(lambda: connect(url))
        db.value("select 1")
        ready.wait(60)
        told = work(db, items[thread::THREADS])
        db.close()
        return told

    with ThreadPoolExecutor(THREADS) as pool:
        return [each for told in pool.map(run, range(THREADS)) for each in told]


def _report(db: Database, events: Sequence[UsageEvent]) -> list[str]:
    words: list[str] = []
    while events:
        size = 5 if len(words) % 3 == 0 else 1
        batch, events = events[:size], events[size:]
        verdicts = accepting.accept(db, batch, rules=RULES, now=NOW)
        words += [verdict.code or verdict.status for verdict in verdicts]
    return words


def _hold_and_confirm(db: Database, jobs: Sequence[int]) -> list[Decimal]:
    booked: list[Decimal] = []
    for job in jobs:
        size = Decimal(job % 3 + 1)
        held = reservations.reserve(
            db,
            UsageEvent("usr_ana", "storage", size, f"job-{job}"),
            expires_in=timedelta(minutes=5),
            rules=RULES,
            now=NOW,
        )
        if held.reservation is None:
            continue
        if job % 7 == 0:
            reservations.release(db, held.reservation, now=NOW)
            continue
        wanted = {0: size / 2, 1: size * 2}.get(job % 5, size)
        for took in (wanted, size):
            outcome = reservations.confirm(db, held.reservation, took, rules=RULES, now=NOW)
            if outcome.code is None:
                booked.append(took)
                break
            # More than was held may not fit; what was held does.
            assert (outcome.code, took > size) == ("limit_reached", True)
    return booked
