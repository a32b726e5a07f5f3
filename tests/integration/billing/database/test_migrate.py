"""Migrations: all or nothing, once, by one runner at a time, and never backwards."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from billing.database import connection
from billing.database.connection import Connection
from billing.database.migrate import MigrationChanged, migrate
from billing.database.privileges import ACCOUNTS, APP, Privileges
from billing.deadline import Deadline

SHIPPED = Path(connection.__file__).parent
FILES = sorted(each.name for each in SHIPPED.glob("tables/*.sql"))
ROUTINES = sorted(each.name for each in SHIPPED.glob("routines/*.sql"))
NAMES = [*FILES, "routines"]

Connect = Callable[[], Connection]


def opens(url: str, **options: str) -> Connect:
    return lambda: psycopg.connect(url, autocommit=True, row_factory=dict_row, **options)  # type: ignore[arg-type]


@pytest.fixture
def url(postgres_server: str) -> Iterator[str]:
    """An empty database."""
    name = f"billing_empty_{os.getpid()}_{uuid4().hex[:6]}"
    with opens(postgres_server)() as admin:
        admin.execute(f"create database {name}")
        try:
            yield urlunsplit(urlsplit(postgres_server)._replace(path=f"/{name}"))
        finally:
            admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped migrations, to be changed."""
    return copytree(SHIPPED, tmp_path / "database")


def tables(connect: Connect) -> set[str]:
    with connect() as connection:
        rows = connection.execute("select tablename from pg_tables where schemaname = 'public'")
        return {row["tablename"] for row in rows}


class TestMigrate:
    def test_fresh_and_again(self, url: str) -> None:
        """Everything once; a second time there is nothing to do."""
        assert migrate(opens(url)) == NAMES
        assert {"users", "subscriptions", "usage_event", "schema_migrations"} <= tables(opens(url))
        assert migrate(opens(url)) == []

    def test_no_account_is_there_from_the_beginning(self, url: str) -> None:
        """Nobody can sign in whom nobody has made."""
        migrate(opens(url))
        with opens(url)() as connection:
            for table in ("users", "passwords", "sessions", "identities"):
                row = connection.execute(f"select count(*) as n from {table}").fetchone()  # noqa: S608
                assert row == {"n": 0}

    def test_what_is_missing(self, url: str, folder: Path) -> None:
        """Only what was added since."""
        migrate(opens(url), (), folder)
        (folder / "tables/9000_more.sql").write_text("create table more (id integer)")
        assert migrate(opens(url), (), folder) == ["9000_more.sql"]
        assert "more" in tables(opens(url))

    def test_a_changed_file(self, url: str, folder: Path) -> None:
        """History is not rewritten: nobody could say what the tables are."""
        migrate(opens(url), (), folder)
        with (folder / "tables" / FILES[0]).open("a") as file:
            file.write("\n-- improved")
        (folder / "tables/9000_more.sql").write_text("create table more (id integer)")
        with pytest.raises(MigrationChanged, match=NAMES[0]):
            migrate(opens(url), (), folder)
        assert "more" not in tables(opens(url))

    def test_files_of_another_history(self, url: str, folder: Path) -> None:
        """A database made by other files is refused: on it, no file may be taken for applied."""
        migrate(opens(url), (), folder)
        (folder / "tables" / FILES[0]).rename(folder / "tables/0001_people.sql")
        with pytest.raises(MigrationChanged, match=FILES[0]):
            migrate(opens(url), (), folder)

    def test_older_code(self, url: str, folder: Path) -> None:
        """A deployment that is rolled back leaves a newer database alone, and succeeds."""
        migrate(opens(url), (), folder)
        (folder / "tables" / FILES[-1]).unlink()
        (folder / "routines" / ROUTINES[0]).write_text("select no_such()")
        before = tables(opens(url))
        assert migrate(opens(url), (), folder) == []
        assert tables(opens(url)) == before

    def test_a_failure_rolls_back_all(self, url: str, folder: Path) -> None:
        """The good ones before it as well: the tables are as they were."""
        (folder / "tables/9000_bad.sql").write_text(
            "create table good (id integer); select no_such()"
        )
        with pytest.raises(psycopg.errors.UndefinedFunction):
            migrate(opens(url), (), folder)
        assert tables(opens(url)) == set()
        (folder / "tables/9000_bad.sql").unlink()
        assert migrate(opens(url), (), folder) == NAMES

    @pytest.mark.parametrize(
        "slow",
        ["select pg_sleep(60)", "; ".join(["select pg_sleep(1.5)"] * 40)],
        ids=["one long statement", "many"],
    )
    def test_no_time_left(self, url: str, folder: Path, slow: str) -> None:
        """The database ends what is under way, whether or not the runner still lives."""
        (folder / "tables/9000_slow.sql").write_text(f"create table slow (id integer); {slow}")
        with opens(url)() as connection:
            if slow.count("sleep") > 1 and connection.info.server_version < 170_000:
                pytest.skip("Before Postgres 17 there is only a limit for each statement.")
        with pytest.raises(psycopg.Error, match="timeout"):
            migrate(opens(url), (), folder, deadline=Deadline.after(3))
        assert tables(opens(url)) == set()

    def test_two_runners_at_once(self, url: str) -> None:
        """One of them does it, the other waits and finds nothing to do."""
        with ThreadPoolExecutor(3) as pool:
            runs = list(pool.map(lambda _: migrate(opens(url)), range(3)))
        assert sorted(runs) == [[], [], NAMES]


