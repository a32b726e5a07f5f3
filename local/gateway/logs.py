"""What the gateway prints: the functions' own output, and a REPORT line per invocation."""

import math
import sys
import threading
import zlib
from dataclasses import dataclass
from typing import TextIO

from local.gateway.template import FunctionSpec

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
_RED, _DIM, _RESET = "\033[31m", "\033[2m", "\033[0m"


@dataclass(frozen=True)
class Report:
    """The measures of one invocation; `init_ms` only for the first of its worker."""

    request_id: str
    duration_ms: float
    init_ms: float | None = None
    max_memory_mb: int | None = None
    error: str | None = None

    @property
    def billed_ms(self) -> int:
        """Lambda bills the initialisation too, and whole milliseconds."""
        return math.ceil(self.duration_ms + (self.init_ms or 0))


class Log:
    """Lines prefixed by the function they belong to, whole even when many write at once."""

    def __init__(self, stream: TextIO | None = None, *, colour: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._colour = self._stream.isatty() if colour is None else colour
        self._lock = threading.Lock()

    def output(self, function: str, text: str) -> None:
        """Lines a function wrote."""
        self._write(function, text.rstrip("\n").split("\n"))

    def report(self, spec: FunctionSpec, report: Report) -> None:
        """Lambda's own summary of an invocation."""
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
        self._write(spec.name, ["  ".join(parts)], _DIM)

    def note(self, function: str, text: str) -> None:
        """Something the gateway itself has to say about a function."""
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
