"""`make test-postgres`: the functions' connection on each Postgres of this machine.

Not collected by `make test`, because it needs servers that not every machine has.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from billing.config import DatabaseSettings
from billing.credentials.secrets import Secrets
from billing.database import health
from billing.database.connection import SESSION, Database, connector
from billing.database.migrate import migrate
from billing.database.privileges import APP
from billing.database.probe import RoleCannotWork, probe
from billing.database.watchdog import Watchdog
from billing.errors import DatabaseUnavailable
from local.postgres import EmbeddedPostgres
from tests.postgres.servers import found, pooler

SERVERS = found()
ROLE, PASSWORD = "billing_app", "app"
# What a company's database may be set to, for reasons of its own.
ODD = {
    "timezone": "Asia/Tokyo",
    "datestyle": "German, DMY",
    "default_transaction_isolation": "serializable",
    "search_path": "elsewhere",
    "standard_conforming_strings": "off",
    "intervalstyle": "sql_standard",
}


class Login:
    """The secret of the functions' login."""

    def get(self, *_: str) -> str:
        return f'{{"username": "{ROLE}", "password": "{PASSWORD}"}}'


@pytest.fixture(scope="module", params=SERVERS, ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    """A migrated server with both roles, set oddly."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        Path(place).chmod(0o755)
        postgres = EmbeddedPostgres(Path(place), fast=True, binaries=SERVERS[request.param])
        with postgres:
            postgres.ensure_role("billing_owner", "owner")
            postgres.ensure_role(ROLE, PASSWORD)
            postgres.ensure_database("billing", owner="billing_owner")
            migrate(owner(postgres), [(ROLE, APP)])
            with postgres.connect() as admin:
                for name, value in ODD.items():
                    admin.execute(f"alter database billing set {name} = {quoted(value)}".encode())
            yield postgres


def quoted(value: str) -> str:
    return "'" + value + "'"


def owner(postgres: EmbeddedPostgres) -> Any:
    url = postgres.url("billing", "billing_owner", "owner")
    return lambda: psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row)


def connects(port: int, *, pooled: bool = False) -> Any:
    settings = DatabaseSettings(
        host="127.0.0.1", port=port, name="billing", sslmode="disable", ca="aws", pooled=pooled,
        secret_id="database",
    )  # fmt: skip
    return connector(settings, Secrets(Login()), "test")


@pytest.fixture
def database(server: EmbeddedPostgres) -> Iterator[Database]:
    db = Database(connects(server.port))
    yield db
    db.close()


class TestSettings:
    def test_a_session_is_ours_whatever_the_database_is_set_to(self, database: Database) -> None:
        for name, value in SESSION.items():
            assert database.value(f"show {name}") == value

    def test_the_last_year_can_be_read(self, database: Database) -> None:
        """In Tokyo this is year 10000, for which Python has no date."""
        last = database.value("select timestamptz '9999-12-31 23:30:00+00'")
        assert (last.year, last.hour) == (9999, 23)

    def test_the_role_can_work(self, server: EmbeddedPostgres, database: Database) -> None:
        health.check(database)
        probe(ROLE, APP, connects(server.port))

    def test_a_right_that_was_taken_is_found(self, server: EmbeddedPostgres) -> None:
        with owner(server)() as connection:
            connection.execute("revoke execute on all functions in schema public from public")
            try:
                with pytest.raises(RoleCannotWork, match="may not execute"):
                    probe(ROLE, APP, connects(server.port))
            finally:
                connection.execute("grant execute on all functions in schema public to public")
        probe(ROLE, APP, connects(server.port))

    def test_eight_connections(self, server: EmbeddedPostgres) -> None:
        """More environments than connections: a clear error for some, and none hangs."""
        with server.connect() as admin:
            admin.execute(f"alter role {ROLE} connection limit 8".encode())
        made = [Database(connects(server.port)) for _ in range(12)]

        def ask(db: Database) -> str:
            try:
                return str(db.value("select 1"))
            except DatabaseUnavailable:
                return "unavailable"

        try:
            with ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(ask, made))
            assert answers.count("1") == 8
            assert answers.count("unavailable") == 4
        finally:
            for db in made:
                db.close()
            with server.connect() as admin:
                admin.execute(f"alter role {ROLE} connection limit -1".encode())


class TestPooler:
    @pytest.fixture
    def pooled(self, server: EmbeddedPostgres) -> Iterator[tuple[int, Any]]:
        with tempfile.TemporaryDirectory(prefix="pooler-") as place:
            url = server.url("billing", ROLE, PASSWORD)
            with pooler(url, Path(place)) as (address, process):
                yield int(urlsplit(address).port or 0), process

    @pytest.fixture
    def role_is_set(self, server: EmbeddedPostgres) -> Iterator[None]:
        """As docs/aws.md says for poolers."""
        with server.connect() as admin:
            for name, value in SESSION.items():
                text = value if name == "search_path" else quoted(value)
                admin.execute(f"alter role {ROLE} set {name} = {text}".encode())
            yield
            admin.execute(f"alter role {ROLE} reset all".encode())

    def test_a_role_that_is_not_set_is_refused(self, pooled: tuple[int, Any]) -> None:
        """A pooler takes no options: nothing is booked in Tokyo's days."""
        with pytest.raises(DatabaseUnavailable) as caught:
            Database(connects(pooled[0], pooled=True)).value("select 1")
        assert "timezone" in str(caught.value.__cause__)

    @pytest.mark.usefixtures("role_is_set")
    def test_a_role_that_is_set(self, pooled: tuple[int, Any]) -> None:
        db = Database(connects(pooled[0], pooled=True))
        assert db.value("show timezone") == "UTC"
        health.check(db)
        db.close()

    @pytest.mark.usefixtures("role_is_set")
    def test_a_pooler_that_stops(self, pooled: tuple[int, Any]) -> None:
        """503 within the limit, and back as soon as it goes on."""
        port, process = pooled
        db = Database(connects(port, pooled=True))
        db._watchdog = Watchdog(1.0)
        db.value("select 1")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseUnavailable):
                db.value("select 1")
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert db.value("select 1") == 1
        db.close()


class TestServer:
    def test_a_backend_that_stops(self, database: Database) -> None:
        database._watchdog = Watchdog(1.0)
        backend = database.value("select pg_backend_pid()")
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseUnavailable):
                database.value("select 1")
        finally:
            os.kill(backend, signal.SIGCONT)
        assert database.value("select 1") == 1

    def test_a_failover_to_a_server_that_only_reads(
        self, server: EmbeddedPostgres, database: Database
    ) -> None:
        with server.connect() as admin:
            admin.execute(f"alter role {ROLE} set default_transaction_read_only = on".encode())
            database.close()
            try:
                with pytest.raises(DatabaseUnavailable):
                    health.check(database)
                with pytest.raises(DatabaseUnavailable):
                    database.execute("insert into attempts values ('ro', now(), 1)")
            finally:
                admin.execute(f"alter role {ROLE} reset default_transaction_read_only".encode())
        database.close()
        health.check(database)

    def test_a_restart(self, server: EmbeddedPostgres, database: Database) -> None:
        """Down is 503; the warm connection is replaced when the server is back."""
        assert database.value("select 1") == 1
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            database.value("select 1")
        server.start()
        fresh = Database(connects(server.port))  # the port may be another
        assert fresh.value("select 1") == 1
        fresh.close()


def test_versions() -> None:
    """Without these, the tests above say little. 17: docs/testing.md says how to get it."""
    assert {15, 16, 18} <= SERVERS.keys()
