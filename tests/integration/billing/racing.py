"""Races that end the same each time: a run stands still before it commits, and others meet it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from psycopg.pq import TransactionStatus

from billing.database.connection import Connection, Database
from billing.deadline import Deadline

T = TypeVar("T")

_LONGEST = 30.0  # for whatever a race waits for: a slow machine, never a lock that is held


class _OneTransaction(Database):
    """All statements in one transaction, so what they locked stays locked until it is committed."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(lambda: connection)
        self._open = connection

    def _usable(self) -> Connection:
        if self._open.info.transaction_status == TransactionStatus.IDLE:
            self._open.execute("begin")  # no earlier: now() is the time at which it began
        return self._open


class Runner(Generic[T]):
    """Work of another run, which has ended or waits for a lock."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future

    @property
    def waits(self) -> bool:
        """Whether the work has not ended yet."""
        return not self._future.done()

    @property
    def answer(self) -> T:
        """What the work came to, once it has; its error where it raised one."""
        return self._future.result(_LONGEST)


class Race:
    """One run that has not committed yet, and others beside it."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._opened: list[Connection] = []
        self._pool = ThreadPoolExecutor(thread_name_prefix="race")
        self._watcher = self._open()
        self._standing = self._open()
        self._first = _OneTransaction(self._standing)

    def first(self, work: Callable[[Database], T]) -> T:
        """Does the work and stands still before its commit; what the work came to."""
        return work(self._first)

    def second(self, work: Callable[[Database], T]) -> Runner[T]:
        """Begins the work of another run; returns when that has ended or waits for a lock."""
        connection = self._open()
        database = Database(lambda: connection)
        future = self._pool.submit(work, database)
        limit = Deadline.after(_LONGEST)
        while not future.done() and not self._waits(connection):
            assert limit.remaining() > 0, "The other run neither ended nor waited for a lock."
            time.sleep(0.002)  # between two looks; nothing depends on it
        return Runner(future)

    def commit(self) -> None:
        """The first run ends, and whoever waited for it goes on."""
        self._standing.execute("commit")

    def close(self) -> None:
        self._standing.execute("rollback")
        self._pool.shutdown()
        for connection in self._opened:
            connection.close()

    def _open(self) -> Connection:
        self._opened.append(self._connect())
        return self._opened[-1]

    def _waits(self, connection: Connection) -> bool:
        pid = connection.info.backend_pid
        row = self._watcher.execute(
            "select cardinality(pg_blocking_pids(%s)) > 0 as waits", [pid]
        ).fetchone()
        return row is not None and bool(row["waits"])


@contextmanager
def racing(connect: Callable[[], Connection]) -> Iterator[Race]:
    """A race whose connections are closed in the end."""
    race = Race(connect)
    try:
        yield race
    finally:
        race.close()


def passes_by(
    race: Race, db: Database, busy: str, work: Callable[[Database], T], *, nothing: T, all_of_it: T
) -> None:
    """Holds that `work` leaves out rows another run is busy with, and does not wait for them.

    `busy` is the statement that locks these rows. `nothing` is what the work comes to meanwhile;
    `all_of_it` when it is done once more after that, so the rows were what the work looks for.
    """
    race.first(lambda mine: mine.execute(busy))
    other = race.second(work)
    waited = other.waits
    race.commit()
    assert (waited, other.answer) == (False, nothing)
    assert work(db) == all_of_it
