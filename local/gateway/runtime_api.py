"""Serves the Lambda Runtime API (2018-06-01), on one port per worker.

A worker only knows its port, from AWS_LAMBDA_RUNTIME_API, so the gateway recognises the worker by
the port. A `Session` connects worker and gateway: the worker asks for its next invocation over
HTTP, and the gateway submits one and waits for the outcome.
"""

import json
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

LOOPBACK = "127.0.0.1"
# Lambda's limit for a synchronous invocation, for the event and for the answer.
MAX_PAYLOAD_BYTES = 6 * 1024 * 1024
_MAX_RESPONSE_BYTES = MAX_PAYLOAD_BYTES + 100

_PREFIX = "/2018-06-01/runtime/"


@dataclass(frozen=True)
class Invocation:
    request_id: str
    payload: bytes
    deadline_ms: int
    function_arn: str
    trace_id: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of an invocation: the function's JSON, or Lambda's error document."""

    payload: bytes
    failed: bool = False
    # True: the worker cannot be used again.
    fatal: bool = False
    # The reason of a failure that Lambda reports. Functions log their own failures themselves.
    reason: str | None = None


def failure(error_type: str, message: str) -> Outcome:
    """Returns the outcome of a failure that Lambda reports: time-out, exit, size. It ends the
    worker.
    """
    document = {"errorType": error_type, "errorMessage": message}
    reason = f"{error_type}: {message}"
    return Outcome(json.dumps(document).encode(), failed=True, fatal=True, reason=reason)


class Session:
    """The Runtime API of one worker. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ready = False
        self._closed = False
        self._waiting: Invocation | None = None
        self._current: Invocation | None = None
        self._outcome: Outcome | None = None
        self._init_error: Outcome | None = None
        self.on_close: Callable[[], None] | None = None

    def submit(self, invocation: Invocation) -> None:
        """Gives the worker its next invocation. The worker must not have another one."""
        with self._changed:
            self._waiting = self._current = invocation
            self._outcome = None
            self._changed.notify_all()

    def wait_ready(self, timeout: float) -> Outcome | None:
        """Returns None once the worker asks for work; a failure if it does not within `timeout`
        seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._closed, timeout)
            if self._ready:
                return None
            return self._init_error or (
                failure("Runtime.ExitError", "Runtime exited during initialisation")
                if self._closed
                else failure("Sandbox.Timedout", f"INIT timed out after {timeout:.2f} seconds")
            )

    def wait_outcome(self, timeout: float) -> Outcome:
        """Returns the outcome of the last submitted invocation; a failure after a time-out or
        an exit.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._outcome or self._closed, timeout)
            invocation, outcome = self._current, self._outcome
            self._current = self._waiting = None
        if outcome:
            return outcome
        request_id = invocation.request_id if invocation else "-"
        if self._closed:
            return failure(
                "Runtime.ExitError",
                f"RequestId: {request_id} Error: Runtime exited without providing a reason",
            )
        return failure(
            "Sandbox.Timedout",
            f"RequestId: {request_id} Error: Task timed out after {timeout:.2f} seconds",
        )

    def close(self) -> None:
        """Ends the session, because the worker has ended or must end. All waiting calls return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            on_close, self.on_close = self.on_close, None
        if on_close:
            on_close()

    def next_invocation(self) -> Invocation | None:
        """Waits for the worker's next invocation. Returns None when the worker has to end."""
        with self._changed:
            self._ready = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            invocation, self._waiting = self._waiting, None
            return None if self._closed else invocation

    def answer(self, request_id: str, outcome: Outcome) -> bool:
        """Takes the worker's answer. Returns False if nobody waits for it any more."""
        with self._changed:
            if self._current is None or self._current.request_id != request_id:
                return False
            self._outcome = outcome
            self._changed.notify_all()
            return True

    def fail_init(self, document: bytes) -> None:
        """Takes the worker's report that its handler could not be loaded."""
        with self._changed:
            self._init_error = Outcome(document, failed=True, fatal=True)


class RuntimeApi:
    """Listens for all workers. One thread accepts connections, and each has its own thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_up, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._todo: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="runtime-api", daemon=True)
        self._thread.start()

    def open(self, session: Session) -> int:
        """Serves the session on a new port. Returns the port."""
        listener = socket.create_server((LOOPBACK, 0), backlog=8)
        listener.settimeout(0)
        self._do(lambda: self._selector.register(listener, selectors.EVENT_READ, session))
        port: int = listener.getsockname()[1]
        session.on_close = lambda: self._do(lambda: self._forget(listener))
        return port

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._wake_up.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake_up.close()
        self._selector.close()

    def _do(self, action: Callable[[], object]) -> None:
        """Makes the accepting thread call the action, because only that thread may change its
        selector.
        """
        with self._lock:
            if self._closed:
                return
            self._todo.append(action)
            self._wake_up.send(b"x")

    def _forget(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._selector.unregister(listener)
            listener.close()

    def _accept(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    with self._lock:
                        actions, self._todo = self._todo, []
                    for action in actions:
                        action()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj.fileno() >= 0:
                    self._serve(key.fileobj, key.data)

    def _serve(self, listener: socket.socket, session: Session) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # the worker died after it had connected
            return
        threading.Thread(
            target=_Connection.serve, args=(connection, session), name="worker", daemon=True
        ).start()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Session  # type: ignore[assignment]

    @classmethod
    def serve(cls, connection: socket.socket, session: Session) -> None:
        with connection:
            connection.settimeout(None)
            try:
                cls(connection, connection.getpeername(), session)  # type: ignore[arg-type]
            except OSError:
                return  # the worker has ended, and `Worker` notices

    def do_GET(self) -> None:
        if self.path != f"{_PREFIX}invocation/next":
            self._reply(404, b"{}")
            return
        invocation = self.server.next_invocation()
        if invocation is None:
            self.close_connection = True
            return
        self._reply(
            200,
            invocation.payload,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
                "Lambda-Runtime-Invoked-Function-Arn": invocation.function_arn,
                "Lambda-Runtime-Trace-Id": invocation.trace_id,
            },
        )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = self.path.removeprefix(_PREFIX).split("/")
        match what:
            case ["init", "error"]:
                self.server.fail_init(body)
                self._reply(202, b"{}")
            case ["invocation", request_id, "response"] if len(body) > _MAX_RESPONSE_BYTES:
                outcome = failure(
                    "Function.ResponseSizeTooLarge",
                    f"Response payload size ({len(body)} bytes) exceeded maximum allowed "
                    f"payload size ({_MAX_RESPONSE_BYTES} bytes).",
                )
                self._answer(request_id, outcome, status=413)
            case ["invocation", request_id, "response"]:
                self._answer(request_id, Outcome(body))
            case ["invocation", request_id, "error"]:
                self._answer(request_id, Outcome(body, failed=True))
            case _:
                self._reply(404, b"{}")

    def _answer(self, request_id: str, outcome: Outcome, status: int = 202) -> None:
        known = self.server.answer(request_id, outcome)
        self._reply(status if known else 400, b"{}")

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        # Headers and body in one write, because a second write would cost another packet and
        # wake-up.
        self._headers_buffer.append(b"\r\n" + body)  # type: ignore[attr-defined]
        self.flush_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing, because the gateway logs invocations, but not its own protocol."""
