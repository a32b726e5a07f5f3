"""The promise between two releases: what the older one sends works on the tables of the newer."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from billing.database.migrate import migrate
from deploy.build_id import ROOT
from deploy.errors import DeployError
from deploy.release import (
    BILLING,
    RELEASES,
    broken,
    check_version,
    last,
    main,
    record,
    statements,
)
from local.openapi.schema_changes import recorded
from tests.integration.billing.database.test_migrate import Connect, opens, url  # noqa: F401 - a fixture

TABLE = "create table things (id bigint primary key, name text not null)"
ROUTINES = """
create or replace view named_things as select id, name from things;
create or replace function count_things(p_name text, p_least bigint) returns bigint
language plpgsql as $$ begin
    return (select count(*) from named_things where name = p_name and id >= p_least);
end $$;
"""
STATEMENTS = """
-- name: count
select count_things(%(name)s, %(least)s) as things

-- name: add
insert into things (id, name) values (%(id)s, %(name)s) returning id

-- name: like
select id from things where name like '%%' || %(name)s || '%%'
"""

Billing = Callable[..., Path]


@pytest.fixture
def connect(url: str) -> Connect:  # noqa: F811
    return opens(url)


@pytest.fixture
def billing(tmp_path: Path) -> Billing:
    """Writes a small layer: one table, one routine, three statements; keywords change its texts."""

    def make(
        folder: str = "today",
        *,
        routines: str = ROUTINES,
        sent: str = STATEMENTS,
        table: str = TABLE,
        **tables: str,
    ) -> Path:
        place = tmp_path / folder
        files = {
            "database/tables/0001_things.sql": table,
            "database/routines/things.sql": routines,
            "things/counting.sql": sent,
            "things/counting.py": "pass",
        } | {f"database/tables/{name}.sql": text for name, text in tables.items()}
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)
        return place

    return make


@pytest.fixture
def release(billing: Billing, tmp_path: Path, connect: Connect) -> Path:
    """A recorded release of the small layer; the database is empty again."""
    target = tmp_path / "releases/0.1.0"
    assert record(billing("released"), target, connect) == 3
    with connect() as connection:
        connection.execute("drop schema public cascade; create schema public")
    return target


class TestRecord:
    def test_what_is_kept(self, release: Path) -> None:
        """The SQL and nothing else, with the types as Postgres found them."""
        files = {p.relative_to(release).as_posix() for p in release.rglob("*") if p.is_file()}
        assert files == {
            "database/tables/0001_things.sql",
            "database/routines/things.sql",
            "things/counting.sql",
            "signatures.json",
        }
        assert '"least": "bigint"' in (release / "signatures.json").read_text()
        assert [each.name for each in statements(release)] == [
            "things/counting.sql count",
            "things/counting.sql add",
            "things/counting.sql like",
        ]
        assert (
            statements(release)[2].text == "select id from things where name like '%' || $1 || '%'"
        )

    def test_a_statement_that_does_not_fit(
        self, billing: Billing, tmp_path: Path, connect: Connect
    ) -> None:
        """Nothing is recorded."""
        wrong = billing(sent="-- name: wrong\nselect nothing from things")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            record(wrong, tmp_path / "releases/0.2.0", connect)
        assert last(tmp_path / "releases") is None

    def test_the_last_one(self, tmp_path: Path) -> None:
        """By number: 0.10.0 is newer than 0.9.1."""
        assert last(tmp_path) is None
        for name in ("0.9.1", "0.10.0", "0.2.0"):
            (tmp_path / name).mkdir()
        assert last(tmp_path) == tmp_path / "0.10.0"


class TestPromise:
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({}, id="nothing"),
            pytest.param(
                {
                    "routines": ROUTINES.replace("count(*)", "count(*) + 1"),
                    "0002_more": "alter table things add column more text",
                },
                id="a column and another answer",
            ),
            pytest.param(
                {
                    "routines": ROUTINES
                    + "create or replace function count_things_2(p_name text) returns bigint"
                    " language sql as 'select count_things(p_name, 0)'",
                    "sent": "-- name: count\nselect count_things_2(%(name)s) as things",
                },
                id="a versioned name beside the old one",
            ),
        ],
    )
    def test_kept(
        self, release: Path, billing: Billing, connect: Connect, change: dict[str, str]
    ) -> None:
        assert broken(release, billing(**change), connect) == []

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            pytest.param(
                {
                    "routines": "drop function if exists count_things(text, bigint);"
                    + ROUTINES.replace("p_least bigint", "p_least bigint, p_most bigint"),
                    "sent": STATEMENTS.replace("%(least)s)", "%(least)s, 9)"),
                },
                "count: function count_things(unknown, unknown) does not exist",
                id="a changed signature",
            ),
            pytest.param(
                {"routines": ROUTINES.replace("p_least bigint", "p_least integer")},
                "count: function count_things(unknown, unknown) is not unique",
                id="an overload that makes the old call ambiguous",
            ),
            pytest.param(
                {
                    "routines": "drop function if exists count_things(text, bigint);"
                    + ROUTINES.replace("returns bigint", "returns text")
                },
                "count: returns the columns {'things': 'text'} instead of {'things': 'bigint'}",
                id="another type of answer",
            ),
            pytest.param(
                {"0002_less": "alter table things rename column name to label",
                 "routines": ROUTINES.replace(", name from", ", label as name from"),
                 "sent": STATEMENTS.replace("things (id, name)", "things (id, label)")
                                   .replace("where name like", "where label like")},
                'add: column "name" of relation "things" does not exist',
                id="a renamed column",
            ),
            pytest.param(
                {"0002_strict": "alter table things add column more text not null",
                 "sent": STATEMENTS.replace("(id, name) values (%(id)s, %(name)s",
                                            "(id, name, more) values (%(id)s, %(name)s, 'x'")},
                "add: fails when it runs: null value in column \"more\"",
                id="a column the old code does not fill",
            ),
            pytest.param(
                {"routines": ROUTINES.replace("from named_things", "from no_things")},
                'count: fails when it runs: relation "no_things" does not exist',
                id="a body that fails",
            ),
            pytest.param(
                {"routines": ROUTINES.replace("select id, name", "select id, name, 1 as one")},
                "rolled back: the migrations fail: cannot drop columns from view",
                id="a view that the older release cannot set back",
            ),
            pytest.param(
                {"table": TABLE + "; select 1"},
                "upgraded: the migrations fail: 0001_things.sql was changed",
                id="a released file that was edited",
            ),
        ],
    )  # fmt: skip
    def test_broken(
        self,
        release: Path,
        billing: Billing,
        connect: Connect,
        change: dict[str, str],
        problem: str,
    ) -> None:
        found = broken(release, billing(**change), connect)
        assert any(problem in each for each in found), found

    def test_the_last_release(self, connect: Connect) -> None:
        """The code of today keeps it."""
        release = last(ROOT / RELEASES)
        if release is None:
            pytest.skip("No release has been recorded yet.")
        assert broken(release, BILLING, connect) == []

    def test_a_release_of_today(self, connect: Connect, tmp_path: Path) -> None:
        """Would be recorded, and kept by the very same code: every statement parses and runs."""
        target = tmp_path / "releases/0.1.0"
        assert record(BILLING, target, connect) > 100
        with connect() as connection:
            connection.execute("drop schema public cascade; create schema public")
        assert broken(target, BILLING, connect) == []


class TestAColumnMore:
    def test_under_every_warm_statement(self, connect: Connect) -> None:
        """A migration adds a column to each table while a function has everything prepared."""
        migrate(connect, (), BILLING / "database")
        with connect() as warm, connect() as other:
            for n, each in enumerate(statements(BILLING)):
                warm.execute(f"prepare s{n} as {each.text}".encode())
                self.run(warm, n, len(each.parameters))
            tables = other.execute(
                "select tablename as name from pg_tables where schemaname = 'public'"
            ).fetchall()
            assert len(tables) > 15
            for table in tables:
                other.execute(f"alter table {table['name']} add column more integer")
            for n, each in enumerate(statements(BILLING)):
                self.run(warm, n, len(each.parameters))

    @staticmethod
    def run(warm: psycopg.Connection[dict[str, object]], n: int, parameters: int) -> None:
        """Whatever it answers, but no error of anything else than the data."""
        given = f"({', '.join(['null'] * parameters)})" if parameters else ""
        try:
            warm.execute(f"begin; execute s{n}{given}".encode())
        except (psycopg.DataError, psycopg.IntegrityError):
            pass
        finally:
            warm.execute("rollback")


class TestCommand:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """A committed project of version 0.1.0."""
        root = tmp_path / "project"
        root.mkdir()
        (root / "pyproject.toml").write_text('[project]\nversion = "0.1.0"\n')
        (root / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (2026-09-01)\n")
        git(root, "init", "-q")
        commit(root)
        return root

    def test_a_clean_tree_of_that_version(self, project: Path) -> None:
        check_version(project, "0.1.0")

    @pytest.mark.parametrize(
        ("version", "told"),
        [
            ("", "make release VERSION="),
            ("v0.1.0", "make release VERSION="),
            ("0.2.0", "pyproject.toml has version 0.1.0, not 0.2.0"),
        ],
    )
    def test_another_version(self, project: Path, version: str, told: str) -> None:
        with pytest.raises(DeployError, match=told):
            check_version(project, version)

    def test_an_unwritten_changelog(self, project: Path) -> None:
        (project / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n## 0.1.01\n")
        commit(project)
        with pytest.raises(DeployError, match=r"no section 0\.1\.0"):
            check_version(project, "0.1.0")

    @pytest.mark.parametrize("file", ["pyproject.toml", "new.sql"])
    def test_a_tree_with_changes(self, project: Path, file: str) -> None:
        """Changed or new: what is recorded would not be what is deployed."""
        with (project / file).open("a") as text:
            text.write("\n# more\n")
        with pytest.raises(DeployError, match="1 files differ"):
            check_version(project, "0.1.0")

    def test_twice(self, project: Path) -> None:
        (project / "releases/0.1.0").mkdir(parents=True)
        with pytest.raises(DeployError, match="already recorded"):
            check_version(project, "0.1.0")

    def test_outside_of_git(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_DIR", str(project / "nowhere"))
        with pytest.raises(DeployError, match="not a git repository"):
            check_version(project, "0.1.0")

    def test_the_whole_way(
        self, project: Path, billing: Billing, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Recorded on a Postgres of its own; and what the next version is then held against."""
        layer = project / BILLING.relative_to(ROOT)
        layer.parent.mkdir(parents=True)
        billing().rename(layer)
        schema = {"$id": "urn:usage-billing:event:access.granted:1"}
        (project / "docs/events").mkdir(parents=True)
        (project / "docs/events/access.granted.json").write_text(json.dumps(schema))
        commit(project)
        assert main(["0.1.0"], root=project) == 0
        assert "3 statements recorded in releases/0.1.0" in capsys.readouterr().out
        assert (project / "releases/0.1.0/signatures.json").exists()
        assert recorded(project / "releases") == {"access.granted": schema}
        assert main(["0.1.0"], root=project) == 1
        assert "already recorded" in capsys.readouterr().err


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True, timeout=60)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    git(root, *who, "commit", "-qm", "All")
