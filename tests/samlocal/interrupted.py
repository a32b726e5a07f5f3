"""Nothing is left of a run that is interrupted, wherever and by whatever.

Given to pytest by name (`make sam-local-test`): each case starts an engine.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.samlocal import enclosure, engine, machine
from tests.samlocal.places import LOGS, ROOT

_SECONDS = 120
_ENGINE = "an engine in namespaces of its own"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or engine.answers() or not (ROOT / ".sam-local/engine").exists(),
    reason="no engine of our own ran here",
)


class Run:
    """`make sam-local-test`'s program, followed by what it prints."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.samlocal"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.printed = ""

    def reaches(self, line: str) -> None:
        """Reads on until a line has this in it."""
        assert self._process.stdout is not None
        for each in self._process.stdout:
            self.printed += each
            if line in each:
                return
        raise AssertionError(f"it ended before {line!r}:\n{self.printed}")

    def has_containers(self) -> None:
        """Waits until compose has started one."""
        log = LOGS / "block-1.log"
        deadline = time.monotonic() + _SECONDS
        while not (log.exists() and re.search(r"Container \S+ +Started", log.read_text())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.reaches("no such line: it shows what was printed instead")
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def ends(self) -> int:
        """Its exit code, when it is over."""
        self.printed += self._process.communicate(timeout=_SECONDS)[0]
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run() -> Iterator[Run]:
    started = Run()
    yield started
    started.close()


@pytest.fixture
def before() -> machine.State:
    """The machine as it is, without the control groups and the logs of a run before."""
    enclosure.remove_cgroups()
    shutil.rmtree(LOGS, ignore_errors=True)
    return machine.look()


def name_of(pid: int) -> str:
    """A process's program; "" where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return ""


def left(before: machine.State) -> list[str]:
    """What is there that was not, once the kernel has ended what it is to end."""
    deadline = time.monotonic() + 10
    while found := machine.differences(before, machine.look()):
        if time.monotonic() > deadline:
            return found
        time.sleep(0.1)
    return []


def test_ctrl_c(before: machine.State, run: Run) -> None:
    """130, one line, and the machine as it was."""
    run.reaches(_ENGINE)
    run.signal(signal.SIGINT)
    assert run.ends() == 130
    assert "Interrupted: everything is stopped." in run.printed
    assert left(before) == []


def test_terminated_while_containers_run(before: machine.State, run: Run) -> None:
    run.reaches(_ENGINE)
    run.has_containers()
    run.signal(signal.SIGTERM)
    assert run.ends() == 130
    assert left(before) == []


def test_killed(before: machine.State, run: Run) -> None:
    """The kernel ends the rest; empty control groups stay, until the next run."""
    run.reaches(_ENGINE)
    run.has_containers()
    assert machine.marked()
    run.signal(signal.SIGKILL)
    run.ends()
    assert [each for each in left(before) if not each.startswith("control groups")] == []
    again = Run()
    again.reaches(_ENGINE)
    again.signal(signal.SIGTERM)
    assert again.ends() == 130
    assert left(before) == []


@pytest.mark.parametrize("name", ["dockerd", "unshare"])
def test_a_child_is_killed(before: machine.State, run: Run, name: str) -> None:
    """The run fails, says so, and the machine is as it was."""
    run.reaches(_ENGINE)
    run.has_containers()
    (victim, *_) = [pid for pid in machine.marked() if name_of(pid) == name]
    os.kill(victim, signal.SIGKILL)
    assert run.ends() == 1
    assert "failed: " in run.printed
    assert left(before) == []
