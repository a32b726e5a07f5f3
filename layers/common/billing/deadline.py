"""Deadlines: how much time is left for calls to other services."""

import time
from typing import Protocol


class LambdaContext(Protocol):
    """The parts of Lambda's context object that this project uses."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class Deadline:
    """A time on the monotonic clock, in seconds, after which no further call is made."""

    def __init__(self, at: float) -> None:
        self._at = at

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """A deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_invocation(cls, context: LambdaContext, *, reserve: float = 1.0) -> "Deadline":
        """Returns the end of the invocation's time limit, less `reserve` seconds for the answer."""
        return cls.after(context.get_remaining_time_in_millis() / 1000 - reserve)

    def remaining(self) -> float:
        """The seconds left; zero after the deadline."""
        return max(0.0, self._at - time.monotonic())

    def within(self, seconds: float) -> "Deadline":
        """Returns this deadline, or `seconds` from now if that is sooner."""
        return Deadline(min(self._at, time.monotonic() + seconds))
