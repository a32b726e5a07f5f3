"""Chooses the user that Postgres runs as. Postgres refuses to run as root, so root uses `nobody`.

`nobody` must be able to reach the binaries and the data. It cannot reach them below a private
directory, such as a checkout or a virtual environment in root's home. The permissions of such a
directory are not changed. Instead, the binaries are copied to a directory under /var/tmp, and the
data is stored there.
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
    """Our directory under /var/tmp belongs to another user, or others may write to it."""


@dataclass(frozen=True)
class Account:
    """The user that Postgres runs as. Without ids it is the current user."""

    uid: int | None = None
    gid: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of subprocess that run a program as this account, in a directory that it may
        enter.
        """
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "cwd": "/"}

    def give(self, path: Path) -> None:
        """Makes the account the owner of a file or directory."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, path: Path) -> bool:
        """Returns whether the account may enter every directory on the way to `path`."""
        path = path.resolve()
        if self.uid is None:
            return True
        return all(
            place.stat().st_mode & 0o001 for place in (path, *path.parents) if place.exists()
        )


def choose_account() -> Account:
    """Returns `nobody` if we are root, else the current user."""
    if os.geteuid() != 0:
        return Account()
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def reachable_binaries(binaries: Path, account: Account) -> Path:
    """Returns a directory with the same binaries that the account can run. Copies them if
    needed.
    """
    if account.reaches(binaries):
        return binaries
    root = binaries.parent
    package = root.parent
    # A wheel has its shared libraries in `<package>.libs` beside the package. The binaries search
    # them at a path relative to their own.
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
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return target / "bin"


def reachable_data(directory: Path, account: Account) -> Path:
    """Returns the directory for the data of `directory`: `directory` itself, or one under /var/tmp.

    The file `postgres.id` in `directory` has the id of the data under /var/tmp. If this file was
    deleted, the next start deletes the data.
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
    """Returns our directory under /var/tmp. Raises UnsafePlaceError if others own or may change
    it.
    """
    place = Path(f"{_STAY_PREFIX}{os.geteuid()}")
    place.mkdir(mode=0o711, exist_ok=True)
    status = place.lstat()
    if place.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnsafePlaceError(
            f"{place} belongs to another user, or others may write to it. Remove it."
        )
    return place


def _open_up(directory: Path) -> None:
    """Lets everybody read the copied files, as in the original installation."""
    for place, _, files in os.walk(directory):
        Path(place).chmod(0o755)
        for name in files:
            file = Path(place, name)
            if not file.is_symlink():
                file.chmod(0o755 if os.access(file, os.X_OK) else 0o644)
