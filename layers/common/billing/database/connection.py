"""The doorway to Postgres: one connection per environment, one statement per piece of work.

Every statement commits by itself (autocommit), so nothing is ever left open between invocations
or across a call to somebody else, and a connection pooler may stand in between. Every statement is
safe to run twice, so one that met a dead connection is run once more on a new one.

Errors that leave here hold no values: `str(error)` is Postgres' message without what it quotes, and
`place_of` gives the fields to log beside it.
"""

import re
import select
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from billing.config import DatabaseSettings
from billing.credentials.secrets import Secrets
from billing.errors import DatabaseUnavailable

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
Params = Mapping[str, Any] | Sequence[Any]

# The connection failed, not the statement: worth another one. 57P01..57P03 and 53300 are the
# server shutting down, starting up and out of connections. After a failover the old connection may
# live on at a server that only reads now.
_CONNECTION_LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
)
_NOT_THE_CONNECTION = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DiskFull,
)

# The lines of Postgres' context that name a routine and a place in it. Others quote values.
_IN_A_ROUTINE = re.compile(
    r"PL/pgSQL function (?:[\w.]+\([\w ,.\[\]]*\)|inline_code_block)"
    r" (?:line \d+ )?(?:at|during) [A-Za-z /]+"
    r"|SQL function \"[\w.]+\"(?: statement \d+| during [a-z ]+)"
)
# Errors of data (class 22) quote the data: `invalid input syntax for type date: "..."`.
_ERRORS_OF_DATA = "22"

# Whatever holds a statement up, the function still has time to say so: the webhook's has nine
# seconds in all.
_STATEMENT_SECONDS = 5


def connector(
    settings: DatabaseSettings, secrets: Secrets, application: str, *, secret_id: str | None = None
) -> Callable[[], Connection]:
    """Opens connections as the role a secret names, by default the functions' own.

    The secret is read again after a refused login: it may have been rotated. And between the
    database's learning the next password and the secret's naming it, the next one is tried.
    """
    login = secret_id or settings.secret_id

    def connect() -> Connection:
        try:
            return _connect(settings, secrets.login(login), application)
        except psycopg.OperationalError as error:
            if not _is_refused_login(error):
                raise
        current = secrets.login(login, fresh=True)
        try:
            return _connect(settings, current, application)
        except psycopg.OperationalError as error:
            next_one = secrets.pending(login) if _is_refused_login(error) else None
            if next_one in (None, current):
                raise
        return _connect(settings, next_one, application)

    return connect


def _is_refused_login(error: psycopg.OperationalError) -> bool:
    """Servers and proxies put it in different words, and libpq keeps no code of it."""
    return any(word in str(error) for word in ("password", "credentials"))


def _connect(settings: DatabaseSettings, login: Mapping[str, Any], application: str) -> Connection:
    return psycopg.connect(
        host=settings.host,
        port=settings.port,
        dbname=settings.name,
        user=str(login["username"]),
        password=str(login["password"]),
        sslmode=settings.sslmode,
        # Only where it is to be verified: with a root at hand libpq verifies for "require" too.
        sslrootcert=_ca_file(settings.ca) if settings.sslmode.startswith("verify") else None,
        application_name=application,
        connect_timeout=3,
        # Without it a connection that was cut silently hangs past the function's own time limit.
        tcp_user_timeout=4000,
        autocommit=True,
        prepare_threshold=None if settings.pooled else 1,
        options=None if settings.pooled else f"-c statement_timeout={_STATEMENT_SECONDS}s",
        row_factory=dict_row,
    )


def _ca_file(ca: str) -> str:
    if ca == "aws":
        return str(Path(__file__).with_name("ca.pem"))
    import certifi  # late: only for databases outside of AWS

    return certifi.where()


class Database:
    """Runs statements. Raises DatabaseUnavailable when Postgres cannot be reached.

    Errors of the statement itself (constraints, time-outs) come through as psycopg's.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def all(self, statement: str, params: Params | None = None) -> list[Row]:
        """All rows the statement returns."""
        try:
            return self._run(self._usable(), statement, params)
        except _CONNECTION_LOST as error:
            self.close()
            if isinstance(error, _NOT_THE_CONNECTION):
                raise
        except psycopg.errors.FeatureNotSupported as error:
            if not _is_outdated_plan(error):
                raise
            self.close()  # and with it everything it has prepared
        try:
            return self._run(self._usable(), statement, params)
        except _CONNECTION_LOST as error:
            self.close()
            if isinstance(error, _NOT_THE_CONNECTION):
                raise
            _count_unavailable()
            raise DatabaseUnavailable from error

    def one(self, statement: str, params: Params | None = None) -> Row | None:
        """The first row, or None."""
        rows = self.all(statement, params)
        return rows[0] if rows else None

    def value(self, statement: str, params: Params | None = None) -> Any:
        """The first column of the first row, or None."""
        row = self.one(statement, params)
        return next(iter(row.values())) if row else None

    def execute(self, statement: str, params: Params | None = None) -> None:
        """Runs a statement whose answer does not matter."""
        self.all(statement, params)

    def close(self) -> None:
        """Drops the connection; the next statement opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _usable(self) -> Connection:
        if self._connection is not None and _is_stale(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    @staticmethod
    def _run(connection: Connection, statement: str, params: Params | None) -> list[Row]:
        try:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            keep_the_row_out(error)
            raise


def place_of(error: BaseException) -> dict[str, Any]:
    """Where in the database an error, or the error that caused it, was raised: fields for a log.

    `sqlstate`; `constraint`, where one was violated; `routine`, where one raised the error: lines
    like `PL/pgSQL function name(types) line N at ...`, the innermost first. No field holds a value
    of a row. Empty where Postgres raised nothing.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, psycopg.Error):
        found = found.__cause__
    if found is None:
        return {}
    lines = (found.diag.context or "").splitlines()
    fields = {
        "sqlstate": found.sqlstate,
        "constraint": found.diag.constraint_name,
        "routine": [line for line in lines if _IN_A_ROUTINE.fullmatch(line)],
    }
    return {name: value for name, value in fields.items() if value}


def keep_the_row_out(error: psycopg.Error) -> None:
    """Leaves an error its first line. Postgres quotes the failing row, and errors go into logs."""
    if message := error.diag.message_primary:
        if (error.sqlstate or "").startswith(_ERRORS_OF_DATA):
            message = re.sub(r'".*"', '"..."', message, flags=re.DOTALL)
        error.args = (message,)


def _is_outdated_plan(error: psycopg.Error) -> bool:
    """Whether a table changed under a prepared statement, which now has other columns.

    By the place in Postgres' source too: its messages may be in another language.
    """
    diag = error.diag
    return (
        diag.message_primary == "cached plan must not change result type"
        or diag.source_function == "RevalidateCachedQuery"
    )


def _count_unavailable() -> None:
    """One number for the whole stack: its database is the same for every function."""
    # Late: it costs every cold start, and is for the rare one.
    from billing import metric

    metric.count(metric.Metric.DATABASE_UNAVAILABLE, service="database")


def _is_stale(connection: Connection) -> bool:
    """Whether the server hung up while the environment was frozen.

    An idle connection has nothing to read; a readable one holds the server's goodbye. This costs
    2 us where a ping costs 69.
    """
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        return True
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return bool(readable)