class TestRoutines:
    """`release` writes the routines of one release; each change is rolled back and made again."""

    OLD: ClassVar = {
        "answers.sql": "create or replace function answer() returns int language sql as 'select 41'"
    }
    NEW = OLD["answers.sql"].replace("41", "42")

    @pytest.fixture
    def release(self, url: str, tmp_path: Path) -> Callable[[dict[str, str]], list[str]]:
        def deploy(routines: dict[str, str]) -> list[str]:
            folder = tmp_path / uuid4().hex
            (folder / "tables").mkdir(parents=True)
            (folder / "tables/0001_things.sql").write_text("create table things (id integer)")
            (folder / "routines").mkdir()
            for name, text in routines.items():
                (folder / "routines" / name).write_text(text)
            return migrate(opens(url), (), folder)

        return deploy

    @staticmethod
    def answer(url: str) -> int:
        with opens(url)() as connection:
            row = connection.execute("select answer() as n").fetchone()
        assert row is not None
        return int(row["n"])

    @pytest.mark.parametrize(
        "new",
        [
            pytest.param({"answers.sql": NEW}, id="changed"),
            pytest.param({"replies.sql": NEW}, id="its file renamed"),
            pytest.param({"answers.sql": "select 1", "replies.sql": NEW}, id="moved"),
            pytest.param({**OLD, "replies.sql": NEW}, id="made twice, the last one counts"),
        ],
    )
    def test_rolled_back_and_forward(
        self, url: str, release: Callable[[dict[str, str]], list[str]], new: dict[str, str]
    ) -> None:
        """The older code runs with the older routine, the newer with the newer one."""
        assert "routines" in release(self.OLD)
        for _ in range(2):
            assert release(new) == ["routines"]
            assert self.answer(url) == 42
            assert release(new) == []
            assert release(self.OLD) == ["routines"]
            assert self.answer(url) == 41
            assert release(self.OLD) == []

    def test_one_that_a_newer_release_dropped(
        self, url: str, release: Callable[[dict[str, str]], list[str]]
    ) -> None:
        """The rollback makes it again."""
        release(self.OLD)
        release({"gone.sql": "drop function if exists answer()"})
        with pytest.raises(psycopg.errors.UndefinedFunction):
            self.answer(url)
        assert release(self.OLD) == ["routines"]
        assert self.answer(url) == 41

    def test_one_that_a_newer_release_renamed(
        self, url: str, release: Callable[[dict[str, str]], list[str]]
    ) -> None:
        """The newer name stays, also after the rollback: the newer code may still be running."""
        release(self.OLD)
        release({"answers.sql": self.NEW.replace("answer()", "reply()")})
        assert self.answer(url) == 41
        assert release(self.OLD) == ["routines"]
        assert self.answer(url) == 41
        with opens(url)() as connection:
            assert connection.execute("select reply() as n").fetchone() == {"n": 42}


