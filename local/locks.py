"""File locks: at most one process uses a directory, even if the previous one was killed."""

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
    """Takes the lock. It is held while the returned file, or a child's copy of it, is open.

    If the owner is dead and one of its children still has the lock, waits `patience_seconds` for
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
    """Releases the lock. A child that has a copy keeps the lock until the child ends.

    The pid is removed from the file, so that `hold` waits for such a child, even if this process
    takes the lock again. Otherwise `hold` would see a living owner and not wait.
    """
    file.truncate(0)
    file.close()


def is_running(pid: str) -> bool:
    """Returns whether a process with this pid runs, even one of another user."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
