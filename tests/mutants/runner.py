"""Puts a mutant into a scratch copy of the project and runs the tests that have to notice it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import monotonic

from local.postgres import EmbeddedPostgres
from tests.mutants.catalogue import Mutant, NotAMutant

ROOT = Path(__file__).parents[2]
_NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv*",
    ".local",
    ".sam-local",
    ".deploy-test",
    ".aws-sam",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
)
_TESTS_FAILED = 1  # pytest's exit codes
_TESTS_PASSED = 0


class Outcome(StrEnum):
    """What became of a mutant. All but KILLED are red."""

    KILLED = "killed"  # a test failed
    SURVIVED = "survived"  # all tests passed
    UNFIT = "unfit"  # its text is not in the file any longer
    TIMED_OUT = "timed out"
    BROKEN = "broken"  # a test could not run: a syntax error, no such test, a failing fixture


@dataclass(frozen=True, slots=True)
class Verdict:
    mutant: Mutant
    outcome: Outcome
    detail: str  # of a killed one, the test that failed; of another, what is known
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """What pytest answered; `code` is None where it was cut off."""

    code: int | None
    output: str

    @property
    def failed(self) -> str:
        """The first test that failed, or ''."""
        found = re.search(r"^FAILED (.+?)(?: - .*)?$", self.output, re.MULTILINE)
        return found[1] if found else ""


class Scratch:
    """A copy of the project that faults may be put into, for one worker at a time.

    `environment` is what its tests find beside this process's own.
    """

    def __init__(self, place: Path, environment: Mapping[str, str]) -> None:
        self._place = place
        # A module is changed within one second and keeps its size: bytecode would hide the change.
        self._environment = os.environ | environment | {"PYTHONDONTWRITEBYTECODE": "1"}
        self._environment.pop("PYTHONPATH", None)  # which may lead to the project itself
        self._process: subprocess.Popen[str] | None = None

    def judge(self, mutant: Mutant, *, timeout: float) -> Verdict:
        """What the tests say to the mutant within `timeout` seconds; the copy is clean again."""
        started = monotonic()

        def verdict(outcome: Outcome, detail: str) -> Verdict:
            return Verdict(mutant, outcome, detail, monotonic() - started)

        path = self._place / mutant.file
        try:
            clean = path.read_text(encoding="utf-8")
            faulty = mutant.applied_to(clean)
        except (OSError, NotAMutant) as problem:
            return verdict(Outcome.UNFIT, str(problem))
        path.write_text(faulty, encoding="utf-8")
        try:
            run = self.run(["-x", *mutant.tests], timeout=timeout)
        finally:
            path.write_text(clean, encoding="utf-8")
        if run.code is None:
            return verdict(Outcome.TIMED_OUT, f"no verdict within {timeout:.0f} s")
        if run.code == _TESTS_PASSED:
            return verdict(Outcome.SURVIVED, f"passed: {' '.join(mutant.tests)}")
        # A fixture that fails is an error and no failure: any trouble of this machine is one, too.
        if run.code == _TESTS_FAILED and run.failed:
            return verdict(Outcome.KILLED, run.failed)
        return verdict(Outcome.BROKEN, run.output)

    def run(self, arguments: Sequence[str], *, timeout: float) -> Run:
        """What pytest says of the copy; it and all that it starts end within `timeout` seconds."""
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
        with subprocess.Popen(
            [*command, *arguments],
            cwd=self._place,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as self._process:
            try:
                output, _ = self._process.communicate(timeout=timeout)
                return Run(self._process.returncode, output)
            except subprocess.TimeoutExpired:
                return Run(None, "")
            finally:
                self.stop()

    def stop(self) -> None:
        """Ends what runs, and all that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        with suppress(ProcessLookupError):  # it ended just now
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def scratch(source: Path = ROOT) -> Iterator[Scratch]:
    """A copy of the project as it stands, changes that are not committed included.

    Its tests share a Postgres of its own, which else each run would make anew.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        place = Path(name)
        place.chmod(0o755)  # as root, Postgres runs as somebody else
        copy = place / "project"
        shutil.copytree(source, copy, ignore=_NOT_COPIED)
        with EmbeddedPostgres(place, fast=True) as server:
            yield Scratch(copy, {"TEST_DATABASE_URL": server.url()})


def tests_of(mutants: Iterable[Mutant]) -> list[str]:
    """Every test that one of them names, once."""
    return list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
