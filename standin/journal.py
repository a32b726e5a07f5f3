"""The last requests and their answers, in memory only."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from standin import wire
from standin.clock import iso

_KEPT = 2_000
_UNREADABLE_SHOWN = 2_000
_SHOWN_HEADERS = ("commet-version", "idempotency-key", "user-agent", "content-type")


@dataclass(slots=True)
class Entry:
    """One request to the API, stored unparsed: few are shown, and parsing would slow down all."""

    id: str
    at: datetime
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    status: int | None = None
    response: bytes = b""
    duration_ms: int = 0
    replayed: bool = False
    fault: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """Returns the entry with parsed bodies, and with the headers that are of use."""
        return {
            "id": self.id,
            "at": iso(self.at),
            "method": self.method,
            "path": self.path,
            "query": dict(self.query),
            "headers": {n: self.headers[n] for n in _SHOWN_HEADERS if n in self.headers},
            "body": _readable(self.body),
            "status": self.status,
            "response": _readable(self.response),
            "duration_ms": self.duration_ms,
            "replayed": self.replayed,
            "fault": self.fault,
        }


def _readable(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return wire.loads(raw)
    except (ValueError, RecursionError):
        return raw[:_UNREADABLE_SHOWN].decode(errors="replace")


class Journal:
    """The newest entries, the newest last."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        """How many requests are remembered."""
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Add a request. The oldest one is dropped."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()

    def entries(
        self,
        *,
        method: str | None = None,
        path: str | None = None,
        repeats: bool = True,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Returns the newest first. `path` is a part of the path.

        Without `repeats`, only the newest of several reads with the same answer is returned.
        """
        chosen = (
            entry
            for entry in (reversed(self._entries) if repeats else self._news())
            if (method is None or entry.method == method) and (path is None or path in entry.path)
        )
        return [entry.shown() for _, entry in zip(range(limit), chosen, strict=False)]

    def _news(self) -> Iterator[Entry]:
        """Yields the newest first, without reads that a later read repeated with the same
        answer.
        """
        later: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[int | None, bytes]] = {}
        for entry in reversed(self._entries):
            if entry.method == "GET":
                asked = entry.path, tuple(sorted(entry.query.items()))
                answered = entry.status, entry.response
                if later.get(asked) == answered and entry.fault is None:
                    continue
                later[asked] = answered
            yield entry
