"""Nothing we start may outlive us, however we die.

A process group led by a tiny program that watches its parent: when the parent is gone, even by
SIGKILL, it kills the whole group, itself included. Children join the group with
`Popen(process_group=reaper.group)`; being in a group of their own also keeps Ctrl-C from them,
so the parent decides how they end.
"""

import contextlib
import os
import subprocess
import sys

# Polls rather than waits for the end of a pipe: a pipe stays open while any process that
# inherited it lives, and that is just what goes wrong in the cases this is for.
_PROGRAM = """
import os, signal, sys, time
parent = int(sys.argv[1])
os.close(1)
while os.getppid() == parent:
    time.sleep(0.2)
os.killpg(0, signal.SIGKILL)
"""


class Reaper:
    """The leader of the group. `close` ends it alone; the group's members are the caller's."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(os.getpid())],
            process_group=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        with self._process.stdout as ready:
            ready.read()

    @property
    def group(self) -> int:
        return self._process.pid

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
