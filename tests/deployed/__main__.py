"""`make deploy-test`: the life of a stack in an emulated AWS account."""

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from local import locks
from tests.deployed import database, leftovers, life
from tests.deployed.errors import Failed, Skipped
from tests.deployed.laps import Laps
from tests.deployed.places import KEPT, LOCK, LOGS, PREFIX, ROOT

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """0 where all was as expected, or could not be tested, which is then said in one line."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    os.chdir(ROOT)
    began = time.monotonic()
    KEPT.mkdir(exist_ok=True)
    try:
        with locks.hold(LOCK):
            _run()
    except locks.HeldError as held:
        print(f"Another run, process {held.owner}, is not over yet.", file=sys.stderr)
        return 1
    except Skipped as reason:
        print(f"skipped: {reason}")
        return 0
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: everything is stopped.", file=sys.stderr)
        return 130
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    wall = time.monotonic() - began
    print(f"The stack lived as told, in {wall:.0f} s ({cpu:.0f} s of a processor).")
    return 0


def _run() -> None:
    """Raises Failed also where something is left behind."""
    check_machine()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    laps = Laps()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    directory.chmod(0o711)  # Postgres runs as another user where this runs as root
    os.environ[leftovers.MARK] = str(directory)
    guard = leftovers.Guard(directory)
    try:
        life.live(directory, laps)
    finally:
        leftovers.end(str(directory))
        leftovers.remove(directory)
        guard.close()
    if directory.exists():
        raise Failed(f"{directory} was left behind")
    laps.done("nothing is left behind")


def check_machine() -> None:
    """Raises Skipped."""
    if sys.version_info[:2] != (3, 13):
        raise Skipped("`make build` needs Python 3.13")
    if sys.platform != "linux":
        raise Skipped("the emulator's functions need Linux, as Lambda's do")
    if os.uname().machine != "x86_64":
        raise Skipped("the functions are built for x86_64")
    database.find_binaries()


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """The first signal ends the run; further ones do not disturb the end of it."""
    for again in _SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
