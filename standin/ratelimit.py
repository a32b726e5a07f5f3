"""A fixed window of requests per minute, reported in the usual headers."""

import time
from collections.abc import Callable

from standin.errors import ApiError

WINDOW = 60.0


class RateLimit:
    """At most `per_minute` requests in a window of a minute; 0: no limit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_minute
        self._clock = clock
        self._began = clock()
        self._used = 0

    def headers(self) -> dict[str, str]:
        """The state of the window; nothing when there is no limit."""
        if not self._limit:
            return {}
        return {
            "RateLimit-Limit": str(self._limit),
            "RateLimit-Remaining": str(max(0, self._limit - self._used)),
            "RateLimit-Reset": str(self._seconds_left()),
        }

    def spend(self) -> None:
        """Count a request. Raises ApiError: rate_limited, with Retry-After."""
        if not self._limit:
            return
        if self._clock() - self._began >= WINDOW:
            self._began, self._used = self._clock(), 0
        self._used += 1
        if self._used > self._limit:
            retry_after = {"Retry-After": str(self._seconds_left())}
            raise ApiError("rate_limited", "Too many requests", headers=retry_after)

    def _seconds_left(self) -> int:
        return max(1, int(WINDOW - (self._clock() - self._began)) + 1)
