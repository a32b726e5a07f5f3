"""The gateway's log: the functions' own output, and a line for each request or invocation."""

import json
import math
import sys
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from local.gateway.journal import Journal
from local.gateway.template import FunctionSpec

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
_RED, _DIM, _RESET = "\033[31m", "\033[2m", "\033[0m"


@dataclass(frozen=True)
class Report:
    """The measures of one invocation. `init_ms` is None except for a worker's first one."""

    request_id: str
    duration_ms: float
    init_ms: float | None = None
    max_memory_mb: int | None = None
    error: str | None = None

    @property
    def billed_ms(self) -> int:
        """The milliseconds that Lambda would bill: whole ones, including the initialisation."""
        return math.ceil(self.duration_ms + (self.init_ms or 0))


@dataclass(frozen=True)
class Access:
    """One request and its answer. `function` is None if the gateway itself answered."""

    method: str
    path: str
    status: int
    duration_ms: float
    request_id: str
    function: str | None = None
    init_ms: float | None = None

    def __str__(self) -> str:
        cold = f", {self.init_ms:.0f} of them to start" if self.init_ms is not None else ""
        time = f"{self.duration_ms:.0f} ms{cold}"
        return f"{self.method} {self.path} {self.status} in {time}  id={self.request_id}"


# Fields of a structured line that are left out, because they are shown elsewhere or have no use
# here.
_LEFT_OUT = {
    *("level", "message", "timestamp", "location", "service", "logger", "xray_trace_id"),
    *("requestId", "request_id", "exception", "exception_name", "stack_trace", "stackTrace"),
    *("errorType", "errorMessage"),
}
_TROUBLE = {"WARNING", "ERROR", "CRITICAL"}


def readable(line: str, *, routine: bool = False) -> str | None:
    """Returns a JSON log line in a readable form; None for metrics.

    With `routine`, also returns None for a line below a warning. A line that is not a structured
    log line is returned unchanged.
    """
    try:
        entry = json.loads(line) if line.startswith("{") else None
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        return line
    if "_aws" in entry:  # metrics, for CloudWatch
        return None
    if "level" not in entry:
        return line
    if routine and entry["level"] not in _TROUBLE:
        return None
    message = entry.get("message") or f"{entry.get('errorType')}: {entry.get('errorMessage')}"
    fields = [f"{name}={_brief(entry[name])}" for name in entry if name not in _LEFT_OUT]
    trace = entry.get("exception") or "".join(entry.get("stackTrace") or ())
    parts = [" ".join([str(entry["level"]), str(message).strip(), *fields]), str(trace).rstrip()]
    return "\n".join(part for part in parts if part)


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Log:
    """Prints lines with their function's name in front. Many threads may write at once.

    Structured lines become readable and metrics are left out, unless `raw` is set. If there is a
    `journal`, each line is also written there, with the ids of its invocation.
    """

    def __init__(
        self, stream: TextIO | None = None, *, colour: bool | None = None, raw: bool = False
    ) -> None:
        self._stream = stream or sys.stderr
        self.raw = raw
        self.journal: Journal | None = None
        self._colour = self._stream.isatty() if colour is None else colour
        self._lock = threading.Lock()

    def output(
        self, function: str, text: str, *, routine: bool = False, ids: Sequence[str] = ()
    ) -> None:
        """Prints lines that a function wrote. Of a `routine` run, prints only warnings and
        errors.
        """
        lines = text.rstrip("\n").split("\n")
        if self.journal and (kept := [line for line in lines if readable(line) is not None]):
            self.journal.write(function, "\n".join(kept), ids)
        if not self.raw:
            lines = [shown for line in lines if (shown := readable(line, routine=routine))]
        if lines:
            self._write(function, "\n".join(lines).split("\n"))

    def access(self, access: Access) -> None:
        """Prints the line of a request, in red if its answer is a server error."""
        function = access.function or "gateway"
        if self.journal:
            self.journal.write(function, str(access), [access.request_id])
        self._write(function, [str(access)], _RED if access.status >= 500 else "")

    def report(self, spec: FunctionSpec, report: Report, ids: Sequence[str] = ()) -> None:
        """Prints Lambda's summary of an invocation.

        If the invocation answers a request, the request has a line of its own (`ids` has the
        request's id). Then only the reason of a failure is printed, unless the log is `raw`.
        """
        if self.journal and report.error:
            self.journal.write(spec.name, report.error, ids)
        parts = [
            f"REPORT RequestId: {report.request_id}",
            f"Duration: {report.duration_ms:.2f} ms",
            f"Billed Duration: {report.billed_ms} ms",
            f"Memory Size: {spec.memory_mb} MB",
        ]
        if report.max_memory_mb is not None:
            parts.append(f"Max Memory Used: {report.max_memory_mb} MB")
        if report.init_ms is not None:
            parts.append(f"Init Duration: {report.init_ms:.2f} ms")
        if report.error:
            self._write(spec.name, [report.error], _RED)
        if len(ids) < 2 or self.raw:
            self._write(spec.name, ["  ".join(parts)], _DIM)

    def note(self, function: str, text: str) -> None:
        """Prints a message of the gateway about a function."""
        self._write(function, [text], _DIM)

    def _write(self, function: str, lines: list[str], style: str = "") -> None:
        if self._colour:
            colour = _COLOURS[zlib.crc32(function.encode()) % len(_COLOURS)]
            prefix = f"\033[{colour}m{function:<20}{_RESET} "
            text = "".join(f"{prefix}{style}{line}{_RESET if style else ''}\n" for line in lines)
        else:
            text = "".join(f"{function:<20} {line}\n" for line in lines)
        with self._lock:
            self._stream.write(text)
            self._stream.flush()
