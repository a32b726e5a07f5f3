"""Ends the processes of a run and deletes its files, however the run ended.

Every process of a run has MARK in its environment, so that it is found whatever process group or
session it is in. Postgres is the exception: it runs without our environment, and its supervisor
(local/postgres) ends it when this process ends.

`Guard` starts this file as a program. The program waits for the end of the run, also by SIGKILL,
and then does what the run could not do any more. It uses the standard library only.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "USAGE_BILLING_DEPLOY_TEST"
_END_SECONDS = 30.0


def marked(value: str) -> list[int]:
    """The ids of all processes with MARK=value in their environment, except this one."""
    wanted = f"{MARK}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end(value: str, *, but: frozenset[int] = frozenset()) -> None:
    """Kills these processes and waits until they are gone. New ones are killed too."""
    deadline = time.monotonic() + _END_SECONDS
    while (pids := set(marked(value)) - but) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove(directory: Path) -> None:
    """Deletes the directory. Postgres may still be stopping, so tries for a while."""
    deadline = time.monotonic() + _END_SECONDS
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        if directory.exists():
            time.sleep(0.2)


class Guard:
    """The program below: it cleans up if this process ends before `close`."""

    def __init__(self, directory: Path) -> None:
        environment = {name: text for name, text in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not end the guard
            env=environment,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    def close(self) -> None:
        """Ends the program without cleaning up."""
        self._process.kill()
        self._process.communicate()


def main(parent: int, directory: Path) -> None:
    """Waits for the parent's end, then ends its processes and deletes its directory."""
    print("ready", flush=True)
    while os.getppid() == parent:
        time.sleep(0.1)
    end(str(directory))
    remove(directory)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
