"""Nothing is left of a run that is interrupted: no process and no file.

Given to pytest by name (`make deploy-test`): each case starts the emulator, Postgres and a build.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployed import __main__ as program
from tests.deployed.errors import Skipped
from tests.deployed.places import LOGS, ROOT

_SECONDS = 240.0
_PREFIX = "usage-billing-deploy-test-"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True, scope="module")
def _can_run() -> None:
    try:
        program.check_machine()
    except Skipped as reason:
        pytest.skip(str(reason))


class Run:
    """`make deploy-test`'s program."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.deployed"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def builds(self) -> None:
        """Waits until everything runs and `make deploy` has begun."""
        log = LOGS / "01-make-deploy.log"
        began, deadline = time.time(), time.monotonic() + _SECONDS
        while not (log.exists() and log.stat().st_mtime > began and log.stat().st_size):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it does not begin: {self.ends()}, {self.printed}")
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def ends(self) -> int:
        """Its exit code, when it is over."""
        self.printed = self._process.communicate(timeout=_SECONDS)[0]
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run() -> Iterator[Run]:
    started = Run()
    yield started
    started.close()


def left() -> list[str]:
    """The files and the processes of any run, once whoever ends them has had time for it."""
    deadline = time.monotonic() + 60
    while found := [*_files(), *_processes()]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return []


def _files() -> list[str]:
    return [str(each) for each in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")]


def _processes() -> list[str]:
    """Processes that name the run's directory in their command or their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is somebody else's
        if _PREFIX.encode() in known:
            found.append(entry.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(run: Run, number: signal.Signals) -> None:
    """130, one line, and nothing is left."""
    run.builds()
    assert _processes()
    run.signal(number)
    assert run.ends() == 130
    assert "Interrupted: everything is stopped." in run.printed
    assert left() == []


def test_killed(run: Run) -> None:
    """The guard ends what is left and deletes the files."""
    run.builds()
    assert _files()
    run.signal(signal.SIGKILL)
    run.ends()
    assert left() == []
