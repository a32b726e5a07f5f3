"""Cuts a connection if its server has stopped answering.

Postgres itself enforces `statement_timeout`, so a server that has stopped, or a pooler that waits
for such a server, enforces no limit. TCP does not notice either, because the kernel on the other
side still acknowledges our packets.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

_CHECKS = 8  # how many times the thread checks within one limit
# The thread ends after this number of checks without a statement.
_IDLE_CHECKS = 80


class Watchdog:
    """Shuts a connection's socket if one statement takes longer than `seconds`.

    A thread watches while statements are executed. It starts with the first statement, so a
    snapshot of an environment contains no thread. `has_cut` says whether the last statement was
    cut.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        # the process that has the thread, because a fork has no thread
        self._watcher: int | None = None
        self._until: float | None = None
        self._socket = -1
        self._number = 0
        self.has_cut = False

    @contextmanager
    def over(self, connection: "psycopg.Connection[Any]") -> Iterator[None]:
        """Watches the statements executed inside the `with` block. Costs microseconds."""
        with self._lock:
            self.has_cut = False
            self._number += 1
            self._socket = connection.pgconn.socket
            self._until = time.monotonic() + self._seconds
            if self._watcher != os.getpid():
                self._watcher = os.getpid()
                threading.Thread(target=self._watch, daemon=True, name="watchdog").start()
        try:
            yield
        finally:
            with self._lock:
                self._until = None

    def _watch(self) -> None:
        number, idle = 0, 0
        while True:
            time.sleep(self._seconds / _CHECKS)
            with self._lock:
                idle = idle + 1 if self._number == number and self._until is None else 0
                number = self._number
                if idle > _IDLE_CHECKS:
                    self._watcher = None
                    return
                if self._until is not None and time.monotonic() >= self._until:
                    self._cut()

    def _cut(self) -> None:
        self.has_cut = True
        self._until = None
        # A duplicate of the descriptor, because closing the socket object would close libpq's own
        # descriptor.
        with suppress(OSError), socket.socket(fileno=os.dup(self._socket)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
