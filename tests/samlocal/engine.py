"""dockerd in the namespaces that enter.sh has made, and what keeps its images between two runs."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.samlocal.enclosure import CGROUP
from tests.samlocal.errors import Skipped
from tests.samlocal.places import ENGINE, LOGS

HOST = "unix:///run/sam-local/docker.sock"
_LOG = LOGS / "dockerd.log"
_START_SECONDS = 60
_STOP_SECONDS = 30
# There once all images are.
_WHOLE = ENGINE / "whole"
_COMMAND = [
    *("dockerd", "--host", HOST, "--data-root", str(ENGINE / "data")),
    *("--exec-root", "/run/sam-local/exec", "--pidfile", "/run/sam-local/docker.pid"),
    *("--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{CGROUP}"),
]


@contextlib.contextmanager
def running() -> Iterator[None]:
    """An engine that answers at HOST, and in DOCKER_HOST. Raises Skipped where none can start."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ["DOCKER_HOST"] = HOST
    process = _start()
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


@contextlib.contextmanager
def filling() -> Iterator[None]:
    """While images are made: killed in the middle of it, the engine's folder is not used again."""
    _WHOLE.unlink(missing_ok=True)
    yield
    _WHOLE.touch()


def answers() -> bool:
    """Whether the engine that the docker command talks to answers."""
    if shutil.which("docker") is None:
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(asked, capture_output=True, check=False, timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _start() -> subprocess.Popen[bytes]:
    """With the images of the run before; without them where the engine does not start with them."""
    for kept in (True, False):
        if not (kept and _WHOLE.exists()):
            shutil.rmtree(ENGINE, ignore_errors=True)
        # Networks of a killed engine: with them the next one would hold their containers' ports.
        shutil.rmtree(ENGINE / "data" / "network", ignore_errors=True)
        ENGINE.mkdir(parents=True, exist_ok=True)
        with _LOG.open("wb") as log:
            process = subprocess.Popen(_COMMAND, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if answers():
                return process
            time.sleep(0.1)
        process.kill()
        process.wait()
    raise Skipped(f"dockerd does not start: {_last_words(_LOG)}")


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it says nothing"
