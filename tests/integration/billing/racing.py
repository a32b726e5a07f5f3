"""Races that end the same each time: a run stands still before it commits, and others meet it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Generic, TypeVar

from psycopg.pq import TransactionStatus

from billing.database.connection import Connection, Database
from billing.deadline import Deadline

T = TypeVar("T")
M = TypeVar("M")

_LONGEST = 30.0  # for whatever a race waits for: a slow machine, never a lock that is held


class OneTransaction(Database):
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

    def __init__(self, future: Future[T], is_blocked: Callable[[], bool]) -> None:
        self._future = future
        self._is_blocked = is_blocked

    def go_on(self) -> None:
        """Returns when the work has ended or waits for a lock (again)."""
        limit = Deadline.after(_LONGEST)
        while not self._future.done() and not self._is_blocked():
            assert limit.remaining() > 0, "The other run neither ended nor waited for a lock."
            time.sleep(0.002)  # between two looks; nothing depends on it

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
        self._first = OneTransaction(self._standing)

    def first(self, work: Callable[[Database], T]) -> T:
        """Does the work and stands still before its commit; what the work came to."""
        return work(self._first)

    def second(self, work: Callable[[Database], T]) -> Runner[T]:
        """Begins the work of another run; returns when that has ended or waits for a lock."""
        connection = self._open()
        database = Database(lambda: connection)
        pid = connection.info.backend_pid
        runner = Runner(self._pool.submit(work, database), lambda: self._is_blocked(pid))
        runner.go_on()
        return runner

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

    def _is_blocked(self, pid: int) -> bool:
        query = "select cardinality(pg_blocking_pids(%s)) > 0 as blocked"
        row = self._watcher.execute(query, [pid]).fetchone()
        return row is not None and bool(row["blocked"])


@contextmanager
def racing(connect: Callable[[], Connection]) -> Iterator[Race]:
    """A race whose connections are closed in the end."""
    race = Race(connect)
    try:
        yield race
    finally:
        race.close()


def in_between(
    connect: Callable[[], Connection],
    table: str,
    work: Callable[[Database], T],
    meanwhile: Callable[[Database], M],
) -> tuple[T, M]:
    """Has `meanwhile` done while `work` has tried its insert into `table` and not gone on yet.

    `work` then takes its next step before `meanwhile` is committed. Answers what both came to.
    """
    with closing(connect()) as admin, racing(connect) as gate, racing(connect) as between:
        admin.execute(
            "create function pause() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock(1); return null; end $$"
        )
        admin.execute(
            f"create trigger pause after insert on {table}"
            " when (current_setting('race.pauses', true) = 'on') execute function pause()"
        )
        try:
            gate.first(lambda mine: mine.execute("select pg_advisory_xact_lock(1)"))

            def paused(mine: Database) -> T:
                mine.execute("set race.pauses = 'on'")
                return work(mine)

            runner = gate.second(paused)
            assert runner.waits, "The work ended without an insert."
            came_to = between.first(meanwhile)
            gate.commit()
            runner.go_on()
            between.commit()
            return runner.answer, came_to
        finally:
            gate.commit()
            admin.execute("drop function pause cascade")


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
