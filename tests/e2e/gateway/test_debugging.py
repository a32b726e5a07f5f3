"""A function that waits for a debugger, and a debugger that takes its time."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from local.gateway.debugging import Debugging, DebuggingError, named
from local.gateway.template import Template
from local.ports import Port, free_port
from tests.e2e.gateway.conftest import FIXTURES, Served, asking, serve

PROBE = FIXTURES / "functions/probe/app.py"


class Debugger:
    """A client of the Debug Adapter Protocol, as an editor is one."""

    def __init__(self, port: int) -> None:
        end = time.monotonic() + 60
        while True:  # the process has to start first
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.1)
        self._file = self._socket.makefile("rb")
        self._number = 0

    def ask(self, command: str, **arguments: Any) -> None:
        """Sends a request. `wait_for` sees its answer."""
        self._number += 1
        request = {"seq": self._number, "type": "request", "command": command}
        body = json.dumps(request | {"arguments": arguments}).encode()
        self._socket.sendall(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def wait_for(self, what: str) -> dict[str, Any]:
        """The next event, or the next answer to a command, with this name."""
        while True:
            length = 0
            while (line := self._file.readline().strip()) != b"":
                length = int(line.partition(b":")[2])
            message: dict[str, Any] = json.loads(self._file.read(length))
            if what in (message.get("event"), message.get("command")):
                return message

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def waiting(template: Template, function: str) -> Iterator[tuple[Served, int]]:
    """A gateway whose function waits, and the port at which it does."""
    port = free_port(Port())
    debugging = Debugging(named(template.functions, function), port)
    with contextlib.contextmanager(serve)(template, debugging=debugging) as served:
        yield served, port


def test_it_waits_and_nothing_limits_its_time(template: Template) -> None:
    """A second of the function's own, and more at a breakpoint; then the answer is as ever."""
    lines = PROBE.read_text(encoding="utf-8").splitlines()
    stop_at = 1 + next(n for n, line in enumerate(lines) if "CALLS[" in line and "+=" in line)
    with waiting(template, "impatient") as (served, port):
        answers: list[httpx.Response] = []
        request = threading.Thread(
            target=lambda: answers.append(served.get("/impatient", params=asking("echo")))
        )
        request.start()
        with contextlib.closing(Debugger(port)) as debugger:
            debugger.ask("initialize", adapterID="test", pathFormat="path")
            debugger.wait_for("initialize")
            assert f"Waits for a debugger at 127.0.0.1:{port}." in served.output.getvalue()
            assert answers == []
            debugger.ask("attach", justMyCode=True)
            debugger.wait_for("initialized")
            debugger.ask(
                "setBreakpoints", source={"path": str(PROBE)}, breakpoints=[{"line": stop_at}]
            )
            assert debugger.wait_for("setBreakpoints")["body"]["breakpoints"][0]["verified"]
            debugger.ask("configurationDone")
            stopped = debugger.wait_for("stopped")
            assert stopped["body"]["reason"] == "breakpoint"
            time.sleep(1.5)  # the function has one second
            assert answers == []
            debugger.ask("continue", threadId=stopped["body"]["threadId"])
            request.join(30)
        [answer] = answers
        assert answer.status_code == 200
        assert answer.json()["remaining"] > 3_600_000


def test_all_others_run_as_ever(template: Template) -> None:
    """Only one function waits, and its environment is as it was."""
    with waiting(template, "Impatient") as (served, _):
        assert served.get().json()["remaining"] <= 5_000


def test_deadlines_do_not_end() -> None:
    """Those of the layer, which a function sets for its calls to others."""
    from billing.deadline import Deadline
    from local.lambda_runtime import debugged

    before = Deadline.remaining
    try:
        debugged.without_deadlines()
        assert Deadline.after(0.001).within(0.001).remaining() > 3_600
    finally:
        Deadline.remaining = before  # type: ignore[method-assign]
    assert Deadline.after(-1).remaining() == 0


def test_an_unknown_function(template: Template) -> None:
    with pytest.raises(DebuggingError, match=r"^There is no function nothing\. The functions are:"):
        named(template.functions, "nothing")
