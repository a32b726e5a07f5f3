"""Sends a request until it is answered, without doing any input or output itself.

A generator yields what is to be done, and gets back what came of it: the clients for threads and
for asyncio do the same steps in their own ways.
"""

import json
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from usage_billing.problems import Problem, Unreachable, problem_of

T = TypeVar("T")

# In seconds.
ATTEMPT = 10.0
LONGEST_ATTEMPT = 30.0  # API Gateway answers 503 by itself after that
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request. `timeout` is in seconds: to connect, to send, and for each wait."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    timeout: float = ATTEMPT


@dataclass(frozen=True, slots=True)
class Pause:
    """So many seconds in which nothing is sent."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why an attempt got no answer. Never contains the key."""

    reason: str


Came = Reply | Unanswered | None  # None after a pause
Steps = Generator[Call | Pause, Came, T]


class Deadline:
    """A moment of the monotonic clock, `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the deadline. Below zero afterwards."""
        return self._at - time.monotonic()


def answered(call: Call, deadline: Deadline) -> Steps[dict[str, Any]]:
    """The JSON object of the answer; an empty one where the answer has no body.

    Repeats the request while no answer comes, or the answer says that a later request may succeed:
    429, 503 (as `access_unconfirmed`), 504, and the answers that API Gateway gives by itself.
    Raises Problem, or Unreachable at the deadline.
    """
    attempt = 0
    while True:
        limit = max(0.001, min(call.timeout, deadline.left()))
        came = yield replace(call, timeout=limit)
        if isinstance(came, Reply) and came.status < 300:
            return _object(came)
        wrong = _wrong(came)
        pause = pause_before(attempt, wrong)
        if pause is None or pause >= deadline.left():
            raise wrong
        yield Pause(pause)
        attempt += 1


def pause_before(attempt: int, wrong: Problem | Unreachable) -> float | None:
    """Seconds to wait before another attempt; None if there is to be none."""
    if isinstance(wrong, Unreachable):
        return backoff(attempt)
    return (wrong.retry_after or 0.0) + backoff(attempt) if _may_pass(wrong) else None


def backoff(attempt: int) -> float:
    """Seconds, longer after each attempt.

    Half of the time is random, so that many clients do not come back at the same moment.
    """
    most = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
    return random.uniform(most / 2, most)  # noqa: S311 - no secret


def _may_pass(problem: Problem) -> bool:
    # An answer without a code is not the backend's, but of something in front of it.
    return problem.status in (429, 503, 504) or (problem.status >= 500 and problem.code is None)


def _wrong(came: Came) -> Problem | Unreachable:
    if isinstance(came, Reply):
        return problem_of(came.status, came.headers, came.body)
    reason = came.reason if came else "nothing was sent"
    return Unreachable(f"The billing backend did not answer: {reason}.")


def _object(reply: Reply) -> dict[str, Any]:
    if not reply.body:
        return {}
    try:
        found = json.loads(reply.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable(
            f"What answered with {reply.status} is not the billing backend: its body is no JSON"
            " object. Is BILLING_URL right?"
        )
    return found
