"""Invokes the functions of a template as Lambda does: pools of workers, limits, reports."""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.gateway.debugging import PATIENT_SECONDS
from local.gateway.logs import Report
from local.gateway.runtime_api import MAX_PAYLOAD_BYTES
from local.gateway.template import FunctionSpec
from local.gateway.watch import CodeWatch, Stamp
from local.gateway.workers import Launcher, Worker

_STARTS_AT_ONCE = max(2, os.cpu_count() or 1)
_IDLE_SECONDS = 120  # after this time an idle worker is ended, except the last used
_END_SECONDS = 2.0


class FunctionNotFoundError(LookupError):
    """The template has no such function."""


class TooManyRequestsError(Exception):
    """All workers of the function were busy for too long."""


class RequestTooLargeError(Exception):
    """The event is larger than Lambda takes (6 MB)."""


@dataclass(frozen=True)
class InvocationResult:
    """The answer of Lambda's Invoke: JSON, and whether the function failed."""

    payload: bytes
    failed: bool
    request_id: str
    init_ms: float | None = None  # only for a worker's first invocation


class Functions:
    """All functions of a template.

    `max_workers` is the most workers of each function. Further invocations wait up to
    `queue_seconds` for a worker before they are refused.
    """

    def __init__(
        self,
        specs: Mapping[str, FunctionSpec],
        launcher: Launcher,
        *,
        max_workers: int = 10,
        queue_seconds: float = 30,
    ) -> None:
        self._launcher = launcher
        watch = CodeWatch()
        # Only one process can wait at the debugger's port, and all requests wait for that process.
        limits = {True: (1, PATIENT_SECONDS), False: (max_workers, queue_seconds)}
        self._pools = {
            name: _Pool(spec, launcher, watch, *limits[launcher.is_debugged(name)])
            for name, spec in specs.items()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def spec(self, name: str) -> FunctionSpec:
        """The function's settings. Raises FunctionNotFoundError."""
        return self._pool(name).spec

    def is_debugged(self, name: str) -> bool:
        """Returns whether the function waits for a debugger, without time limits."""
        return self._launcher.is_debugged(name)

    def warm(self, name: str) -> None:
        """Starts a worker of the function before there is a request. Does not wait for the
        worker.
        """

        def start() -> None:
            with contextlib.suppress(TooManyRequestsError):  # the gateway is stopping
                pool = self._pool(name)
                pool.release(pool.acquire())

        threading.Thread(target=start, name=f"{name}-warm", daemon=True).start()

    def invoke(
        self,
        name: str,
        event: object,
        *,
        trace: str | None = None,
        routine: bool = False,
        asked_by: str | None = None,
    ) -> InvocationResult:
        """Runs a function with an event (bytes of JSON, or anything that has a JSON form).

        `asked_by` is the id of the request that the invocation answers. A `routine` invocation has
        no REPORT line if it succeeded in a running worker. Raises FunctionNotFoundError,
        RequestTooLargeError and TooManyRequestsError.
        """
        pool = self._pool(name)
        payload = event if isinstance(event, bytes) else json.dumps(event).encode()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RequestTooLargeError
        request_id = str(uuid.uuid4())
        ids = (request_id, asked_by) if asked_by else (request_id,)
        worker = pool.acquire(ids)
        try:
            cold = not worker.served
            worker.served = True
            started = time.perf_counter()
            outcome = worker.init_failure or worker.invoke(
                ids, payload, trace=trace, routine=routine
            )
            duration_ms = (time.perf_counter() - started) * 1000
        finally:
            pool.release(worker)
        if cold or outcome.failed or not routine or self._launcher.log.raw:
            self._launcher.log.report(
                pool.spec,
                Report(
                    request_id,
                    duration_ms,
                    init_ms=worker.init_ms if cold else None,
                    max_memory_mb=worker.max_memory_mb,
                    error=outcome.reason,
                ),
                ids,
            )
        init_ms = worker.init_ms if cold else None
        return InvocationResult(outcome.payload, outcome.failed, request_id, init_ms)

    def close(self) -> None:
        """Ends all workers, including busy ones."""
        for act in (Worker.terminate, Worker.kill):
            workers = [worker for pool in self._pools.values() for worker in pool.close()]
            deadline = time.monotonic() + _END_SECONDS
            for worker in workers:
                act(worker)
            ended = [worker.wait(deadline - time.monotonic()) for worker in workers]
            if all(ended):
                return

    def _pool(self, name: str) -> "_Pool":
        try:
            return self._pools[name]
        except KeyError:
            raise FunctionNotFoundError(name) from None


class _Pool:
    """The workers of one function. The last used one is used first, so that the others expire."""

    def __init__(
        self,
        spec: FunctionSpec,
        launcher: Launcher,
        watch: CodeWatch,
        max_workers: int,
        queue_seconds: float,
    ) -> None:
        self.spec = spec
        self._launcher = launcher
        self._watch = watch
        self._max_workers = max_workers
        self._queue_seconds = queue_seconds
        self._freed = threading.Condition()
        self._idle: list[tuple[Worker, float]] = []
        self._workers: set[Worker] = set()
        self._starting = 0
        self._closed = False

    def acquire(self, ids: Sequence[str] = ()) -> Worker:
        """Returns a worker for one invocation, with the current code. Raises
        TooManyRequestsError.
        """
        deadline = time.monotonic() + self._queue_seconds
        with self._freed:
            while True:
                if self._closed:
                    raise TooManyRequestsError("The gateway is stopping.")
                stamp = self._stamp()
                self._forget_unfit(stamp)
                if self._idle:
                    return self._idle.pop()[0]
                # If more workers started at once than there are cores, each would miss its time
                # limit. A running worker may become free before that.
                if (
                    self._starting < _STARTS_AT_ONCE
                    and len(self._workers) + self._starting < self._max_workers
                ):
                    self._starting += 1
                    break
                if not self._freed.wait(deadline - time.monotonic()):
                    raise TooManyRequestsError(self.spec.name)
        try:
            worker = self._launcher.start(self.spec, stamp, ids)
            with self._freed:
                self._workers.add(worker)
                if self._closed:  # the pool was closed while the worker started
                    worker.kill()
            worker.initialise()
        finally:
            with self._freed:
                self._starting -= 1
                self._freed.notify()
        return worker

    def release(self, worker: Worker) -> None:
        """Takes a worker back. If it still runs, it can have another invocation."""
        with self._freed:
            now = time.monotonic()
            if worker.alive and not self._closed:
                self._idle.append((worker, now))
            else:
                self._workers.discard(worker)
            self._forget([entry for entry in self._idle[:-1] if entry[1] < now - _IDLE_SECONDS])
            self._freed.notify()

    def close(self) -> list[Worker]:
        """Prevents further invocations. Returns the pool's workers."""
        with self._freed:
            self._closed = True
            self._freed.notify_all()
            return list(self._workers)

    def _stamp(self) -> Stamp:
        return self._watch.stamp([self.spec.code, *self.spec.layers])

    def _forget_unfit(self, stamp: Stamp) -> None:
        """Ends idle workers that have died or whose code has changed."""
        self._forget([e for e in self._idle if not e[0].alive or e[0].stamp != stamp])

    def _forget(self, entries: list[tuple[Worker, float]]) -> None:
        for entry in entries:
            self._idle.remove(entry)
            self._workers.discard(entry[0])
            entry[0].terminate()
