"""`make release`: records which statements the functions of a release send to the database, and
the schemas of its outgoing events.

While a release is deployed, functions of the last release still run, on newer tables and routines.
`record` keeps copies of the numbered files, routines and statements in `releases/<version>`, with
the types of every statement's parameters and columns. `python -m local.openapi` checks today's
schemas against the recorded ones (`local/openapi/schema_changes.py`).

`broken` checks today's code against such a record. It creates the release's database, migrates it
to today's code, rolls it back and migrates it again. After each step it prepares and runs the
statements that have to work at that point.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.pq import ExecStatus
from psycopg.rows import dict_row

from billing.database.connection import Connection
from billing.database.migrate import MigrationChanged, migrate
from billing.database.statements import Statements
from deploy.build_id import ROOT
from deploy.errors import DeployError
from local.openapi import schema_changes
from local.postgres import EmbeddedPostgres

BILLING = ROOT / "layers" / "common" / "billing"
RELEASES = "releases"

Connect = Callable[[], Connection]

_PARAMETER = re.compile(r"%\((\w+)\)s|%(%)")
# A value of each type. The statements run with these values in an empty database.
_SAMPLES = {
    "bigint": "1",
    "boolean": "true",
    "bytea": "\\x00",
    "double precision": "1",
    "integer": "1",
    "interval": "1 minute",
    "jsonb": "{}",
    "numeric": "1",
    "text": "x",
    "timestamp with time zone": "2026-09-01T00:00:00Z",
}
# SQLSTATE classes of errors that concern the values and not the statement: data, constraints,
# `raise exception`.
_OF_THE_VALUES = ("22", "23", "P0")
_EMPTY_COLUMN = "23502"


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement in the form in which psycopg sends it: `text` has $1, $2, ... for
    `parameters`.
    """

    name: str  # the file and the statement's name in it: usage/accepting.sql accept
    text: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The types of a statement's parameters and of its columns, as Postgres names them."""

    parameters: dict[str, str]
    columns: dict[str, str]


def statements(folder: Path) -> list[Statement]:
    """Returns every statement in the `.sql` files below a folder, in the order of their names.

    The folders `database/tables` and `database/routines` hold no statements.
    """
    found = []
    for file in sorted(folder.rglob("*.sql")):
        place = file.relative_to(folder)
        if place.parts[:2] in {("database", "tables"), ("database", "routines")}:
            continue
        for name, text in Statements(str(file)).texts.items():
            found.append(_numbered(f"{place.as_posix()} {name}", text))
    return found


def _numbered(name: str, text: str) -> Statement:
    parameters: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[2]:
            return "%"
        return f"${parameters.setdefault(match[1], len(parameters) + 1)}"

    return Statement(name, _PARAMETER.sub(number, text), tuple(parameters))


def describe(
    connection: Connection, statement: Statement, types: Sequence[str] | None = None
) -> Signature:
    """Returns the statement's types. Postgres parses the statement and does not run it.

    The parameters have `types`, or the types that Postgres infers. Raises psycopg.Error if the
    statement cannot be parsed.
    """
    oids = [_oid(connection, each) for each in types] if types is not None else None
    wire = connection.pgconn
    made = wire.prepare(b"", statement.text.encode(), oids)
    if made.status != ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(made)
    found = wire.describe_prepared(b"")
    return Signature(
        {
            parameter: _type_name(connection, found.param_type(n))
            for n, parameter in enumerate(statement.parameters)
        },
        {
            (found.fname(n) or b"").decode(): _type_name(connection, found.ftype(n))
            for n in range(found.nfields)
        },
    )


def _oid(connection: Connection, name: str) -> int:
    row = connection.execute("select %s::regtype::oid::bigint as oid", [name]).fetchone()
    assert row is not None  # noqa: S101 - it has no condition
    return int(row["oid"])


def _type_name(connection: Connection, oid: int) -> str:
    row = connection.execute("select format_type(%s::oid, null) as name", [oid]).fetchone()
    assert row is not None  # noqa: S101 - it has no condition
    return str(row["name"])


def record(billing: Path, target: Path, connect: Connect, *, schemas: Path | None = None) -> int:
    """Records the code in `billing` as a release, in `target`. Returns the number of statements.

    `schemas` is the folder with the schemas of outgoing events. If it is None, none are recorded.

    `connect` opens an empty database, which this function fills. Raises psycopg.Error if a
    statement does not work with the code's own tables and routines. `target` is unchanged in that
    case.
    """
    migrate(connect, (), billing / "database")
    signatures: dict[str, dict[str, dict[str, str]]] = {}
    with connect() as connection:
        for each in statements(billing):
            signature = describe(connection, each)
            signatures[each.name] = {
                "parameters": signature.parameters,
                "columns": signature.columns,
            }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".release-") as place:
        draft = Path(place) / "release"
        shutil.copytree(billing, draft, ignore=_all_but_sql)
        text = json.dumps(signatures, indent=2) + "\n"
        (draft / "signatures.json").write_text(text, encoding="utf-8")
        if schemas is not None:
            shutil.copytree(schemas, draft / schema_changes.RECORDED)
        draft.rename(target)
    return len(signatures)


def _all_but_sql(place: str, names: list[str]) -> set[str]:
    """Returns names that a copy leaves out: files that are not SQL, and folders without SQL
    files.
    """
    folder = Path(place)
    return {
        name
        for name in names
        if not (
            any((folder / name).rglob("*.sql"))
            if (folder / name).is_dir()
            else name.endswith(".sql")
        )
    }


