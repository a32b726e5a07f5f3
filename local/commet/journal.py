"""The last requests, as they came and as they were answered; kept in memory only."""

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from local.commet import wire

_KEPT = 2_000
_UNREADABLE_SHOWN = 2_000


@dataclass(slots=True)
class Entry:
    """One request to the API."""

    id: str
    at: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    status: int | None = None
    response: bytes = b""
    duration_ms: int = 0
    replayed: bool = False
    fault: dict[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """The entry with its bodies parsed."""
        return asdict(self) | {
            "body": _readable(self.body),
            "response": _readable(self.response),
        }


def _readable(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return wire.loads(raw)
    except (ValueError, RecursionError):
        return raw[:_UNREADABLE_SHOWN].decode(errors="replace")


class Journal:
    """A ring of entries, newest last."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_KEPT)

    def add(self, entry: Entry) -> None:
        """Remember a request; the oldest falls out."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget all requests."""
        self._entries.clear()

    def entries(
        self, *, method: str | None = None, path: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest first; `path` is a part of the path."""
        chosen = (
            entry
            for entry in reversed(self._entries)
            if (method is None or entry.method == method) and (path is None or path in entry.path)
        )
        return [entry.shown() for _, entry in zip(range(limit), chosen, strict=False)]
