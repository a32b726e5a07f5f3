"""Runs statements on Postgres, over one connection per Lambda environment.

Every statement commits by itself (autocommit). So no transaction stays open between invocations or
during a call to Commet, and a connection pooler may be used. Every statement may run twice: if the
connection turns out to be lost, the statement runs once more on a new connection.

Errors that leave this module contain no values of rows: `str(error)` is the first line of Postgres'
message, and `place_of` returns the fields to log beside the message.
"""

import re
import select
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from billing.config import DatabaseSettings
from billing.credentials.secrets import Secrets, name_secret
from billing.database.watchdog import Watchdog
from billing.errors import DatabaseUnavailable

Row = dict[str, Any]
Connection = psycopg.Connection[Row]
Params = Mapping[str, Any] | Sequence[Any]

# Errors of the connection and not of the statement: a new connection may work. OperationalError
# includes 57P01..57P03 and 53300: the server shuts down, starts up, or is out of connections. After
# a failover, the old connection may still be open to a server that has become read-only.
_CONNECTION_LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,
)
_NOT_THE_CONNECTION = (
    psycopg.errors.QueryCanceled,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.DiskFull,
)

# Matches the lines of Postgres' error context that name a routine and a line in it. Other lines may
# quote values of rows.
_IN_A_ROUTINE = re.compile(
    r"PL/pgSQL function (?:[\w.]+\([\w ,.\[\]]*\)|inline_code_block)"
    r" (?:line \d+ )?(?:at|during) [A-Za-z /]+"
    r"|SQL function \"[\w.]+\"(?: statement \d+| during [a-z ]+)"
)
# Messages of data errors (class 22) quote the data: `invalid input syntax for type date: "..."`.
# The quotation marks depend on the server's language.
_ERRORS_OF_DATA = "22"
_MARKS = '["\u00ab\u00bb\u201c\u201d\u201e\u2039\u203a\u300c\u300d]'
_QUOTED = re.compile(f"{_MARKS}.*{_MARKS}", re.DOTALL)

# After a statement has timed out, a function must still have time to answer: `webhook` has nine
# seconds in all.
_STATEMENT_SECONDS = 5
# Settings that change the meaning of statements. A role, a database or a server may have others.
SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "default_transaction_isolation": "read committed",
    "search_path": "public",
    "standard_conforming_strings": "on",
}
_OPTIONS = {"statement_timeout": f"{_STATEMENT_SECONDS}s", **SESSION}
# After this time without an answer, we cut the connection: a server or a pooler that has stopped
# enforces no limit itself.
_ANSWER_SECONDS = 6.0


def connector(
    settings: DatabaseSettings, secrets: Secrets, application: str, *, secret_id: str | None = None
) -> Callable[[], Connection]:
    """Returns a function that opens connections as the role that a secret names.

    `secret_id` names the secret; the default is the secret of the functions' own role.

    A password may be rotated at any time. So if a login fails, the function reads the secret again
    and, if the secret has changed, tries the new login. If the secret has a pending login, the
    function tries that one last, because a rotation gives the next password to the database before
    the secret names it as current.

    The returned function raises psycopg.OperationalError if no login works, if the server cannot be
    reached, or if a pooler gives us sessions with settings other than SESSION.
    """
    secret = secret_id or settings.secret_id

    def connect() -> Connection:
        tried = secrets.login(secret)
        try:
            return _connect(settings, tried, application)
        except psycopg.OperationalError as error:
            if not _gave_a_password(error):
                raise
            refusal = error
        for read in (partial(secrets.login, fresh=True), secrets.pending):
            login = read(secret)
            if login is not None and login != tried:
                tried = login
                try:
                    return _connect(settings, login, application)
                except psycopg.OperationalError as error:
                    refusal = error
        name_secret(refusal, secret)
        raise refusal

    return connect


def _gave_a_password(error: psycopg.OperationalError) -> bool:
    """Returns whether the server or a proxy asked for the password before the connection failed.

    If so, the password may be the reason. There is no better sign: libpq keeps no SQLSTATE of a
    failed login, and the text depends on the server's language and on the proxy.
    """
    return error.pgconn is not None and bool(error.pgconn.used_password)


def _connect(settings: DatabaseSettings, login: Mapping[str, Any], application: str) -> Connection:
    connection = psycopg.connect(
        host=settings.host,
        port=settings.port,
        dbname=settings.name,
        user=str(login["username"]),
        password=str(login["password"]),
        sslmode=settings.sslmode,
        # Named only for the sslmodes "verify-...": if a root certificate is named, libpq verifies
        # the server's certificate even with sslmode "require".
        sslrootcert=_ca_file(settings.ca) if settings.sslmode.startswith("verify") else None,
        application_name=application,
        connect_timeout=3,
        # In ms. Without this limit, a connection that was cut silently hangs past the function's
        # time limit.
        tcp_user_timeout=4000,
        # An environment may be thawed after hours, when a firewall has forgotten the connection.
        keepalives_idle=30,
        keepalives_interval=5,
        keepalives_count=3,
        autocommit=True,
        prepare_threshold=None if settings.pooled else 1,
        options=None if settings.pooled else _as_options(_OPTIONS),
        row_factory=dict_row,
    )
    if settings.pooled:
        _check_session(connection)
    return connection


def _as_options(values: Mapping[str, str]) -> str:
    """Returns the values in the form of libpq's `options`, with spaces escaped."""
    return " ".join(
        f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in values.items()
    )


