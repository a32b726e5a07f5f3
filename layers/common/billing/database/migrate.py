"""Brings the tables up to date: forward only, all or nothing, one runner at a time.

Two kinds of files. The numbered ones in `tables/` change tables: each is applied once and never
changes afterwards. Those in `routines/` hold functions and views, written as `create or replace`
and applied again whenever their text has changed, so that what runs is what can be read here.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from psycopg import sql

from billing.database.connection import Connection
from billing.deadline import Deadline

# Any constant of our own: every runner of this project takes the same lock.
_LOCK = 7_262_815_501
# For a table that is in use. Longer, and all who come after us would wait as well.
_LOCK_WAIT_MS = 15_000
# Between two statements nothing is waited for: a runner that pauses has been ended.
_IDLE_MS = 30_000
_GRACE_MS = 1_000
_TRANSACTION_TIMEOUT = 170_000  # the first server that has it
# How a numbered file owns up to an earlier text that left the same tables behind.
_WAS = re.compile(r"^-- was: ([0-9a-f]{64})$", re.MULTILINE)


class MigrationChanged(Exception):
    """A migration that was applied reads differently now: write a new one instead."""


def migrate(
    connect: Callable[[], Connection],
    app_role: str,
    folder: Path | None = None,
    *,
    deadline: Deadline | None = None,
) -> list[str]:
    """Applies what is missing, as the owner of the tables; returns the names applied.

    Everything happens in one transaction, so a failure leaves the tables as they were. Two
    runners at once are serialised by an advisory lock that ends with the transaction, even when
    the process is killed. A database that is ahead of this code is left alone, routines included,
    so rolling back a deployment succeeds. Afterwards `app_role` may read and write rows and nothing
    more.

    A statement that is under way at `deadline` is ended by the database: with nobody left to hear
    of it, it would go on and keep its locks. Without one a statement may take for ever.

    Raises MigrationChanged, or psycopg's error of the statement that failed.
    """
    folder = folder or Path(__file__).parent
    files = sorted((folder / "tables").glob("*.sql"))
    connection = connect()
    try:
        with connection.transaction():
            _limit(connection, deadline)
            connection.execute(f"set local idle_in_transaction_session_timeout = {_IDLE_MS}")
            # Waits for as long as there is time: who comes second must not call a failure what is
            # going well.
            connection.execute("set local lock_timeout = 0")
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            connection.execute(f"set local lock_timeout = {_LOCK_WAIT_MS}")
            connection.execute(
                "create table if not exists schema_migrations ("
                " name text primary key, sha256 text not null,"
                " applied_at timestamptz not null default now())"
            )
            done = {
                row["name"]: row["sha256"]
                for row in connection.execute("select name, sha256 from schema_migrations")
            }
            ahead = {n for n in done if "/" not in n} - {file.name for file in files}
            applied = [file.name for file in files if _apply(connection, file, done, deadline)]
            if not ahead:
                _limit(connection, deadline)
                applied += _apply_routines(connection, folder / "routines", done)
            _grant(connection, app_role)
    finally:
        connection.close()
    return applied


def _limit(connection: Connection, deadline: Deadline | None) -> None:
    """What statements from now on may take; 0, in Postgres, is no limit."""
    milliseconds = max(1, int(deadline.remaining() * 1000)) if deadline else 0
    connection.execute(f"set local statement_timeout = {milliseconds}")
    # It counts anew for each statement of a file. This one does not, nor when it is set again; it
    # leaves the other the time to give a better reason.
    if deadline and connection.info.server_version >= _TRANSACTION_TIMEOUT:
        connection.execute(f"set local transaction_timeout = {milliseconds + _GRACE_MS}")


def _apply(
    connection: Connection, file: Path, done: dict[str, str], deadline: Deadline | None
) -> bool:
    text = file.read_text(encoding="utf-8")
    if file.name in done:
        if done[file.name] not in {_digest(text), *_WAS.findall(text)}:
            raise MigrationChanged(f"{file.name} was changed after it had been applied.")
        return False
    _limit(connection, deadline)
    connection.execute(text)
    _note(connection, file.name, text)
    return True


def _apply_routines(connection: Connection, folder: Path, done: dict[str, str]) -> list[str]:
    texts = {f"routines/{file.name}": file.read_text("utf-8") for file in folder.glob("*.sql")}
    changed = sorted(name for name, text in texts.items() if done.get(name) != _digest(text))
    # They may call each other, in whichever order they are made.
    connection.execute("set local check_function_bodies = off")
    for name in changed:
        connection.execute(texts[name])
        _note(connection, name, texts[name])
    return changed


def _note(connection: Connection, name: str, text: str) -> None:
    connection.execute(
        "insert into schema_migrations (name, sha256) values (%s, %s)"
        " on conflict (name) do update set sha256 = excluded.sha256, applied_at = now()",
        [name, _digest(text)],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _grant(connection: Connection, app_role: str) -> None:
    owner = connection.info.user
    if app_role == owner:
        return
    role = sql.Identifier(app_role)
    for statement in (
        "grant usage on schema public to {}",
        "grant select, insert, update, delete on all tables in schema public to {}",
        "grant usage, select on all sequences in schema public to {}",
        "revoke insert, update, delete on schema_migrations from {}",
    ):
        connection.execute(sql.SQL(statement).format(role))
