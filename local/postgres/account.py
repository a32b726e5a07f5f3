"""Postgres refuses to run as root. Where we are root, it runs as `nobody`.

`nobody` must be able to reach the binaries and the data. Below a private directory (a checkout or
a virtual environment in root's home) it cannot, and nobody's permissions are widened for that:
the binaries are copied, and the data is kept, in a directory under /var/tmp instead.
"""

import os
import pwd
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STAY_PREFIX = "/var/tmp/usage-billing-"  # noqa: S108 - owned and checked below


class UnsafePlaceError(Exception):
    """Somebody else's directory stands where ours should be."""


@dataclass(frozen=True)
class Account:
    """Whom Postgres runs as; no ids when it is simply ourselves."""

    uid: int | None = None
    gid: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """For subprocess: become this account, from a directory it may be in."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "cwd": "/"}

    def give(self, path: Path) -> None:
        """Makes the account the owner of a file or directory."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Whether every directory on the way lets the account through."""
        path = path.resolve()
        if self.uid is None:
            return True
        return all(
            place.stat().st_mode & 0o001 for place in (path, *path.parents) if place.exists()
        )


def choose_account() -> Account:
    """`nobody` when we are root, else ourselves."""
    if os.geteuid() != 0:
        return Account()
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def reachable_binaries(binaries: Path, account: Account) -> Path:
    """The same binaries where the account can run them; copied once if need be."""
    if account.reaches(binaries):
        return binaries
    root = binaries.parent
    package = root.parent
    # A wheel keeps its shared libraries in `<package>.libs` beside the package, and the binaries
    # look for them relative to themselves.
    libraries = package.with_name(f"{package.name}.libs")
    status = (binaries / "postgres").stat()
    stay = _stay() / f"postgres-{status.st_mtime_ns:x}-{status.st_size:x}"
    target = stay / package.name / root.name
    if not target.exists():
        fresh = stay.with_name(f"{stay.name}.{uuid.uuid4().hex}")
        shutil.copytree(root, fresh / package.name / root.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        _open_up(fresh)
        try:
            fresh.rename(stay)
        except OSError:  # another process was quicker
            shutil.rmtree(fresh)
    return target / "bin"


def reachable_data(directory: Path, account: Account) -> Path:
    """Where the account can keep the data of `directory`: there, or under /var/tmp.

    Data kept elsewhere is found again by an id left in `directory`; when that is gone, so is the
    claim to the data, and the next start removes it.
    """
    if account.reaches(directory):
        return directory
    mark = directory / "postgres.id"
    if not mark.exists():
        mark.write_text(uuid.uuid4().hex)
    stay = _stay()
    _remove_forgotten(stay)
    place = stay / f"data-{mark.read_text()}"
    place.mkdir(mode=0o711, exist_ok=True)
    (place / "owner").write_text(str(mark.resolve()))
    return place


def _remove_forgotten(stay: Path) -> None:
    for owner in stay.glob("data-*/owner"):
        mark = Path(owner.read_text())
        if not mark.exists() or f"data-{mark.read_text()}" != owner.parent.name:
            shutil.rmtree(owner.parent, ignore_errors=True)


def _stay() -> Path:
    """Our directory under /var/tmp. Raises UnsafePlaceError where it is not ours."""
    place = Path(f"{_STAY_PREFIX}{os.geteuid()}")
    place.mkdir(mode=0o711, exist_ok=True)
    status = place.lstat()
    if place.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnsafePlaceError(f"{place} exists and is not only ours; remove it.")
    return place


def _open_up(directory: Path) -> None:
    """Lets everyone read what is in a copy, as in the original install."""
    for place, _, files in os.walk(directory):
        Path(place).chmod(0o755)
        for name in files:
            file = Path(place, name)
            if not file.is_symlink():
                file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
