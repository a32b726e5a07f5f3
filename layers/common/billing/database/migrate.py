"""Brings the database up to date: forward only, all or nothing, one runner at a time.

There are two kinds of files. The numbered files in `tables/` change tables: each is applied once
and must never change afterwards. The files in `routines/` contain functions, views and triggers,
written as `create or replace`. If any of these files was changed, added, renamed or removed, all
of them are applied again, so the database runs exactly the routines in the folder.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psycopg

from billing.database import privileges
from billing.database.connection import Connection, keep_the_row_out
from billing.database.privileges import Privileges
from billing.deadline import Deadline

# The number of the advisory lock that every runner of this project takes. Any constant would do.
_LOCK = 7_262_815_501
# How long a statement waits for a table that is in use. All later statements on that table wait
# behind this one, so a longer wait would delay them as well.
_LOCK_WAIT_MS = 15_000
# A runner never waits this long between two statements, so a runner that does has been killed.
_IDLE_MS = 30_000
_GRACE_MS = 1_000
_TRANSACTION_TIMEOUT = 170_000  # the first server version that has transaction_timeout
# The name of the row in `schema_migrations` that has one digest for all files of routines.
_ROUTINES = "routines"


class MigrationChanged(Exception):
    """The numbered files that the database has applied are not those of this code.

    Either an applied file was changed later (write a new file instead), or the database has applied
    a file that this code does not have, although this code has later files.
    """


def migrate(
    connect: Callable[[], Connection],
    roles: Iterable[tuple[str, Privileges]] = (),
    folder: Path | None = None,
    *,
    deadline: Deadline | None = None,
) -> list[str]:
    """Applies the missing files, as the owner of the tables. Returns the names of applied files.

    The names are those of numbered files, and `routines` if the routines were applied. `folder`
    contains `tables/` and `routines/`; the default is this module's folder.

    Everything happens in one transaction, so a failure leaves the database unchanged. If two
    runners run at once, the second waits for an advisory lock. The lock ends with the transaction,
    even if the first process is killed.

    If the database has numbered files that are newer than this code, nothing is applied, not even
    routines, so that a deployment can be rolled back. Afterwards each of `roles` (names in the
    database) has its privileges. It loses all others, unless the database is newer than this code.

    The database ends a statement that is still running at `deadline`, because a statement that
    outlives its runner would keep its locks. Without a deadline, a statement may take any time.

    Raises MigrationChanged, or psycopg's error of the statement that failed.
    """
    folder = folder or Path(__file__).parent
    files = sorted((folder / "tables").glob("*.sql"))
    connection = connect()
    try:
        with connection.transaction():
            _limit(connection, deadline)
            connection.execute(f"set local idle_in_transaction_session_timeout = {_IDLE_MS}")
            # Wait for the other runner until the deadline. If this runner gave up earlier, it would
            # report a failure although the other one may succeed.
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
            privileges.grant(connection, roles, only_more=ahead)
    except psycopg.Error as error:
        keep_the_row_out(error)
        raise
    finally:
        connection.close()
    return applied


def _limit(connection: Connection, deadline: Deadline | None) -> None:
    """Limits the following statements to the time left until `deadline`. None: no limit."""
    milliseconds = max(1, int(deadline.remaining() * 1000)) if deadline else 0  # 0 is no limit
    connection.execute(f"set local statement_timeout = {milliseconds}")
    # statement_timeout starts again with each statement of a file. transaction_timeout does not,
    # not even when it is set again. It is a second longer, so that statement_timeout ends the
    # statement first, because its error is clearer.
    if deadline and connection.info.server_version >= _TRANSACTION_TIMEOUT:
        connection.execute(f"set local transaction_timeout = {milliseconds + _GRACE_MS}")


def _ahead(done: Mapping[str, str], names: Sequence[str]) -> bool:
    """Returns whether the database has applied numbered files that come after the last of `names`.

    Raises MigrationChanged if the database has applied an unknown file that comes earlier, because
    the database was then built from other files.
    """
    unknown = sorted(done.keys() - {_ROUTINES, *names})
    if unknown and unknown[0] < max(names, default=""):
        raise MigrationChanged(
            f"{unknown[0]} was applied to the database, but this code has no such file."
        )
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
    """Applies all routines if any file changed. Returns `["routines"]` in that case, else [].

    Unchanged files are applied too: if a routine had moved to another file, a rollback must restore
    it as well.
    """
    files = sorted(folder.glob("*.sql"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    # No routine depends on the file names. They are part of the digest, so that renaming a file
    # changes it.
    whole = "".join(f"-- {file.name}\n{text}" for file, text in zip(files, texts, strict=True))
    if done.get(_ROUTINES) == _digest(whole):
        return []
    # Routines may call routines that are created later.
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
