"""Runs Postgres and stops it when the owner's process ends.

`python supervisor.py OWNER_PID UID GID program arguments...` (with a uid of -1 the user stays the
same). The owner may end in any way, because this program polls for its process. If this program is
killed itself, the kernel stops Postgres (Linux). SIGTERM and SIGINT stop Postgres too. The program
uses the standard library only, because it is run by path in isolated mode.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1
_FAST, _IMMEDIATE = signal.SIGINT, signal.SIGQUIT
_FAST_SECONDS = 20.0


def main(arguments: list[str]) -> int:
    owner, uid, gid = map(int, arguments[:3])
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)

    def die_with_us() -> None:
        # Runs in the child after its user was changed. Changing the user would clear this setting.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if libc:
            libc.prctl(_PR_SET_PDEATHSIG, _FAST)

    become = {"user": uid, "group": gid, "extra_groups": []} if uid >= 0 else {}
    with subprocess.Popen(
        arguments[3:],
        cwd="/",
        close_fds=False,  # Postgres inherits the lock on the data directory and keeps it
        preexec_fn=die_with_us,  # noqa: PLW1509 - this program has one thread
        **become,  # type: ignore[call-overload]
    ) as postgres:
        while postgres.poll() is None and not stopping and os.getppid() == owner:
            time.sleep(0.1)
        return end(postgres)


def end(postgres: "subprocess.Popen[bytes]") -> int:
    """Stops Postgres: fast, then immediate, then by SIGKILL. Returns its exit code."""
    for number in (_FAST, _IMMEDIATE, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            postgres.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return postgres.wait(_FAST_SECONDS)
    return postgres.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
