"""`make test-postgres`: the functions' connection on each Postgres of this machine.

Not collected by `make test`, because it needs servers that not every machine has.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
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
from tests.postgres.servers import found, pooler, translated, with_locales

SERVERS = found()
# Tests of plans, which `make test` runs on the newest version only.
PLANS = (
    "tests/integration/billing/database/test_plans.py",
    "tests/integration/billing/delivery/test_outbox.py::TestReplacing",
    "tests/integration/billing/usage/test_ledger.py",
)
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


class Rotated:
    """The secret of a login whose password was changed a moment ago."""

    def __init__(self) -> None:
        self.passwords = ["old", PASSWORD]

    def get(self, *_: str) -> str:
        password = self.passwords.pop(0) if len(self.passwords) > 1 else self.passwords[0]
        return f'{{"username": "{ROLE}", "password": "{password}"}}'


@pytest.fixture(scope="module")
def abroad() -> Iterator[EmbeddedPostgres]:
    """With a database in Turkish, where the small letter of I is not i."""
    binaries = translated()
    assert binaries, "install the Debian package postgresql"
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        Path(place).chmod(0o755)
        programs = with_locales(binaries, Path(place))
        with EmbeddedPostgres(Path(place, "data"), fast=True, binaries=programs) as postgres:
            postgres.ensure_role("billing_owner", "owner")
            postgres.ensure_role(ROLE, PASSWORD)
            with postgres.connect() as admin:
                admin.execute(
                    "create database billing owner billing_owner template template0"
                    " lc_collate 'tr_TR.UTF-8' lc_ctype 'tr_TR.UTF-8'"
                )
                for name in ("lc_numeric", "lc_monetary", "lc_time"):
                    admin.execute(f"alter database billing set {name} = 'de_DE.UTF-8'".encode())
            migrate(owner(postgres), [(ROLE, APP)])
            yield postgres


class TestLocale:
    """A server in another country, whose messages nobody here has to understand."""

    @pytest.fixture(params=["de_DE.UTF-8", "fr_FR.UTF-8", "ja_JP.UTF-8"])
    def speaking(
        self, abroad: EmbeddedPostgres, request: pytest.FixtureRequest
    ) -> Iterator[Database]:
        """The functions' database; its messages are in that language from the next login on."""
        with abroad.connect() as admin:
            admin.execute(f"alter system set lc_messages = {quoted(request.param)}".encode())
            admin.execute("select pg_reload_conf()")
        deadline = time.monotonic() + 20
        while True:
            db = Database(connects(abroad.port))
            if db.value("show lc_messages") == request.param:
                break
            db.close()
            assert time.monotonic() < deadline
        yield db
        db.close()

    def test_it_says_nothing_in_english(self, speaking: Database) -> None:
        """Or the tests below would prove nothing. The value that it quotes is not logged."""
        with pytest.raises(psycopg.DataError) as caught:
            speaking.value("select 'hunter2'::bigint")
        message = str(caught.value.diag.message_primary)
        assert "invalid input" not in message
        assert "hunter2" in message
        assert "hunter2" not in str(caught.value)

    def test_a_rotated_password_is_found(
        self, abroad: EmbeddedPostgres, speaking: Database
    ) -> None:
        speaking.close()
        settings = DatabaseSettings(
            host="127.0.0.1", port=abroad.port, name="billing", sslmode="disable", ca="aws",
            pooled=False, secret_id="database",
        )  # fmt: skip
        with connector(settings, Secrets(Rotated()), "test")() as connection:
            assert connection.execute("select 1 as n").fetchone() == {"n": 1}

    def test_a_plan_that_is_outdated_is_made_anew(
        self, abroad: EmbeddedPostgres, speaking: Database
    ) -> None:
        with owner(abroad)() as connection:
            connection.execute("create table moving (n integer)")
            connection.execute(f"grant select on moving to {ROLE}".encode())
            try:
                for _ in range(3):
                    assert speaking.all("select * from moving") == []
                connection.execute("alter table moving add column m integer")
                connection.execute("insert into moving values (1, 2)")
                assert speaking.all("select * from moving") == [{"n": 1, "m": 2}]
            finally:
                connection.execute("drop table moving")

    def test_the_role_can_work(self, abroad: EmbeddedPostgres, speaking: Database) -> None:
        health.check(speaking)
        probe(ROLE, APP, connects(abroad.port))

    def test_small_letters_are_those_of_currencies(self, speaking: Database) -> None:
        """Not 0.01 of a krona: in Turkish its code would not be found."""
        assert speaking.value("select lower('ISK')") != "isk"
        assert speaking.value("select decimals_of('ISK')") == 0


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


@pytest.mark.parametrize("version", SERVERS)
def test_plans(version: int) -> None:
    """Hot statements read few rows on each version."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *PLANS],
        env=os.environ | {"PG_BIN": str(SERVERS[version])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_versions() -> None:
    """Without these, the tests above say little. 17: docs/testing.md says how to get it."""
    assert {15, 16, 18} <= SERVERS.keys()
