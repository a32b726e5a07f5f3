"""Creates, starts and stops the embedded Postgres."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from local.locks import HeldError, hold, is_running, release
from local.postgres import supervisor
from local.postgres.account import (
    Account,
    choose_account,
    reachable_binaries,
    reachable_data,
)
from local.postgres.binaries import find_binaries, major_version

HOST = "127.0.0.1"
_SUPERUSER = "postgres"
_START_SECONDS = 60.0  # includes crash recovery
_TAKE_OVER_SECONDS = 20.0

_SETTINGS = {
    "listen_addresses": HOST,
    # No socket file, because its path could be longer than the 107 characters allowed.
    "unix_socket_directories": "",
    # Ten functions with ten workers each, and some connections for people.
    "max_connections": "130",
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] ",
}
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(Exception):
    """Postgres could not be created or started. The message says why."""


class DataInUseError(PostgresError):
    """Another process already runs Postgres on the same data."""


class EmbeddedPostgres:
    """Our own Postgres server on loopback, with its data and log in `directory`.

    A start in the same directory uses the same data, and the same port if it is free. With `fast`,
    which is for tests, the server is faster and may lose data in a power cut. The server stops when
    the context is left, and when this process ends for any reason.
    """

    def __init__(
        self, directory: Path, *, fast: bool = False, binaries: Path | None = None
    ) -> None:
        self.directory = directory.resolve()
        self.port = 0
        self._fast = fast
        self._named_binaries = binaries
        self._account = choose_account()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._password = ""

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises DataInUseError, PostgresNotFoundError or PostgresError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            # Postgres inherits the lock, and has it as long as it runs. If the last owner was
            # killed, its Postgres will stop soon, so wait for that.
            lock = self.directory / "postgres.lock"
            self._lock = hold(lock, patience_seconds=_TAKE_OVER_SECONDS)
        except HeldError as held:
            raise DataInUseError(
                f"Process {held.owner} already runs Postgres on {self.directory}. "
                "Stop it, or choose another data directory (DATA_DIR)."
            ) from None
        try:
            place = reachable_data(self.directory, self._account)
            found = self._named_binaries or find_binaries()
            binaries = reachable_binaries(found, self._account)
            data = place / "postgres"
            self._password = _password(self.directory / "postgres.password")
            if not (data / "PG_VERSION").exists():
                _create(binaries, data, self._password, self._account)
            _check_version(binaries, data)
            _remove_stale_pid(data)
            self._launch(binaries, data)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server and waits for its end. Connections are closed. Committed data
        remains.
        """
        if self._supervisor:
            with contextlib.suppress(ProcessLookupError):
                self._supervisor.terminate()
            self._supervisor.wait()
            self._supervisor = None
        if self._lock:
            # If the postmaster was killed, its other processes end a moment later.
            release(self._lock)
            self._lock = None

    def ended(self) -> bool:
        """Returns whether the server was started and has ended since."""
        return self._supervisor is not None and self._supervisor.poll() is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def url(
        self, database: str = "postgres", user: str = _SUPERUSER, password: str | None = None
    ) -> str:
        """Returns a connection URL with the password; by default the superuser's."""
        secret = quote(self._password if password is None else password, safe="")
        where = f"{HOST}:{self.port}/{quote(database, safe='')}"
        return f"postgresql://{quote(user, safe='')}:{secret}@{where}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Returns an autocommit connection of the superuser."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=5)

    def ensure_role(self, name: str, password: str) -> None:
        """Makes sure the role exists, may log in and has this password."""
        with self.connect() as connection:
            exists = connection.execute(
                "select 1 from pg_roles where rolname = %s", [name]
            ).fetchone()
            statement = (
                "alter role {} login password {}"
                if exists
                else ("create role {} login password {}")
            )
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), password))

    def ensure_database(self, name: str, owner: str = _SUPERUSER) -> str:
        """Creates the database if it does not exist. Returns its URL."""
        with self.connect() as connection:
            exists = connection.execute(
                "select 1 from pg_database where datname = %s", [name]
            ).fetchone()
            if not exists:
                statement = sql.SQL("create database {} owner {}")
                connection.execute(statement.format(sql.Identifier(name), sql.Identifier(owner)))
        return self.url(name)

    def _launch(self, binaries: Path, data: Path) -> None:
        self.port = _port(self.directory / "postgres.port")
        settings = _SETTINGS | {"port": str(self.port)} | (_FAST_SETTINGS if self._fast else {})
        assert self._lock is not None  # noqa: S101 - start takes it first
        uid, gid = self._account.uid, self._account.gid
        with self._log_path.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid())),
                    *("-1" if uid is None else str(uid), "-1" if gid is None else str(gid)),
                    *(str(binaries / "postgres"), "-D", str(data)),
                    *(part for item in settings.items() for part in ("-c", "=".join(item))),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                # A process group of its own, so that Ctrl-C does not reach Postgres. This process
                # stops it.
                process_group=0,
                pass_fds=[self._lock.fileno()],
            )

    def _wait_until_ready(self) -> None:
        """Waits until a connection succeeds. Raises PostgresError.

        A pid file or an open port proves nothing: the file may be old, and another program may use
        the port.
        """
        assert self._supervisor is not None  # noqa: S101 - called after _launch
        deadline = time.monotonic() + _START_SECONDS
        while self._supervisor.poll() is None:
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise PostgresError(f"Postgres does not answer: {error}") from error
                time.sleep(0.02)
            else:
                return
        raise PostgresError(f"Postgres did not start.\n{self._last_lines()}")

    @property
    def _log_path(self) -> Path:
        return self.directory / "postgres.log"

    def _last_lines(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-5:])