def _check_session(connection: Connection) -> None:
    """Raises psycopg.OperationalError if the session's settings differ from SESSION.

    A pooler ignores `options`, so the settings have to be those of the role (docs/aws.md). One
    query at each connect costs little. Rows booked in another time zone would be wrong.
    """
    found = connection.execute(
        "select name, setting from pg_settings where name = any(%s)",
        [[*_SPELLED, *SESSION]],
    ).fetchall()
    now = {str(row["name"]).lower(): str(row["setting"]) for row in found}
    wrong = sorted(
        name
        for name, value in SESSION.items()
        if _plain(now.get(name, "")) not in _accepted(name, value)
    )
    if wrong:
        connection.close()
        raise psycopg.OperationalError(
            f"The role's sessions have another {', '.join(wrong)} than this project needs;"
            " see docs/aws.md, 'Three roles'."
        )


# The names of the settings as pg_settings spells them.
_SPELLED = ("TimeZone", "DateStyle", "IntervalStyle")


def _plain(value: str) -> str:
    return value.replace('"', "").replace(" ", "").lower()


def _accepted(name: str, value: str) -> set[str]:
    """Returns the values of a setting that have the same meaning for our statements."""
    also = {
        "timezone": ("Etc/UTC", "GMT", "Etc/GMT", "Zulu", "UCT"),
        "datestyle": ("ISO, DMY", "ISO, YMD"),
        # If no schema has the role's name, this value means `public` as well.
        "search_path": ("$user, public",),
    }
    return {_plain(each) for each in (value, *also.get(name, ()))}


def _ca_file(ca: str) -> str:
    if ca == "aws":
        return str(Path(__file__).with_name("ca.pem"))
    import certifi  # imported here because only databases outside AWS need it

    return certifi.where()


class Database:
    """Runs statements. Raises DatabaseUnavailable when Postgres cannot be reached.

    Errors of the statement itself (violated constraints, time-outs) are raised as psycopg's errors.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._watchdog = Watchdog(_ANSWER_SECONDS)

    def all(self, statement: str, params: Params | None = None) -> list[Row]:
        """Returns all rows of the statement."""
        try:
            return self._watched(statement, params)
        except psycopg.errors.SerializationFailure:
            pass  # another transaction was first: the statement runs once more
        except _CONNECTION_LOST as error:
            self.close()
            if isinstance(error, _NOT_THE_CONNECTION):
                raise
            if self._watchdog.has_cut:
                _count_unavailable()
                raise DatabaseUnavailable from error
        except psycopg.errors.FeatureNotSupported as error:
            if not _is_outdated_plan(error):
                raise
            self.close()  # drops all prepared statements of the connection
        try:
            return self._watched(statement, params)
        except _CONNECTION_LOST as error:
            self.close()
            if isinstance(error, _NOT_THE_CONNECTION):
                raise
            _count_unavailable()
            raise DatabaseUnavailable from error

    def one(self, statement: str, params: Params | None = None) -> Row | None:
        """Returns the first row, or None."""
        rows = self.all(statement, params)
        return rows[0] if rows else None

    def value(self, statement: str, params: Params | None = None) -> Any:
        """Returns the first column of the first row, or None."""
        row = self.one(statement, params)
        return next(iter(row.values())) if row else None

    def execute(self, statement: str, params: Params | None = None) -> None:
        """Runs a statement and ignores the rows it returns."""
        self.all(statement, params)

    def close(self) -> None:
        """Closes the connection. The next statement opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _usable(self) -> Connection:
        if self._connection is not None and _is_stale(self._connection):
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _watched(self, statement: str, params: Params | None) -> list[Row]:
        connection = self._usable()
        with self._watchdog.over(connection):
            return self._run(connection, statement, params)

    @staticmethod
    def _run(connection: Connection, statement: str, params: Params | None) -> list[Row]:
        try:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            keep_the_row_out(error)
            raise


def place_of(error: BaseException) -> dict[str, Any]:
    """Returns log fields that say where in the database an error was raised.

    This is `error`, or the error of Postgres that caused it. The result is empty if neither comes
    from Postgres. No field contains a value of a row.
    `sqlstate`: Postgres' error code.
    `constraint`: the name of the violated constraint, if any.
    `routine`: if a routine raised the error, lines like `PL/pgSQL function name(types) line N at
    ...`, the innermost first.
    """
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and not isinstance(found, psycopg.Error):
        if id(found) in seen:  # an error may be raised from itself
            return {}
        seen.add(id(found))
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
    """Shortens an error to the first line of its message, without quoted data.

    Errors are logged, and the other lines of Postgres' message quote the row that failed.
    """
    if message := error.diag.message_primary:
        if (error.sqlstate or "").startswith(_ERRORS_OF_DATA):
            message = _QUOTED.sub('"..."', message)
        error.args = (message,)


def _is_outdated_plan(error: psycopg.Error) -> bool:
    """Returns whether Postgres refused a prepared statement because a table's columns changed.

    The check also uses the name of the function in Postgres' source, because the server's messages
    may be in another language.
    """
    diag = error.diag
    return (
        diag.message_primary == "cached plan must not change result type"
        or diag.source_function == "RevalidateCachedQuery"
    )


def _count_unavailable() -> None:
    """Counts that the database cannot be reached.

    All functions count in one metric, because they share the database.
    """
    # Imported here, because the import takes time in every cold start, and few cold starts need it.
    from billing import metric

    metric.count(metric.Metric.DATABASE_UNAVAILABLE, service="database")


def _is_stale(connection: Connection) -> bool:
    """Returns whether the server closed the connection while the Lambda environment was frozen.

    On a healthy idle connection there is nothing to read. If there is something, the server has
    closed the connection. This check takes 2 us; a ping to the server takes 69 us.
    """
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        return True
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    return bool(readable)