def last(releases: Path) -> Path | None:
    """The folder of the newest recorded release, or None."""
    found = [each for each in releases.glob("*.*.*") if each.is_dir()]
    return max(found, key=lambda each: tuple(map(int, each.name.split("."))), default=None)


def broken(release: Path, billing: Path, connect: Connect) -> list[str]:
    """Returns why the code in `billing` cannot follow a recorded release, one sentence per reason.

    `connect` opens an empty database, which this function fills.
    """
    return list(_broken(release, billing, connect))


def _broken(release: Path, billing: Path, connect: Connect) -> Iterator[str]:
    steps = (
        ("new", release, release),  # checks the record itself
        ("upgraded", billing, release),
        ("rolled back", release, release),
        ("upgraded again", billing, billing),
    )
    signatures = json.loads((release / "signatures.json").read_text(encoding="utf-8"))
    for step, code, sent_by in steps:
        try:
            migrate(connect, (), code / "database")
        except (psycopg.Error, MigrationChanged) as error:
            yield f"{step}: the migrations fail: {error}"
            return
        with connect() as connection:
            for each in statements(sent_by):
                known = signatures[each.name] if sent_by is release else None
                signature = Signature(known["parameters"], known["columns"]) if known else None
                for problem in _problems(connection, each, signature):
                    yield f"{step}: {each.name}: {problem}"


def _problems(
    connection: Connection, statement: Statement, recorded: Signature | None
) -> Iterator[str]:
    """Yields the reasons why a statement does not work as it was recorded."""
    try:
        # A function sends texts without a type, and other values with their type. Both have to
        # work.
        found = describe(connection, statement)
        if recorded is not None:
            found = describe(connection, statement, list(recorded.parameters.values()))
    except psycopg.Error as error:
        yield str(error.diag.message_primary or error)
        return
    if recorded is not None and found.columns != recorded.columns:
        yield f"returns the columns {found.columns} instead of {recorded.columns}"
    samples = [_sample(each) for each in found.parameters.values()]
    yield from _run(connection, statement, found, samples)
    yield from _run(connection, statement, found, [None] * len(samples))


def _sample(type_name: str) -> str | None:
    return "{}" if type_name.endswith("[]") else _SAMPLES.get(type_name)


def _run(
    connection: Connection,
    statement: Statement,
    signature: Signature,
    values: Sequence[str | None],
) -> Iterator[str]:
    """Runs a statement and rolls it back. Yields what is wrong with the statement."""
    sent = [None if each is None else each.encode() for each in values]
    types = [_oid(connection, each) for each in signature.parameters.values()]
    connection.execute("begin")
    connection.execute("set local statement_timeout = '10s'")
    answer = connection.pgconn.exec_params(statement.text.encode(), sent, types)
    connection.execute("rollback")
    if answer.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
        error = psycopg.errors.error_from_result(answer)
        # All parameters have a value. So if a column is null, the recorded statement does not fill
        # it.
        unknown_column = error.sqlstate == _EMPTY_COLUMN and None not in values
        if unknown_column or not (error.sqlstate or "").startswith(_OF_THE_VALUES):
            yield f"fails when it runs: {error.diag.message_primary}"


def check_version(root: Path, version: str) -> None:
    """Raises DeployError unless the tree has this version, is committed and is not recorded yet."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise DeployError("The version is missing. Run: make release VERSION=0.1.0")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if project["version"] != version:
        raise DeployError(
            f"pyproject.toml has version {project['version']}, not {version}. Change it first."
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE):
        raise DeployError(f"CHANGELOG.md has no section {version}. Write it first.")
    if (root / RELEASES / version).exists():
        raise DeployError(
            f"{RELEASES}/{version} is already recorded, and a release never changes. "
            "Use the next version."
        )
    if changes := _git(root, "status", "--porcelain"):
        raise DeployError(
            f"Commit first: {len(changes.splitlines())} files differ from the last commit. "
            "The code that is recorded must be the code that is deployed."
        )


def _git(root: Path, *arguments: str) -> str:
    program = shutil.which("git")
    if program is None:
        raise DeployError("git is not installed, so nobody can tell whether all is committed.")
    ran = subprocess.run(
        [program, *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    if ran.returncode != 0:
        raise DeployError(f"git {' '.join(arguments)}: {ran.stderr.strip()}")
    return ran.stdout


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Records a release of the project in `root`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description=__doc__)
    parser.add_argument("version", nargs="?", default="", help="the version in pyproject.toml")
    version = parser.parse_args(arguments).version
    try:
        check_version(root, version)
        with tempfile.TemporaryDirectory(prefix="release-") as place:
            Path(place).chmod(0o755)  # Postgres runs as another user where this runs as root
            with EmbeddedPostgres(Path(place), fast=True) as server:
                count = record(
                    root / BILLING.relative_to(ROOT),
                    root / RELEASES / version,
                    lambda: psycopg.connect(server.url(), autocommit=True, row_factory=dict_row),
                    schemas=root / "docs" / "events",
                )
    except (DeployError, psycopg.Error) as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    print(f"{count} statements recorded in {RELEASES}/{version}. Commit them, and tag that commit:")
    print(f"  git add {RELEASES}/{version} && git commit -m 'Record release {version}'")
    print(f"  git tag v{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
