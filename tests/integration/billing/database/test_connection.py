"""The doorway to Postgres: reconnects, translates, and tells a bad statement from a bad line."""

import os
import re
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from billing.config import DatabaseSettings, from_env
from billing.credentials.secrets import Secrets
from billing.database.connection import Connection, Database, connector, place_of
from billing.database.watchdog import Watchdog
from billing.errors import BillingError, DatabaseUnavailable
from tests.integration.billing.conftest import _connect

PID = "select pg_backend_pid()"


@pytest.fixture
def opened() -> Iterator[list[Connection]]:
    connections: list[Connection] = []
    yield connections
    for each in connections:
        each.close()


@pytest.fixture
def database(migrated_url: str, opened: list[Connection]) -> Database:
    """A database that remembers the connections it opened."""

    def connect() -> Connection:
        opened.append(_connect(migrated_url))
        return opened[-1]

    return Database(connect)


def _in_another_language(quoted: str) -> str:
    """A statement that fails as on a server that speaks German, French, Polish or Chinese."""
    return (
        "do $$ begin raise exception using errcode = '22P02',"
        f" message = 'ungültige Eingabesyntax für Typ bigint: {quoted}'; end $$"
    )


class TestAnswers:
    def test_shapes(self, database: Database) -> None:
        """Rows, the first row, the first column; None where there is none."""
        many = "select n, n * 2 as twice from generate_series(1, 2) as n"
        assert database.all(many) == [{"n": 1, "twice": 2}, {"n": 2, "twice": 4}]
        assert database.one(many) == {"n": 1, "twice": 2}
        assert database.value(many) == 1
        assert database.one("select 1 where false") is None
        assert database.value("select 1 where false") is None
        database.execute("create temp table t (x integer)")

    def test_one_connection(self, database: Database, opened: list[Connection]) -> None:
        """Opened by the first statement, and kept."""
        assert opened == []
        assert database.value(PID) == database.value(PID)
        assert len(opened) == 1

    def test_each_statement_commits(self, database: Database, migrated_url: str) -> None:
        """Nothing is left open between statements."""
        database.execute("insert into attempts values ('t', now(), 1)")
        with _connect(migrated_url) as other:
            other.execute("delete from attempts where key = 't'")
        assert database.value("select count(*) from attempts where key = 't'") == 0


