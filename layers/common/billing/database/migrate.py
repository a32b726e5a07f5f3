"""Brings the tables up to date: forward only, all or nothing, one runner at a time.

The folder holds two kinds of files. The numbered ones in `tables/` change tables: each is applied
once and must never change afterwards. Those in `routines/` hold functions, views and triggers,
written as `create or replace`: all of them are applied again whenever any of them was changed,
added, renamed or removed, so the database runs the routines that can be read here.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from billing.database.connection import Connection, keep_the_row_out
from billing.deadline import Deadline

# Any constant of our own: every runner of this project takes the same lock.
_LOCK = 7_262_815_501
# For a table that is in use. Longer, and all who come after us would wait as well.
_LOCK_WAIT_MS = 15_000
# Between two statements nothing is waited for: a runner that pauses has been ended.
_IDLE_MS = 30_000
_GRACE_MS = 1_000
_TRANSACTION_TIMEOUT = 170_000  # the first server that has it
# The row of `schema_migrations` that keeps one digest for the whole folder of routines.
_ROUTINES = "routines"


class MigrationChanged(Exception):
    """The database was made by numbered files that are not the ones of this code.

    Either an applied file has another text now (write a new file instead), or the database has a
    file that this code does not have, although this code has later ones.
    """


def migrate(
    connect: Callable[[], Connection],
    app_role: str,
    folder: Path | None = None,
    *,
    deadline: Deadline | None = None,
) -> list[str]:
    """Applies what is missing, as the owner of the tables; returns the names applied.

    Names are those of numbered files, and `routines` where the routines were applied.

    Everything happens in one transaction, so a failure leaves the tables as they were. Two
    runners at once are serialised by an advisory lock that ends with the transaction, even when
    the process is killed. A database that is ahead of this code is left alone, routines included,
    so rolling back a deployment succeeds. Afterwards `app_role` may read and write rows and nothing
    more.

    A statement that is under way at `deadline` is ended by the database: a statement that outlived
    its runner would keep its locks. Without a deadline a statement may take for ever.

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
            ahead = _ahead(done, [file.name for file in files])
            applied = [file.name for file in files if _apply(connection, file, done, deadline)]
            if not ahead:
                _limit(connection, deadline)
                applied += _apply_routines(connection, folder / "routines", done)
            _grant(connection, app_role)
    except psycopg.Error as error:
        keep_the_row_out(error)
        raise
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


def _ahead(done: Mapping[str, str], names: Sequence[str]) -> bool:
    """Whether the database has numbered files from after the last of `names`.

    Raises MigrationChanged where it has one from before: then these are not its files at all.
    """
    unknown = sorted(done.keys() - {_ROUTINES, *names})
    if unknown and unknown[0] < max(names, default=""):
        raise MigrationChanged(f"{unknown[0]} was applied and is not among these migrations.")
    return bool(unknown)


def _apply(
    connection: Connection, file: Path, done: Mapping[str, str], deadline: Deadline | None
) -> bool:
    text = file.read_text(encoding="utf-8")
    if file.name in done:
        if done[file.name] != _digest(text):
            raise MigrationChanged(f"{file.name} was changed after it had been applied.")
        return False
    _limit(connection, deadline)
    connection.execute(text)
    _note(connection, file.name, text)
    return True


def _apply_routines(connection: Connection, folder: Path, done: Mapping[str, str]) -> list[str]:
    """All routines or none: a rollback must also set back a routine that moved to another file."""
    files = sorted(folder.glob("*.sql"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    # With the names, though no routine depends on them: what was applied can then be told exactly.
    whole = "".join(f"-- {file.name}\n{text}" for file, text in zip(files, texts, strict=True))
    if done.get(_ROUTINES) == _digest(whole):
        return []
    # Routines may call each other, in whichever order they are made.
    connection.execute("set local check_function_bodies = off")
    for text in texts:
        connection.execute(text)
    _note(connection, _ROUTINES, whole)
    return [_ROUTINES]


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