def _password(path: Path) -> str:
    """Returns the superuser's password. It is generated once, and only we may read its file."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    password = secrets.token_urlsafe(24)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password)
    return password


def _create(binaries: Path, data: Path, password: str, account: Account) -> None:
    """Runs initdb in a temporary directory and renames it, so that an interrupted run leaves no
    data.
    """
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    account.give(fresh)
    with _password_file(password, account) as password_file:
        created = subprocess.run(
            [
                *(str(binaries / "initdb"), "-D", str(fresh), "-U", _SUPERUSER, "-E", "UTF8"),
                *("--locale=C", "-A", "scram-sha-256", f"--pwfile={password_file}"),
                *("--no-instructions", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            **account.options,
        )
    if created.returncode:
        shutil.rmtree(fresh, ignore_errors=True)
        raise PostgresError(f"initdb failed: {created.stderr.strip() or created.stdout.strip()}")
    fresh.rename(data)


@contextlib.contextmanager
def _password_file(password: str, account: Account) -> Iterator[Path]:
    """Yields a file with the password. Only the account may read it, and it exists only while
    initdb runs.
    """
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        file = place / "password"
        file.touch(0o600)
        file.write_text(password)
        account.give(file)
        account.give(place)
        yield file


def _check_version(binaries: Path, data: Path) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    ours = major_version(binaries)
    if made_by != str(ours):
        raise PostgresError(
            f"{data} was made by Postgres {made_by}, and {binaries} is Postgres {ours}. "
            f"Name a Postgres {made_by} with PG_BIN, or remove {data} to start without data."
        )


def _remove_stale_pid(data: Path) -> None:
    """Removes the pid file of a Postgres that has ended.

    We have the lock, so no Postgres of ours runs. If another program has the old pid now, Postgres
    would refuse to start because of this file. Raises DataInUseError if somebody else started a
    Postgres on this data.
    """
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = pid_file.read_text().partition("\n")[0]
    if is_running(pid):
        command = subprocess.run(
            ["ps", "-o", "command=", "-p", pid], capture_output=True, text=True, check=False
        ).stdout
        if "postgres" in command and str(data) in command:
            raise DataInUseError(f"Process {pid} already runs Postgres on {data}.")
    pid_file.unlink()


def _port(path: Path) -> int:
    """Returns the port of the last start if it is free, else a free port, which the next start
    uses too.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        if _free(port := int(path.read_text())):
            return port
    with socket.create_server((HOST, 0)) as probe:
        port = int(probe.getsockname()[1])
    path.write_text(str(port))
    return port


def _free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
