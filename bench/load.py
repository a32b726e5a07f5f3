"""Sends requests to a server: as fast as some clients can, or at a fixed rate.

At a fixed rate, each request has a time at which it is due. It is sent then, however many answers
are missing, and its latency is counted from that time. If the next request waited for the answer
to the one before, a server that stops for a second would look slow once, and not to everybody who
would have come in that second ("coordinated omission").
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

from bench.promises import percentile

MINUTE = 60


class UnexpectedAnswer(Exception):
    """An answer was not the expected one, or none came. The message says of which request."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is to be sent. `send` raises UnexpectedAnswer."""

    kind: str
    send: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has ended. All times are in seconds.

    `due`: when the request was due, since the load began. `latency`: from then to the answer.
    """

    kind: str
    due: float
    latency: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Minute:
    """The answers that came in one minute: how many a second, and latencies in milliseconds."""

    number: int
    rate: float
    p50: float
    p99: float
    longest: float
    errors: int


async def rate_reached(next_request: Callable[[], Request], clients: int, seconds: float) -> float:
    """Returns how many requests a second are answered if each client waits for its answers."""
    began = perf_counter()
    answered = 0

    async def keep_asking() -> None:
        nonlocal answered
        while perf_counter() < began + seconds:
            await next_request().send()
            answered += 1

    await asyncio.gather(*(keep_asking() for _ in range(clients)))
    return answered / (perf_counter() - began)


async def send_steadily(
    next_request: Callable[[], Request],
    rate: float,
    seconds: float,
    ended: Callable[[Answered], object],
) -> None:
    """Sends `rate` requests a second. Returns when all of them have ended."""
    began = perf_counter()

    async def send(due: float) -> None:
        request, error = next_request(), None
        try:
            await request.send()
        except UnexpectedAnswer as unexpected:
            error = str(unexpected)
        ended(Answered(request.kind, due, perf_counter() - began - due, error))

    async with asyncio.TaskGroup() as tasks:
        for number in range(round(rate * seconds)):
            due = number / rate
            await asyncio.sleep(max(0.0, due - (perf_counter() - began)))
            tasks.create_task(send(due))


class Minutes:
    """Reports each minute of a load of `seconds`. The first minute has the number 1.

    Answers that come later belong to the last minute. They count in its latencies, and not in its
    rate.
    """

    def __init__(self, seconds: float, report: Callable[[Minute], object]) -> None:
        self._seconds = seconds
        self._last = max(math.ceil(seconds / MINUTE), 1)
        self._report = report
        self._number = 1
        self._ended: list[Answered] = []

    def add(self, answered: Answered) -> None:
        """Takes a request that has just ended."""
        minute = int((answered.due + answered.latency) // MINUTE) + 1
        while self._number < min(minute, self._last):
            self._end_minute()
        self._ended.append(answered)

    def end(self) -> None:
        """Reports the minutes that were not reported yet."""
        while self._number <= self._last:
            self._end_minute()

    def _end_minute(self) -> None:
        lasted = min(MINUTE, self._seconds - MINUTE * (self._number - 1))
        in_time = sum(each.due + each.latency <= self._seconds for each in self._ended)
        # A minute without an answer has no latency that a limit could allow.
        milliseconds = [each.latency * 1000 for each in self._ended] or [math.inf]
        self._report(
            Minute(
                number=self._number,
                rate=in_time / lasted,
                p50=percentile(milliseconds, 50),
                p99=percentile(milliseconds, 99),
                longest=max(milliseconds),
                errors=sum(each.error is not None for each in self._ended),
            )
        )
        self._number += 1
        self._ended = []
