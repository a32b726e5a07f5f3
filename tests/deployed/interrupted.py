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
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deployed import __main__ as program
from tests.deployed.errors import Skipped
from tests.deployed.places import PREFIX, ROOT

_SECONDS = 240.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True, scope="module")
def _can_run() -> None:
    try:
        program.check_machine()
    except Skipped as reason:
        pytest.skip(str(reason))


class Run:
    """`make deploy-test`'s program, with places of its own."""

    def __init__(self, kept: Path, temporary: Path) -> None:
        self._temporary = temporary
        self.printed = ""
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.deployed"],
            cwd=ROOT,
            env=os.environ | {"DEPLOY_TEST_PLACE": str(kept), "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def runs(self) -> None:
        """Waits until all servers of the run are there. A build has begun before them."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.printed += line
            if "the stand-in for Commet run" in line:
                return
        raise AssertionError(f"it does not begin: {self.printed}")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def ends(self) -> int:
        """Its exit code, when it is over."""
        self.printed += self._process.communicate(timeout=_SECONDS)[0]
        return self._process.returncode

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def left(self) -> list[str]:
        """Its files and processes, once whoever ends them has had time for that."""
        deadline = time.monotonic() + 60
        while found := [*self.files(), *self.processes()]:
            if time.monotonic() > deadline:
                return found
            time.sleep(0.2)
        return []

    def files(self) -> list[str]:
        return [str(each) for each in self._temporary.glob(f"{PREFIX}*")]

    def processes(self) -> list[str]:
        """Processes that name the run's directory in their command or their environment."""
        wanted = str(self._temporary / PREFIX).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended, or is somebody else's
            if wanted in known:
                found.append(entry.name)
        return found


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[signal.Signals, Run]]:
    """One for each signal. They start side by side, because each has to wait for its servers."""
    with tempfile.TemporaryDirectory(prefix="interrupted-") as place, ExitStack() as running:
        Path(place).chmod(0o711)  # Postgres runs as another user where this runs as root
        started = {}
        for number in SIGNALS:
            kept, temporary = Path(place, number.name), Path(place, f"{number.name}-tmp")
            kept.mkdir()
            temporary.mkdir()
            temporary.chmod(0o711)
            started[number] = Run(kept, temporary)
            running.callback(started[number].close)
        yield started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(runs: dict[signal.Signals, Run], number: signal.Signals) -> None:
    """130, one line, and nothing is left."""
    run = runs[number]
    run.runs()
    assert run.files()
    assert run.processes()
    run.signal(number)
    assert run.ends() == 130
    assert "Interrupted: everything is stopped." in run.printed
    assert run.left() == []


def test_killed(runs: dict[signal.Signals, Run]) -> None:
    """The guard ends what is left and deletes the files."""
    run = runs[signal.SIGKILL]
    run.runs()
    assert run.files()
    assert run.processes()
    run.signal(signal.SIGKILL)
    run.ends()
    assert run.left() == []
