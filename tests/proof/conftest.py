"""What the proofs share: databases they may break, and the local stack, which they do break."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from billing.database.connection import Connection, Database
from billing.database.migrate import migrate
from local.stack import LocalStack
from standin.testing import Control
from tests.proof.delivering import PROCESSES, connect, wait_for_all


@pytest.fixture(scope="session")
def proof_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated database to copy."""
    name = f"billing_proof_{os.getpid()}"
    with connect(postgres_server) as admin:
        admin.execute(f"create database {name}")
        try:
            migrate(lambda: connect(_at(postgres_server, name)))
            yield name
        finally:
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def proof_url(postgres_server: str, proof_template: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    with _copy(postgres_server, proof_template) as url:
        yield url


@pytest.fixture
def proof_db(proof_url: str) -> Iterator[Database]:
    database = Database(lambda: connect(proof_url))
    yield database
    database.close()


@pytest.fixture(scope="session")
def kept_db(postgres_server: str, proof_template: str) -> Iterator[Database]:
    """A database, and its connection, for tests that empty all tables before they begin.

    Postgres plans every statement and compiles every routine anew for a new database.
    """
    with _copy(postgres_server, proof_template) as url:
        database = Database(lambda: connect(url))
        yield database
        database.close()


@contextmanager
def _copy(server: str, template: str) -> Iterator[str]:
    """A copy of a database; its URL."""
    name = f"{template}_{uuid4().hex[:8]}"
    with connect(server) as admin:
        admin.execute(f"create database {name} template {template} strategy file_copy")
        try:
            yield _at(server, name)
        finally:
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """As many as PROCESSES, all of them there before the first begins to work.

    The tests of a file share them: to start them takes longer than what they do.
    """
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(PROCESSES)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=spawn, initializer=wait_for_all, initargs=(ready,)
    ) as pool:
        yield pool


def _at(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The local stack, its Postgres safe against a crash; schedules run when a test says so."""
    place = Path(tmp_path_factory.mktemp("proof"))
    with LocalStack(data_dir=place, schedule_minute_seconds=None) as running:
        yield running


@pytest.fixture
def remote(stack: LocalStack) -> Iterator[Control]:
    """The control endpoints of the stack's stand-in."""
    control = Control(stack.commet.removesuffix("/api/v1"))
    yield control
    control.clear_faults()
    control.close()


@pytest.fixture
def mirror(stack: LocalStack) -> Callable[[], Connection]:
    """Opens connections to the stack's database, as its owner."""
    return lambda: connect(stack.database_url)
