"""The memory, and the number of open files, of this process and those that it has started.

Linux tells them in /proc. Elsewhere nothing is found.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_KB = 1024
_OWN_MEMORY = re.compile(r"^Rss(?:Anon|File):\s*(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """A process. `name` is what Linux calls it, `memory` its resident memory in MB.

    Memory that processes share is left out: each Postgres process shows those of the shared
    buffers that it has used.
    """

    pid: int
    name: str
    command: tuple[str, ...]
    memory: float


def family(pid: int) -> Iterator[Process]:
    """Yields a process and all processes that descend from it."""
    children: dict[int, list[int]] = {}
    for directory in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            # The name may contain blanks and brackets, so the parent is found from behind it.
            after_name = (directory / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(directory.name))
    waiting = [pid]
    while waiting:
        found = waiting.pop()
        waiting += children.get(found, [])
        with suppress(OSError):
            yield _process(found)


def open_files(pid: int) -> int:
    """Returns how many files and connections a process has open; 0 if the system does not say."""
    try:
        return len(list((_PROC / str(pid) / "fd").iterdir()))
    except OSError:
        return 0


def _process(pid: int) -> Process:
    directory = _PROC / str(pid)
    command = (directory / "cmdline").read_text(errors="replace").split("\0")
    name = (directory / "comm").read_text().strip()
    kinds = _OWN_MEMORY.findall((directory / "status").read_text())
    return Process(pid, name, tuple(command), sum(map(int, kinds)) / _KB)
