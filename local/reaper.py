"""Ends child processes when this process ends, even by SIGKILL.

A small program leads a process group and watches its parent. When the parent is gone, the program
kills the whole group, including itself. Children join the group with
`Popen(process_group=reaper.group)`. Ctrl-C does not reach the group, so the parent decides how its
children end.
"""

import contextlib
import os
import subprocess
import sys

# The program polls. It cannot wait for the end of a pipe, because a pipe remains open while any
# process that inherited it lives, and those are the processes that have to be ended.
_PROGRAM = """
import os, signal, sys, time
parent = int(sys.argv[1])
os.close(1)
while os.getppid() == parent:
    time.sleep(0.2)
os.killpg(0, signal.SIGKILL)
"""


class Reaper:
    """The group's leader. `close` ends only the leader; the caller ends the other members."""

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