class TestConnectionLost:
    def test_killed_while_idle(
        self,
        database: Database,
        opened: list[Connection],
        shared: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A backend that is gone is noticed before the statement, which is sent once."""
        sent = []
        run = Database._run

        def counted(connection: Connection, statement: str, params: Any) -> Any:
            sent.append(statement)
            return run(connection, statement, params)

        shared.execute("select pg_terminate_backend(%s, 5000)", [database.value(PID)])
        monkeypatch.setattr(Database, "_run", staticmethod(counted))
        assert database.value("select 1") == 1
        assert sent == ["select 1"]
        assert len(opened) == 2

    def test_killed_while_busy(self, database: Database, opened: list[Connection]) -> None:
        """The statement is run once more on a new connection, and only once."""
        suicide = (
            "select case when %(n)s = (select count(*) from pg_stat_activity where false)"
            " then pg_terminate_backend(pg_backend_pid()) end"
        )
        with pytest.raises(DatabaseUnavailable):
            database.value(suicide, {"n": 0})
        assert len(opened) == 2
        assert database.value("select 1") == 1

    def test_a_server_that_only_reads(self, database: Database, opened: list[Connection]) -> None:
        """After a failover the old connection may still stand: it is given up."""
        database.execute("set default_transaction_read_only = on")
        database.execute("insert into attempts values ('ro', now(), 1)")
        database.execute("delete from attempts where key = 'ro'")
        assert len(opened) == 2

    def test_a_server_that_has_stopped(self, database: Database, opened: list[Connection]) -> None:
        """Nothing enforces a limit there: the connection is cut here, and nothing is repeated."""
        database._watchdog = Watchdog(0.4)
        backend = database.value(PID)
        os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseUnavailable):
                database.value("select 1")
        finally:
            os.kill(backend, signal.SIGCONT)
        assert len(opened) == 1
        assert database.value("select 1") == 1

    def test_a_statement_in_time_is_not_cut(self, database: Database) -> None:
        """Also many of them that take longer together."""
        database._watchdog = Watchdog(0.4)
        backend = database.value(PID)
        for _ in range(10):
            database.execute("select pg_sleep(0.1)")
        assert database.value(PID) == backend

    @pytest.mark.parametrize("failures", [1, 2])
    def test_another_transaction_was_first(
        self, database: Database, opened: list[Connection], failures: int
    ) -> None:
        """The statement is run once more, on the same connection."""
        database.execute("create temp sequence tries")
        database.execute(
            "create function pg_temp.race(failures bigint) returns bigint language plpgsql as $$"
            " begin if nextval('tries') <= failures then raise sqlstate '40001'; end if;"
            " return 1; end $$"
        )
        statement = f"select pg_temp.race({failures})"
        if failures == 1:
            assert database.value(statement) == 1
        else:
            with pytest.raises(DatabaseUnavailable):
                database.value(statement)
        assert len(opened) == 1

    def test_nobody_there(self) -> None:
        """Down is one clear error, and over as soon as it is up again."""
        calls = []

        def connect() -> Connection:
            calls.append(1)
            raise psycopg.OperationalError("connection refused: secret-host")

        with pytest.raises(DatabaseUnavailable) as caught:
            Database(connect).value("select 1")
        assert len(calls) == 2
        assert "secret-host" not in caught.value.detail


class TestStatementErrors:
    @pytest.mark.parametrize(
        ("statement", "error"),
        [
            ("select nonsense", psycopg.errors.UndefinedColumn),
            ("select 1/0", psycopg.errors.DivisionByZero),
            ("select '\\x00'::text::jsonb", psycopg.errors.InvalidTextRepresentation),
            ("insert into attempts (key) values ('x')", psycopg.errors.NotNullViolation),
            ("do $$ begin raise exception using errcode = '40P01'; end $$",
             psycopg.errors.DeadlockDetected),
            ("do $$ begin raise exception using errcode = '57014'; end $$",
             psycopg.errors.QueryCanceled),
            ("do $$ begin raise exception using errcode = '55P03'; end $$",
             psycopg.errors.LockNotAvailable),
            ("do $$ begin raise exception using errcode = '53100'; end $$",
             psycopg.errors.DiskFull),
            ("do $$ begin raise exception using errcode = '0A000'; end $$",
             psycopg.errors.FeatureNotSupported),
        ],
    )  # fmt: skip
    def test_come_through(
        self,
        database: Database,
        monkeypatch: pytest.MonkeyPatch,
        statement: str,
        error: type[Exception],
    ) -> None:
        """They are the statement's own: running it again elsewhere would do no better."""
        sent: list[str] = []
        run = Database._run

        def counted(connection: Connection, statement: str, params: Any) -> Any:
            sent.append(statement)
            return run(connection, statement, params)

        monkeypatch.setattr(Database, "_run", staticmethod(counted))
        with pytest.raises(error):
            database.value(statement)
        assert sent == [statement]
        assert database.value("select 1") == 1

    def test_of_the_second_run(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """The connection was lost, and on the next one the statement takes too long."""
        errors: list[Exception] = [psycopg.OperationalError("gone"), psycopg.errors.QueryCanceled()]

        def fails(*_: object) -> None:
            raise errors.pop(0)

        monkeypatch.setattr(Database, "_run", staticmethod(fails))
        with pytest.raises(psycopg.errors.QueryCanceled):
            database.value("select 1")
        assert errors == []


Connecting = Callable[["Store"], Callable[[], Connection]]


class TestWhatErrorsTell:
    @pytest.mark.parametrize(
        "statement",
        [
            "insert into users (id, email) values ('usr_a', null)",
            "insert into users (id, email, name) values ('usr_a', 'ana@example.com', 'Ana'),"
            " ('usr_a', 'ana@example.com', 'Ana')",
            "do $$ begin raise exception 'no' using detail = 'ana@example.com'; end $$",
        ],
    )
    def test_not_the_row_it_went_wrong_on(self, database: Database, statement: str) -> None:
        """Postgres adds the failing row to its message, and messages go into logs."""
        with pytest.raises(psycopg.Error) as caught:
            database.execute(statement)
        written = "".join(traceback.format_exception(caught.value))
        assert str(caught.value) == caught.value.diag.message_primary
        assert "ana@example.com" not in written
        assert "usr_a" not in written

    @pytest.mark.parametrize(
        "statement",
        [
            "select 'hunter2'::bigint",
            'select jsonb_populate_record(null::users, \'{"created_at": "hunter2 \\" of 3"}\')',
            "select cast(left('hunter2hunter2', 9) as timestamptz)",
            "select '{hunter2'::text[]",
            *map(_in_another_language, ("»hunter2«", "« hunter2 »", "„hunter2“", "“hunter2”")),
        ],
    )
    def test_not_the_value_it_could_not_read(self, database: Database, statement: str) -> None:
        """These errors quote the value in their very first line."""
        with pytest.raises(psycopg.DataError) as caught:
            database.execute(statement)
        assert "hunter2" in str(caught.value.diag.message_primary)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        assert str(caught.value)

    @pytest.fixture
    def broken(self, database: Database) -> Database:
        """With functions of this connection's own that fail, the inner two lines into its body."""
        database.execute(
            "create temp table secrets (word text, constraint short check (word < 'a'))"
        )
        database.execute(
            "create function pg_temp.inner_one(p_word text) returns void language plpgsql as $$"
            "\nbegin\n  insert into secrets values (p_word);\nend $$"
        )
        database.execute(
            "create function pg_temp.outer_one(p_word text, p_more int[]) returns void"
            " language plpgsql as $$\nbegin\n  perform pg_temp.inner_one(p_word);\nend $$"
        )
        return database

    def test_the_routine_and_the_constraint(self, broken: Database) -> None:
        """Code, constraint and line are told; the row, which Postgres tells too, is not."""
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            broken.execute("select pg_temp.outer_one('hunter2', '{}')")
        assert "hunter2" in str(caught.value.diag.message_detail)
        place = place_of(caught.value)
        assert (place["sqlstate"], place["constraint"]) == ("23514", "short")
        assert [re.sub(r"pg_temp_\d+", "pg_temp", line) for line in place["routine"]] == [
            "PL/pgSQL function pg_temp.inner_one(text) line 3 at SQL statement",
            "PL/pgSQL function pg_temp.outer_one(text,integer[]) line 3 at PERFORM",
        ]
        assert "hunter2" not in str(place)

    @pytest.mark.parametrize(
        ("statement", "lines"),
        [
            # The context quotes a statement that was put together, and the JSON that is not JSON.
            ("do $$ begin execute 'select 1/0 as hunter2'; end $$", 1),
            ("do $$ declare x jsonb := '{\"hunter2'; begin end $$", 1),
            ("select '{\"hunter2'::jsonb", 0),
            ("do $$ begin raise exception 'no' using hint = 'hunter2'; end $$", 1),
        ],
    )
    def test_no_context_that_quotes(self, database: Database, statement: str, lines: int) -> None:
        with pytest.raises(psycopg.Error) as caught:
            database.execute(statement)
        place = place_of(caught.value)
        assert len(place.get("routine", [])) == lines
        assert "hunter2" not in str(place)

    def test_the_error_behind_ours(self, broken: Database) -> None:
        """What is logged is often an error of ours that the database's caused."""
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            broken.execute("select pg_temp.outer_one('hunter2', '{}')")
        ours = BillingError()
        ours.__cause__ = caught.value
        assert place_of(ours)["constraint"] == "short"

    def test_nothing_of_other_errors(self) -> None:
        assert place_of(ValueError("hunter2")) == {}


class TestAColumnMore:
    """A migration adds columns while functions run that have prepared their statements."""

    def test_an_outdated_plan(
        self, database: Database, opened: list[Connection], shared: Database
    ) -> None:
        """The statement is run once more on a new connection."""
        database.execute("drop table if exists growing")
        database.execute("create table growing as select 1 as n")
        try:
            for _ in range(3):
                assert database.one("select * from growing") == {"n": 1}
            shared.execute("alter table growing add column more integer")
            assert database.one("select * from growing") == {"n": 1, "more": None}
            assert len(opened) == 2
        finally:
            database.execute("drop table growing")


class Store:
    """A login that may be rotated."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords)
        self.reads = 0

    def get(self, *_: str) -> str:
        password = self.passwords[min(self.reads, len(self.passwords) - 1)]
        self.reads += 1
        return f'{{"username": "billing_login", "password": "{password}"}}'


def refused(message: str) -> psycopg.OperationalError:
    """The error of a connection for which the server had asked for a password."""
    connection: Any = SimpleNamespace(used_password=True)
    return psycopg.OperationalError(message, pgconn=connection)


class TestConnector:
    @pytest.fixture
    def connecting(self, migrated_url: str) -> Connecting:
        """Connects as a settings-and-secrets user does."""
        parts = urlsplit(migrated_url)
        settings = DatabaseSettings(
            host=parts.hostname or "", port=parts.port or 0, name=parts.path[1:],
            sslmode="disable", ca="", pooled=False, secret_id="arn",
        )  # fmt: skip
        return lambda store: connector(settings, Secrets(store), "unit")

    def test_a_rotated_login(
        self,
        connecting: Connecting,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A refused login reads the secret once more."""
        used = []

        def connect(**options: object) -> Any:
            used.append(options["password"])
            if options["password"] == "old":
                raise refused("Passwort-Authentifizierung fehlgeschlagen")
            return None

        monkeypatch.setattr(psycopg, "connect", connect)
        store = Store("old", "new")
        connecting(store)()
        assert used == ["old", "new"]

    def test_a_login_that_stays_wrong(self, connecting: Connecting) -> None:
        """Not twice: then the database is not available to us."""
        store = Store("wrong")
        with pytest.raises(psycopg.OperationalError):
            connecting(store)()
        assert store.reads == 3  # as kept, as stored, as it is about to be

    def test_a_password_that_was_rotated(self, connecting: Connecting, shared: Database) -> None:
        """On a real server."""
        shared.execute("create role billing_login login password 'new'")
        try:
            store = Store("old", "new")
            with connecting(store)() as connection:
                assert connection.execute("select 1 as n").fetchone() == {"n": 1}
            assert store.reads == 2
        finally:
            shared.execute("drop role billing_login")

    def test_a_server_that_is_full(
        self, connecting: Connecting, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The login is not tried again with the same password."""
        tried = []

        def connect(**options: object) -> Any:
            tried.append(options["password"])
            raise refused("sorry, too many clients already")

        monkeypatch.setattr(psycopg, "connect", connect)
        with pytest.raises(psycopg.OperationalError):
            connecting(Store("right"))()
        assert tried == ["right"]

    def test_a_server_that_is_silent(self) -> None:
        """Connecting ends by itself, whatever the network does."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            settings = from_env(
                {
                    "DATABASE_HOST": "127.0.0.1",
                    "DATABASE_PORT": str(silent.getsockname()[1]),
                    "DATABASE_SSLMODE": "disable",
                    "DATABASE_SECRET_ARN": "arn",
                }
            ).database
            with pytest.raises(psycopg.OperationalError, match="timeout"):
                connector(settings, Secrets(Store("x")), "unit")()
