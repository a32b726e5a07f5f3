"""What the proofs run in processes of their own; imports little, so that these start fast."""

from collections import Counter
from datetime import UTC, datetime
from threading import Barrier

import psycopg
from psycopg.rows import dict_row

from billing.database.connection import Connection, Database
from billing.subscriptions import inbox, mirror

PROCESSES = 8
NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)


def connect(url: str) -> Connection:
    """A connection as functions have it."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=1, row_factory=dict_row)


def wait_for_all(ready: Barrier) -> None:
    """Begins when every process is there."""
    ready.wait(120)


def deliver(url: str, bodies: list[bytes], users: list[str]) -> "Counter[str]":
    """What became of each webhook; between them, claims refreshes as requests and reconcile do."""
    db = Database(lambda: connect(url))
    outcomes: Counter[str] = Counter()
    for number, each in enumerate(bodies):
        outcomes[inbox.receive(db, each, mode="sandbox", now=NOW).outcome] += 1
        if number % 5 == 0:
            mirror.lease_refresh(db, users[number % len(users)], NOW)
        if number % 50 == 0:
            mirror.lease_refreshes(db, NOW, limit=50)
    db.close()
    return outcomes
