"""Migrations: all or nothing, once, by one runner at a time, and never backwards."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
        assert migrate(opens(url), "postgres") == NAMES
        assert {"users", "subscriptions", "usage_event", "schema_migrations"} <= tables(opens(url))
        assert migrate(opens(url), "postgres") == []

    def test_what_is_missing(self, url: str, folder: Path) -> None:
        """Only what was added since."""
        migrate(opens(url), "postgres", folder)
        (folder / "tables/9000_more.sql").write_text("create table more (id integer)")
        assert migrate(opens(url), "postgres", folder) == ["9000_more.sql"]
        assert "more" in tables(opens(url))

    def test_a_changed_file(self, url: str, folder: Path) -> None:
        """History is not rewritten: nobody could say what the tables are."""
        migrate(opens(url), "postgres", folder)
        with (folder / "tables" / FILES[0]).open("a") as file:
            file.write("\n-- improved")
        (folder / "tables/9000_more.sql").write_text("create table more (id integer)")
        with pytest.raises(MigrationChanged, match=NAMES[0]):
            migrate(opens(url), "postgres", folder)
        assert "more" not in tables(opens(url))

    def test_files_of_another_history(self, url: str, folder: Path) -> None:
        """A database made by other files is refused: on it, no file may be taken for applied."""
        migrate(opens(url), "postgres", folder)
        (folder / "tables" / FILES[0]).rename(folder / "tables/0001_people.sql")
        with pytest.raises(MigrationChanged, match=FILES[0]):
            migrate(opens(url), "postgres", folder)

    def test_older_code(self, url: str, folder: Path) -> None:
        """A deployment that is rolled back leaves a newer database alone, and succeeds."""
        migrate(opens(url), "postgres", folder)
        (folder / "tables" / FILES[-1]).unlink()
        (folder / "routines" / ROUTINES[0]).write_text("select no_such()")
        before = tables(opens(url))
        assert migrate(opens(url), "postgres", folder) == []
        assert tables(opens(url)) == before

    def test_a_failure_rolls_back_all(self, url: str, folder: Path) -> None:
        """The good ones before it as well: the tables are as they were."""
        (folder / "tables/9000_bad.sql").write_text(
            "create table good (id integer); select no_such()"
        )
        with pytest.raises(psycopg.errors.UndefinedFunction):
            migrate(opens(url), "postgres", folder)
        assert tables(opens(url)) == set()
        (folder / "tables/9000_bad.sql").unlink()
        assert migrate(opens(url), "postgres", folder) == NAMES

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
            migrate(opens(url), "postgres", folder, deadline=Deadline.after(3))
        assert tables(opens(url)) == set()

    def test_two_runners_at_once(self, url: str) -> None:
        """One of them does it, the other waits and finds nothing to do."""
        with ThreadPoolExecutor(3) as pool:
            runs = list(pool.map(lambda _: migrate(opens(url), "postgres"), range(3)))
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
            return migrate(opens(url), "postgres", folder)

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


class TestGrants:
    @pytest.fixture
    def app(self, url: str) -> Iterator[Connect]:
        """Migrated, and opened as the role of the functions."""
        role = f"billing_app_{uuid4().hex[:8]}"
        with opens(url)() as owner:
            owner.execute(f"create role {role} login password 'x'")
        migrate(opens(url), role)
        yield opens(url, user=role, password="x")
        with opens(url)() as owner:
            owner.execute(f"drop owned by {role}")
            owner.execute(f"drop role {role}")

    def test_rows_of_every_table(self, app: Connect) -> None:
        """Reading and writing, sequences included; also tables of a later migration."""
        with app() as connection:
            for table in tables(app) - {"schema_migrations"}:
                connection.execute(f"select 1 from {table}")  # noqa: S608
                connection.execute(f"delete from {table}")  # noqa: S608
            connection.execute(
                "insert into users (id, email, created_at) values ('usr_1', 'a@b.c', now())"
            )
            connection.execute(
                "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
                " values ('usr_1', 'sub_1', now(), now() + interval '1 day')"
            )
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
        ],
    )
    def test_nothing_more(self, app: Connect, statement: str) -> None:
        """A function that was taken over cannot change the tables, nor what is known of them."""
        with app() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
