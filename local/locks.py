"""File locks: at most one process uses a directory, however the last one ended."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO


class HeldError(Exception):
    """A running process has the lock. `owner` is its pid, or "?"."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def hold(path: Path, *, patience_seconds: float = 0) -> IO[str]:
    """Takes the lock. It is kept while the returned file, or a child's copy of it, is open.

    Where the owner is dead and one of its children still has the lock, waits `patience_seconds` for
    the child to end. Raises HeldError.
    """
    file = path.open("a+")
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip()
            if is_running(owner) or time.monotonic() >= deadline:
                file.close()
                raise HeldError(owner or "?") from None
            time.sleep(0.05)
        else:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            return file


def release(file: IO[str]) -> None:
    """Gives the lock up. A child that still has a copy keeps it until it ends.

    The pid is removed, so that `hold` waits for such a child also where this process takes the lock
    again: otherwise the owner would count as alive.
    """
    file.truncate(0)
    file.close()


def is_running(pid: str) -> bool:
    """Whether a process with this pid runs, also one of another user."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
