"""kill -9 of whoever takes usage, whoever delivers it, and Postgres: nothing lost, nothing twice.

Processes take usage in batches and send again what was not acknowledged; others deliver to the
stand-in. They and the database server are killed, again and again, while thousands of events pass.
In the end every acknowledged event is in the ledger once, and Commet has exactly their sum.
"""

import itertools
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from functools import partial
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

from billing.commet.client import Commet
from billing.database.connection import Connection, Database
from billing.database.migrate import migrate
from local.postgres import EmbeddedPostgres
from standin.testing import StandIn, standin
from tests.integration.local.processes import eventually
from tests.proof import crashing
from tests.proof.delivering import connect
from tests.proof.paying import sign_up, used_at
from tests.proof.scale import scaled

TAKERS, SENDERS = 3, 2
USERS = 20
SIZE = scaled(200, 20)
BATCHES = scaled(510, 50)  # of each taker: 306,000 events, or 3,000
KILLS = scaled(150, 5)
_CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, safe against a crash."""
    with TemporaryDirectory(prefix="crashes-") as place:
        Path(place).chmod(0o755)  # as root, Postgres runs as somebody else
        with EmbeddedPostgres(Path(place)) as running:
            yield running


@pytest.fixture
def url(server: EmbeddedPostgres) -> str:
    created: str = server.ensure_database("billing")
    migrate(lambda: connect(created))
    return created


@pytest.fixture
def remote() -> Iterator[StandIn]:
    with standin() as running:
        yield running


@pytest.fixture
def commet(remote: StandIn) -> Iterator[Commet]:
    client = Commet(remote.base_url, lambda *, fresh=False: remote.api_key, live=False)  # noqa: ARG005
    yield client
    client._http.close()


class Crew:
    """Processes that are started again when they have been killed."""

    def __init__(self, server: EmbeddedPostgres, url: str) -> None:
        self._server = server
        self._url = url
        self._jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.running: list[SpawnProcess] = []

    def hire(self, job: Callable[..., None], *arguments: Any) -> int:
        """Starts another; its number."""
        self._jobs.append((job, arguments))
        self.running.append(self._start(len(self._jobs) - 1))
        return len(self._jobs) - 1

    def _start(self, number: int) -> SpawnProcess:
        job, arguments = self._jobs[number]
        process = _CONTEXT.Process(target=job, args=arguments, daemon=True)
        process.start()
        return process

    def kill(self, number: int) -> None:
        """SIGKILL; then somebody starts it again."""
        self.running[number].kill()
        self.running[number].join()
        self.running[number] = self._start(number)

    def kill_backend(self) -> None:
        """SIGKILL to one server process: the postmaster ends all others and recovers by itself."""
        with closing(connect(self._url)) as witness:
            found = witness.execute(
                "select pid from pg_stat_activity where datname = current_database()"
                " and backend_type = 'client backend' and pid <> pg_backend_pid()"
            ).fetchall()
            for row in found[:1]:
                os.kill(row["pid"], signal.SIGKILL)
                # Until the postmaster has noticed, it still accepts connections, and ends them.
                eventually(partial(_is_cut, witness))
        eventually(self._answers)

    def kill_postmaster(self) -> None:
        """SIGKILL to the server itself, and to nobody else; then somebody starts it again."""
        with connect(self._url) as db:
            backend = str(db.info.backend_pid)
            parent = subprocess.run(
                ["ps", "-o", "ppid=", "-p", backend], capture_output=True, text=True, check=True
            )
        os.kill(int(parent.stdout), signal.SIGKILL)
        eventually(self._server.ended)
        self._server.stop()
        self._server.start()
        assert self._server.url("billing") == self._url

    def _answers(self) -> bool:
        try:
            with connect(self._url) as db:
                db.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def dismiss(self) -> None:
        """Ends what is left."""
        for process in self.running:
            process.kill()
            process.join()


def _is_cut(connection: Connection) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


def end_leases(url: str) -> None:
    """As if a minute had passed: what the dead had leased may be sent again."""
    with connect(url) as db:
        db.execute("update usage_delivery set due_at = now() where state = 'pending'")


def test_killed_in_the_middle(
    server: EmbeddedPostgres, url: str, remote: StandIn, commet: Commet, tmp_path: Path
) -> None:
    """Every acknowledged event counts once: here, and at Commet."""
    db = Database(lambda: connect(url))
    users = [f"usr_{n}" for n in range(USERS)]
    for user in users:
        sign_up(db, commet, remote, user)
    db.close()
    logs = [tmp_path / f"taker-{n}" for n in range(TAKERS)]
    stop = tmp_path / "stop"
    crew = Crew(server, url)
    try:
        takers = [
            crew.hire(crashing.take, url, crashing.Work(n, users, BATCHES, SIZE, log))
            for n, log in enumerate(logs)
        ]
        senders = [
            crew.hire(crashing.send, url, remote.base_url, remote.api_key, stop)
            for _ in range(SENDERS)
        ]
        turns = itertools.cycle(["takers", "sender", "backend", "takers", "postmaster"])
        some_sender = itertools.cycle(senders)
        for kill, victim in zip(range(KILLS), turns, strict=False):
            # Spread over the work, so that each meets somebody at it.
            so_far = TAKERS * BATCHES * (kill + 1) // (KILLS + 2)
            eventually(partial(has_come, logs, so_far), 300)
            if victim == "takers":
                for taker in takers:
                    crew.kill(taker)
            elif victim == "sender":
                crew.kill(next(some_sender))
                end_leases(url)
            elif victim == "backend":
                crew.kill_backend()
            else:
                crew.kill_postmaster()
        for taker in takers:
            crew.running[taker].join(600)
            assert crew.running[taker].exitcode == 0
        eventually(lambda: all_delivered(url), 600)
        stop.touch()
    finally:
        crew.dismiss()

    # Some kills fell between counting and acknowledging, or this would prove little.
    assert any(sum(crashing.acknowledged(log)) for log in logs)
    events = TAKERS * BATCHES * SIZE
    wanted = dict.fromkeys(users, Decimal(0))
    for worker, number in itertools.product(range(TAKERS), range(BATCHES * SIZE)):
        each = crashing.event(worker, number, users)
        wanted[each.user_id] += each.quantity
    with connect(url) as admin:
        ledger = admin.execute("select count(*) as n from usage_event").fetchone()
        totals = admin.execute(
            "select p.user_id, t.total, t.claimed, (select sum(quantity) from usage_event e"
            " where e.user_id = p.user_id) as booked from usage_total t"
            " join usage_period p on p.id = t.period"
        ).fetchall()
    assert ledger == {"n": events}
    assert {t["user_id"]: t["booked"] for t in totals} == wanted
    assert totals
    assert all(t["total"] == t["claimed"] == t["booked"] for t in totals)
    assert {user: used_at(commet, user) for user in users} == wanted


def has_come(logs: list[Path], batches: int) -> bool:
    """Whether so many are acknowledged."""
    return sum(len(crashing.acknowledged(log)) for log in logs) >= batches


def all_delivered(url: str) -> bool:
    """Whether nothing is left to send; what waits for a back-off or a lease need not."""
    with connect(url) as db:
        left = db.execute(
            "select (select count(*) from usage_total where total > claimed)"
            " + (select count(*) from usage_delivery where state <> 'sent') as n"
        ).fetchone()
        db.execute(
            "update usage_delivery set due_at = now()"
            " where state = 'pending' and due_at > now() + interval '1 second'"
        )
    return left == {"n": 0}
