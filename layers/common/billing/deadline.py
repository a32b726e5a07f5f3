"""How much time is left for calls to others."""

import time
from typing import Protocol


class LambdaContext(Protocol):
    """What we use of the context Lambda hands to a handler."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class Deadline:
    """A moment on the monotonic clock after which nothing more is attempted."""

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """A deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_invocation(cls, context: LambdaContext, *, reserve: float = 1.0) -> "Deadline":
        """The invocation's own limit less `reserve` seconds, which the answer itself needs."""
        return cls.after(context.get_remaining_time_in_millis() / 1000 - reserve)

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._at - time.monotonic())

    def within(self, seconds: float) -> "Deadline":
        """This deadline, or one `seconds` from now where that is sooner."""
        return Deadline(min(self._at, time.monotonic() + seconds))
