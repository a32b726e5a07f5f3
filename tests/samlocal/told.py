"""The page and the story on the Docker engine that answers, and the end of all they started."""

import os
import re
import shutil
import subprocess
import time

from tests.samlocal import story
from tests.samlocal.errors import Failed, Skipped
from tests.samlocal.page import Terminals, blocks, is_listening
from tests.samlocal.places import KEPT, LOGS, PROJECT, ROOT

PAGE = ROOT / "docs" / "sam-local.md"
# The name that docker-compose.yml has would be that of a stack somebody uses.
_COMPOSE_PROJECT = "usage-billing-sam-local-test"
_NETWORK = "usage-billing"
_PORTS = (3000, 3001, 3002, 3003, 5000, 5432)
_TEMPORARY = KEPT / "tmp"
_NOT_COPIED = (".git", ".venv", ".aws-sam", ".local", KEPT.name, "__pycache__", ".*_cache")


class Laps:
    """Prints a line at the end of each part, with the seconds it took."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def done(self, what: str) -> None:
        """Ends a part."""
        now = time.monotonic()
        print(f"{now - self._last:6.1f} s  {what}", flush=True)
        self._last = now


def run(laps: Laps) -> None:
    """Follows the page from its first block to its last. Raises Failed, or Skipped."""
    clean()
    for port in _PORTS:
        if is_listening(port):
            raise Skipped(f"port {port} is in use, and the page needs it")
    _copy_project()
    try:
        _follow(laps)
    finally:
        _keep_logs()
        clean()


def _follow(laps: Laps) -> None:
    *steps, stop = blocks(PAGE)
    if "docker compose down" not in stop.text:
        raise Failed(f"the last block of {PAGE.name} does not stop what the first has started")
    with Terminals.opened(PROJECT, LOGS) as terminals:
        printed = ""
        for number, block in enumerate(steps, start=1):
            printed += terminals.paste(block, f"block-{number}")
            laps.done(f"block {number}: {block.title}")
        (key,) = re.findall(r"^svc_local_\w+$", printed, re.MULTILINE)
        story.warm_up()
        laps.done("a container for each function")
        story.tell(key)
        laps.done(f"the story; {story.check_webhooks()} webhooks were sent, all were accepted")
        story.check_function_url()
        laps.done("the function's own URL")
        terminals.interrupt()
        laps.done("Ctrl-C in every terminal")
        terminals.paste(stop, "stop")
        laps.done(f"last block: {stop.title}")


def _copy_project() -> None:
    """What is in this folder now, committed or not. What `make build` keeps there stays."""
    PROJECT.mkdir(parents=True, exist_ok=True)
    for old in PROJECT.iterdir():
        if old.name == ".aws-sam":
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    left_out = shutil.ignore_patterns(*_NOT_COPIED)
    shutil.copytree(ROOT, PROJECT, ignore=left_out, symlinks=True, dirs_exist_ok=True)
    (PROJECT / ".venv").symlink_to(ROOT / ".venv")
    _TEMPORARY.mkdir(parents=True, exist_ok=True)
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS"):
        os.environ.pop(name, None)  # of the make that runs this: the page's starts from nothing
    os.environ.update(
        COMPOSE_PROJECT_NAME=_COMPOSE_PROJECT,
        SAM_SKIP_PULL_IMAGE="1",  # they have come already
        SAM_CLI_TELEMETRY="0",
        TMPDIR=str(_TEMPORARY),  # where SAM CLI's locks are
    )


def clean() -> None:
    """Removes what a run, also one that was killed, has left in the engine."""
    ours = f"label=com.docker.compose.project={_COMPOSE_PROJECT}"
    if _docker("network", "ls", "--quiet", "--filter", ours):
        for container in _docker("ps", "-aq", "--filter", f"network={_NETWORK}"):
            _docker("rm", "--force", "--volumes", container)
    for container in _docker("ps", "-aq", "--filter", ours):
        _docker("rm", "--force", "--volumes", container)
    for kind in ("network", "volume"):
        for each in _docker(kind, "ls", "--quiet", "--filter", ours):
            _docker(kind, "rm", each)
    shutil.rmtree(_TEMPORARY, ignore_errors=True)


def _keep_logs() -> None:
    with (LOGS / "compose.log").open("wb") as log:
        command = ["docker", "compose", "logs", "--no-color"]
        subprocess.run(command, cwd=PROJECT, stdout=log, stderr=log, check=False)


def _docker(*arguments: str) -> list[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.split()
