"""Limits on how often something may be done within a fixed window of time.

Counts are in the table `attempts`, one row for each key and window.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import CallBudgetSpent, TooManyRequests

_sql = Statements(__file__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` times in each `window`. Windows of an hour begin at whole hours."""

    count: int
    window: timedelta

    def window_start(self, now: datetime) -> datetime:
        """Returns the start of the window that contains `now`."""
        return now - (now - _EPOCH) % self.window


class Turn:
    """One request under a limit. It is counted under `key` at most once, in the window of `now`."""

    def __init__(self, db: Database, key: str, limit: Limit, now: datetime) -> None:
        self._db = db
        self._key = key
        self._limit = limit
        self._now = now
        self._start = limit.window_start(now)
        self._taken = False

    def take(self) -> None:
        """Counts the request, unless it is counted already.

        If the limit is used up, counts nothing and raises TooManyRequests. Requests at the same
        moment are counted one after the other, so no more than `limit.count` pass.
        """
        if self._taken:
            return
        row = self._db.one(
            _sql["take"],
            {"key": self._key, "window_start": self._start, "limit": self._limit.count},
        )
        if row is None:
            raise too_many(self._start + self._limit.window, self._now)
        self._taken = True

    def give_back(self) -> None:
        """Undoes `take`, for a request that was not carried out and that the user may repeat."""
        if self._taken:
            self._db.execute(_sql["give_back"], {"key": self._key, "window_start": self._start})
            self._taken = False


class Calling(Protocol):
    """A client that counts the calls it has made."""

    sent: int


@contextmanager
def counted(
    db: Database, key: str, limit: Limit, *, now: datetime, calling: Calling
) -> Iterator[None]:
    """Counts one request, but not if the call budget ended before `calling` made a call.

    Raises TooManyRequests if the limit is used up.
    """
    turn = Turn(db, key, limit, now)
    turn.take()
    sent = calling.sent
    try:
        yield
    except CallBudgetSpent:
        if calling.sent == sent:
            turn.give_back()
        raise


def too_many(end: datetime, now: datetime) -> TooManyRequests:
    """Returns the error for a limit whose window ends at `end`, in `retry_after` seconds."""
    seconds = max(1, int((end - now).total_seconds()))
    return TooManyRequests("There were too many attempts. Try again later.", retry_after=seconds)
