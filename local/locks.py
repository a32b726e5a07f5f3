"""One owner per directory, however the last one ended."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO


class HeldError(Exception):
    """A living process holds the lock; `owner` is its pid, as far as known."""

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


def hold(path: Path, *, patience_seconds: float = 0) -> IO[str]:
    """Takes the lock, for as long as the file (or a copy that a child inherited) is open.

    Where the owner is dead but something it started still holds on, waits for that to end.
    Raises HeldError.
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


def is_running(pid: str) -> bool:
    """Whether there is a process with this pid, ours or not."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