@contextmanager
def two_roles(url: str) -> Iterator[tuple[str, str]]:
    """The names of two new roles that may log in: for `app`, and for `accounts`."""
    names = f"billing_app_{uuid4().hex[:8]}", f"billing_accounts_{uuid4().hex[:8]}"
    with opens(url)() as owner:
        for name in names:
            owner.execute(f"create role {name} login password 'x'")
    yield names
    with opens(url)() as owner:
        for name in names:
            owner.execute(f"drop owned by {name}; drop role {name}")


class TestGrants:
    @pytest.fixture
    def names(self, url: str) -> Iterator[tuple[str, str]]:
        """Migrated: the names of the roles `app` and `accounts`."""
        with two_roles(url) as names:
            migrate(opens(url), zip(names, (APP, ACCOUNTS), strict=True))
            yield names

    @pytest.fixture
    def app(self, url: str, names: tuple[str, str]) -> Connect:
        """Opens the database as the role of most functions."""
        return opens(url, user=names[0], password="x")

    @pytest.fixture
    def accounts(self, url: str, names: tuple[str, str]) -> Connect:
        """Opens the database as the role that signs people up and in."""
        return opens(url, user=names[1], password="x")

    def test_what_the_functions_do(self, app: Connect) -> None:
        """Reading and writing, sequences, views and routines included."""
        with app() as connection:
            connection.execute(
                "insert into users (id, email, created_at) values ('usr_1', 'a@b.c', now())"
            )
            connection.execute(
                "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
                " values ('usr_1', 'sub_1', now(), now() + interval '1 day')"
            )
            connection.execute("select prune_ledger(now(), now(), '', '', '', 1)")
            connection.execute("select id from audit")
            connection.execute("select id from current_subscription")
            connection.execute("select record_change('usr_1', now(), '{\"features\": []}', now())")

    @pytest.mark.parametrize(
        "statement",
        [
            "alter table users add column x integer",
            "drop table sessions",
            "create table mine (id integer)",
            "truncate users",
            "create index on users (name)",
            "drop function record_change",
            "update schema_migrations set sha256 = ''",
            "delete from schema_migrations",
            "update audit set outcome = 'done'",
            "delete from audit",
            "select hash from passwords",
            "insert into passwords (user_id, hash, changed_at) values ('usr_1', 'x', now())",
            "update usage_event set quantity = 0",
            "delete from usage_event",
            "delete from usage_key",
            "select id from account_tokens",
            "insert into audit (id, actor_kind, action, outcome)"
            " values (gen_random_uuid(), 'user', 'a.b', 'done')",
        ],
    )
    def test_nothing_more(self, app: Connect, statement: str) -> None:
        """A function that was taken over cannot change tables, passwords and the ledger."""
        with app() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())

    @pytest.mark.parametrize(
        "statement",
        [
            "select id from subscriptions",
            "select user_id from usage_event",
            "delete from users",
            "select prune_ledger(now(), now(), '', '', '', 1)",
            "create table mine (id integer)",
        ],
    )
    def test_nothing_of_billing(self, accounts: Connect, statement: str) -> None:
        """Whoever took over the sign-in neither sees nor changes what people use."""
        with accounts() as connection:
            connection.execute("select hash from passwords")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())

    def test_what_was_granted_once_is_taken_away(self, url: str, names: tuple[str, str]) -> None:
        less = Privileges(tables={"users": "select"}, routines=frozenset())
        migrate(opens(url), [(names[0], less)])
        with opens(url, user=names[0], password="x")() as connection:
            connection.execute("select id from users")
            for statement in (
                "select id from sessions",
                "select prune_ledger(now(), now(), '', '', '', 1)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())

    def test_nothing_is_taken_away_while_newer_code_may_run(
        self, url: str, names: tuple[str, str], folder: Path
    ) -> None:
        """The database is ahead of a release that is rolled back to."""
        (folder / "tables/9000_more.sql").write_text("create table more (id integer)")
        migrate(opens(url), [(names[0], APP)], folder)
        less = Privileges(tables={"users": "select"}, routines=frozenset())
        migrate(opens(url), [(names[0], less)])
        with opens(url, user=names[0], password="x")() as connection:
            connection.execute("select id from sessions")

    def test_one_login_for_both(self, url: str) -> None:
        """As with a database of one's own for `make run`."""
        with two_roles(url) as (name, _):
            migrate(opens(url), [(name, APP), (name, ACCOUNTS)])
            with opens(url, user=name, password="x")() as connection:
                connection.execute("select hash from passwords")
                connection.execute("select id from subscriptions")
