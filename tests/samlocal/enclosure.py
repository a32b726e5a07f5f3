"""A program in PID, mount and network namespaces of its own.

Whatever the program starts or changes there (processes, mounts, bridges, iptables) is gone when
process 1 of the namespace is: nothing has to be taken back, and nothing can be forgotten. Process 1
is killed by the kernel when whoever started it is, however that ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.samlocal.errors import Skipped
from tests.samlocal.places import UNPACKED

_ENTER = Path(__file__).with_name("enter.sh")
_NAMESPACES = ("--pid", "--mount", "--propagation", "private", "--fork", "--mount-proc")
# Control groups are not namespaces of ours: containers' are below this name, and removed.
CGROUP = "usage-billing-sam-local"
_CGROUPS = Path("/sys/fs/cgroup")
_END_SECONDS = 30


def check() -> None:
    """Raises Skipped where this machine does not let us make namespaces."""
    if os.geteuid() != 0:
        raise Skipped("no Docker engine answers, and only root can start one")
    for program in ("unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            raise Skipped(f"no Docker engine answers, and {program} (util-linux) is missing")
    if not Path("/dev/net/tun").exists():
        raise Skipped("no Docker engine answers, and one of our own needs /dev/net/tun")
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        raise Skipped(f"no Docker engine answers, and {tried.stderr.strip()}")


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command in its namespaces, which have ended when this returns."""
    process = subprocess.Popen(
        [
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child", *_NAMESPACES),
            *("sh", str(_ENTER), str(UNPACKED), *command),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # unshare's own, which complains when it is killed
        start_new_session=True,  # Ctrl-C is ours to answer
    )
    try:
        yield process
    finally:
        _end(process)
        remove_cgroups()


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command for a module of this project."""
    return (sys.executable, "-m", name, *arguments)


def remove_cgroups() -> None:
    """Removes the control groups of containers that have ended, also of a run that was killed."""
    deadline = time.monotonic() + _END_SECONDS
    while groups := _groups():
        for group in groups:
            with contextlib.suppress(OSError):  # still in use, for a moment
                group.rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _groups() -> list[Path]:
    """Ours in every hierarchy, the innermost first."""
    tops = [top for depth in ("", "*/") for top in _CGROUPS.glob(f"{depth}{CGROUP}")]
    below = [group for top in tops for group in top.rglob("*") if group.is_dir()]
    return sorted({*tops, *below}, key=lambda group: -len(group.parts))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills process 1, with which the kernel ends all others; unshare waits for that."""
    if process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text().split() or [str(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
    process.wait()
