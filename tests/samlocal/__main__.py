"""`make sam-local-test`: follows docs/sam-local.md on a Docker engine."""

import os
import shutil
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from local import locks
from tests.samlocal import enclosure, engine, images, inside, machine, packages, told
from tests.samlocal.errors import Failed, Skipped
from tests.samlocal.places import KEPT, LOCK, LOGS, ROOT


def main() -> int:
    """0 where the page is true, or could not be tested, which is then said in one line."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    os.environ[machine.MARK] = str(ROOT)
    os.chdir(ROOT)
    began = time.monotonic()
    KEPT.mkdir(exist_ok=True)
    try:
        with locks.hold(LOCK):
            _watched()
    except locks.HeldError as held:
        print(f"Another run, process {held.owner}, is not over yet.", file=sys.stderr)
        return 1
    except Skipped as reason:
        if reason.args:
            print(f"skipped: {reason}")
        return 0
    except Failed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: everything is stopped.", file=sys.stderr)
        return 130
    print(f"docs/sam-local.md is as told, in {time.monotonic() - began:.0f} s.")
    return 0


def _watched() -> None:
    """Raises Failed where the machine is not as it was, however the run ended."""
    if sys.version_info[:2] != (3, 13):
        raise Skipped("`make build` needs Python 3.13")
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    machine.end_marked()  # of a run that was killed
    enclosure.remove_cgroups()
    if engine.answers():
        told.clean()
    before = machine.look()
    ended: BaseException | None = None
    try:
        _on_some_engine()
    except (Failed, Skipped, KeyboardInterrupt) as how:
        ended = how
    left = machine.differences(before, machine.look())
    if left:
        if ended is not None and ended.args:
            print(f"failed: {ended}", file=sys.stderr)
        raise Failed("\n    ".join(["this was left behind:", *left])) from ended
    if ended is not None:
        raise ended


def _on_some_engine() -> None:
    laps = told.Laps()
    if engine.answers() and _has_compose() and images.are_known():
        laps.done("a Docker engine answers and has the images: it is used")
        told.run(laps)
        return
    enclosure.check()
    packages.unpack()
    laps.done("Debian's engine is unpacked, or there already")
    with enclosure.running(*enclosure.module("tests.samlocal.inside")) as process:
        code = process.wait()
    if code == inside.SKIPPED:
        raise Skipped  # it has said why
    if code != 0:
        raise Failed(f"see above, and {LOGS.relative_to(ROOT)}")


def _has_compose() -> bool:
    return packages.run(["docker", "compose", "version"])


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    """The first signal ends the run; further ones do not disturb the end of it."""
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
