"""Stores the log of a running stack in a file, so that lines can be found by an id later.

The file is `log.jsonl` in the stack's data directory. Only its owner can read it, because log lines
have ids of users. When the file is large, it becomes `log.1.jsonl`, and the earlier `log.1.jsonl`
is deleted.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

_NAME, _BEFORE = "log.jsonl", "log.1.jsonl"
_LARGE_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """Text that a function wrote at once, or a line of the gateway.

    `ids` are the ids of the invocation: Lambda's id, and the id in the answer of a request.
    """

    at: str
    function: str
    ids: tuple[str, ...]
    text: str

    def is_about(self, text: str) -> bool:
        """Returns whether the entry has this id, or contains this text."""
        return text in self.ids or text in self.text


class Journal:
    """Writes the file. Many threads may write at once."""

    def __init__(self, directory: Path, large_bytes: int = _LARGE_BYTES) -> None:
        self._directory = directory
        self._large_bytes = large_bytes
        self._lock = threading.Lock()
        self._file: IO[str] | None = self._open()

    def write(self, function: str, text: str, ids: Sequence[str] = ()) -> None:
        """Adds an entry. After `close`, does nothing."""
        entry = Entry(datetime.now(UTC).isoformat(), function, tuple(ids), text)
        line = json.dumps(asdict(entry), ensure_ascii=False)
        with self._lock:
            if self._file is None:
                return
            self._file.write(f"{line}\n")
            self._file.flush()
            if self._file.tell() > self._large_bytes:
                self._file.close()
                (self._directory / _NAME).replace(self._directory / _BEFORE)
                self._file = self._open()

    def close(self) -> None:
        """Stops writing. Functions that are being ended may still print."""
        with self._lock:
            if self._file:
                self._file.close()
            self._file = None

    def _open(self) -> IO[str]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self._directory / _NAME, flags, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")


def entries(directory: Path) -> Iterator[Entry]:
    """Yields all entries in a stack's data directory, oldest first."""
    for name in (_BEFORE, _NAME):
        with suppress(FileNotFoundError), (directory / name).open(encoding="utf-8") as file:
            for line in file:
                with suppress(ValueError, KeyError):  # a killed stack may have written half a line
                    found = json.loads(line)
                    yield Entry(found["at"], found["function"], tuple(found["ids"]), found["text"])


def about(directory: Path, text: str) -> list[Entry]:
    """Returns the entries about an id, oldest first.

    For the id of an answer or an invocation, these are all entries of that invocation. For any
    other text, such as the id of a user or a webhook, these are the entries that contain it.
    """
    found = list(entries(directory))
    ids = {each for entry in found if text in entry.ids for each in entry.ids} | {text}
    return [entry for entry in found if ids & set(entry.ids) or entry.is_about(text)]
