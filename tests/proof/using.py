"""What the proofs of usage run in processes of their own."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing import reservations, usage
from billing.db import Database
from billing.usage import Event
from tests.proof.delivering import connect

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
STATUSES = frozenset({"active"})


def report(url: str, keys: Sequence[str], quantities: Sequence[str]) -> list[str]:
    """What each key is told; quantities take turns, as do single events and batches."""
    db = Database(lambda: connect(url))
    words: list[str] = []
    events = [
        Event("usr_ana", "storage", Decimal(quantities[n % len(quantities)]), key)
        for n, key in enumerate(keys)
    ]
    while events:
        size = 5 if len(words) % 3 == 0 else 1
        batch, events = events[:size], events[size:]
        verdicts = usage.accept(db, batch, statuses=STATUSES, now=NOW)
        words += [verdict.code or verdict.status for verdict in verdicts]
    db.close()
    return words


def hold_and_confirm(url: str, process: int, jobs: int) -> list[Decimal]:
    """What was booked, job by job. Every hold ends: confirmed or released."""
    db = Database(lambda: connect(url))
    booked: list[Decimal] = []
    for number in range(jobs):
        job = process * jobs + number
        size = Decimal(job % 3 + 1)
        held = reservations.reserve(
            db,
            Event("usr_ana", "storage", size, f"job-{job}"),
            expires_in=timedelta(minutes=5),
            statuses=STATUSES,
            now=NOW,
        )
        if held.reservation is None:
            continue
        if job % 7 == 0:
            reservations.release(db, held.reservation, now=NOW)
            continue
        wanted = {0: size / 2, 1: size * 2}.get(job % 5, size)
        for took in (wanted, size):
            outcome = reservations.confirm(db, held.reservation, took, statuses=STATUSES, now=NOW)
            if outcome.code is None:
                booked.append(took)
                break
            # More than was held may not fit; what was held does.
            assert (outcome.code, took > size) == ("limit_reached", True)
    db.close()
    return booked
