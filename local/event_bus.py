"""The EventBridge bus of the local stack, which takes entries by EventBridge's own protocol.

The newest 500 entries are kept in memory. The bus has no rules and no targets.
"""

import json
import threading
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any

PUT_EVENTS = "AWSEvents.PutEvents"  # the value of the header X-Amz-Target
_KEPT = 500
_MOST_ENTRIES = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the bus. `detail` is its parsed JSON."""

    id: str
    bus: str
    source: str
    type: str
    detail: Any


class EventBus:
    """Entries, the newest first. May be used by several threads."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def put_events(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Takes entries like EventBridge's PutEvents. Returns status and JSON."""
        try:
            asked = json.loads(body)["Entries"]
            results = [self._put(each) for each in asked] if len(asked) <= _MOST_ENTRIES else []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return 400, {"__type": "ValidationException", "message": f"Not understood: {error!r}"}
        if not results:
            message = "1 to 10 entries are taken at once."
            return 400, {"__type": "ValidationException", "message": message}
        failed = sum("ErrorCode" in each for each in results)
        return 200, {"FailedEntryCount": failed, "Entries": results}

    def entries(self) -> list[Entry]:
        """Returns the entries, the newest first."""
        with self._lock:
            return list(self._entries)

    def _put(self, asked: Any) -> dict[str, str]:
        try:
            detail = json.loads(asked["Detail"])
        except ValueError:
            return {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}
        entry = Entry(
            id=str(uuid.uuid4()),
            bus=str(asked.get("EventBusName", "default")),
            source=str(asked["Source"]),
            type=str(asked["DetailType"]),
            detail=detail,
        )
        with self._lock:
            self._entries.appendleft(entry)
        return {"EventId": entry.id}
