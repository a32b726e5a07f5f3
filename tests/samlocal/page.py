"""docs/sam-local.md as a person follows it: each block is a terminal."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.samlocal.errors import Failed

_START_SECONDS = 400
_BLOCK_SECONDS = 180
_STOP_SECONDS = 30
# The last command of such a block runs until Ctrl-C.
_SERVES = re.compile(r"^\S*(sam local start-|python -m local\.function_url)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """What is pasted into one terminal."""

    text: str

    @property
    def address(self) -> str | None:
        """Where its server answers, which a comment says; None where it serves nothing."""
        if not _SERVES.search(self.text):
            return None
        (address,) = re.findall(r"^# .*: (http://\S+)$", self.text, re.MULTILINE)
        return str(address)

    @property
    def title(self) -> str:
        """Its last command, shortened."""
        (*_, last) = self.text.replace("\\\n", " ").strip().splitlines()
        return " ".join(last.split())[:60]


def blocks(page: Path) -> list[Block]:
    """All of a page's shell blocks, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found) for found in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


@dataclass
class Terminals:
    """Runs blocks in a project's folder, each with a log of what it printed."""

    project: Path
    logs: Path
    _servers: list[subprocess.Popen[bytes]]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, project: Path, logs: Path) -> Iterator["Terminals"]:
        """At the end Ctrl-C is pressed in each."""
        terminals = cls(project, logs, [])
        try:
            yield terminals
        finally:
            terminals.interrupt()

    def paste(self, block: Block, name: str) -> str:
        """Runs a block, or starts its server and waits for it; what it has printed so far.

        Raises Failed.
        """
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-eu", "-o", "pipefail", "-c", block.text],
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._servers.append(process)
        if block.address is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_BLOCK_SECONDS)
            if process.returncode != 0:
                raise Failed(_told(block, log, f"ended with {process.returncode}"))
        else:
            self._wait_for(process, block, log)
        return log.read_text(errors="replace")

    def interrupt(self) -> None:
        """Ctrl-C in every terminal, and no patience without end."""
        for process in reversed(self._servers):
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._servers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()
        self._servers.clear()

    def _wait_for(self, process: subprocess.Popen[bytes], block: Block, log: Path) -> None:
        assert block.address is not None
        port = urlsplit(block.address).port or 80
        deadline = time.monotonic() + _START_SECONDS
        while not is_listening(port):
            if process.poll() is not None:
                raise Failed(_told(block, log, f"ended with {process.returncode}"))
            if time.monotonic() > deadline:
                raise Failed(_told(block, log, f"is not at {block.address}"))
            time.sleep(0.2)


def is_listening(port: int) -> bool:
    """Whether something answers at this port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _told(block: Block, log: Path, what: str) -> str:
    text = re.sub(r"svc_local_\w+", "svc_local_...", log.read_text(errors="replace"))
    lines = text.strip().splitlines()[-25:]
    return "\n".join([f"`{block.title}` {what}:", *(f"    {line[:200]}" for line in lines)])
