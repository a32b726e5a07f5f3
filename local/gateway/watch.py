"""Finds out whether a function's code has changed since its worker was started."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

# Directories are read at most once in this interval, and reading takes at most a twentieth of the
# time.
_SHORTEST_INTERVAL_SECONDS = 0.1
_SHARE = 20

Stamp = tuple[int, ...]


class CodeWatch:
    """Makes stamps of directories. If two stamps are equal, no file has changed between them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stamps: dict[Path, tuple[int, float]] = {}

    def stamp(self, directories: Iterable[Path]) -> Stamp:
        """The current stamp of these directories; it may be some tenths of a second old."""
        with self._lock:
            return tuple(self._of(directory) for directory in directories)

    def _of(self, directory: Path) -> int:
        known, until = self._stamps.get(directory, (0, 0.0))
        started = time.monotonic()
        if started < until:
            return known
        known = hash(tuple(_walk(str(directory))))
        ended = time.monotonic()
        pause = max(_SHORTEST_INTERVAL_SECONDS, (ended - started) * _SHARE)
        self._stamps[directory] = (known, ended + pause)
        return known


def _walk(directory: str) -> Iterable[tuple[str, int, int]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:  # the directory is being rebuilt right now
        return
    for entry in entries:
        if entry.name.startswith((".", "__pycache__")):
            continue
        try:
            if entry.is_dir():
                yield from _walk(entry.path)
            else:
                status = entry.stat()
                yield entry.path, status.st_mtime_ns, status.st_size
        except OSError:
            continue
