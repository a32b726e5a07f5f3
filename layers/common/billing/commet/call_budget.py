"""How much the whole stack asks of Commet: one token bucket in Postgres.

Commet publishes no rate limit, and hundreds of environments cannot guess each other's calls. What
a person waits for goes first: work in the background leaves a part of the bucket to them.
"""

import time
from collections.abc import Callable
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

# The bucket holds so many seconds' worth of calls, at least the second number whatever the rate,
# and background work leaves this part of it.
_BURST_SECONDS = 2
_SMALLEST_BURST = 32  # what is asked for at once has to fit beside what is kept
_KEPT_FOR_PEOPLE = Decimal("0.25")
_LONGEST_NAP_SECONDS = 1.0
# What Commet may ask for at most: a number gone wrong must not silence the stack for days.
_LONGEST_PAUSE_SECONDS = 900.0


class Budget:
    """The calls to Commet that may be made. Raises DatabaseUnavailable."""

    def __init__(
        self,
        db: Database,
        calls_per_second: int,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._db = db
        self._rate = calls_per_second
        self._burst = max(calls_per_second * _BURST_SECONDS, _SMALLEST_BURST)
        self._sleep = sleep

    def take(self, calls: int) -> bool:
        """Whether so many calls may be made at once, for somebody who waits for the answer."""
        return self._take(calls, keep=Decimal(0)) == 0

    def wait(self, calls: int, deadline: Deadline) -> bool:
        """The same for work in the background: waits its turn, False where time runs out first."""
        while True:
            seconds = self._take(calls, keep=self._burst * _KEPT_FOR_PEOPLE)
            if seconds == 0:
                return True
            if seconds >= deadline.remaining():
                return False
            # Others take too, so the wait foretold is a guess: look again soon.
            self._sleep(min(float(seconds), _LONGEST_NAP_SECONDS))

    def pause(self, seconds: float) -> None:
        """Nobody calls for so long: Commet has asked for it (429 with Retry-After)."""
        seconds = min(seconds, _LONGEST_PAUSE_SECONDS)
        self._db.execute(_sql["pause"], {"seconds": seconds})

    def _take(self, calls: int, *, keep: Decimal) -> Decimal:
        values = {
            "count": calls,
            "keep": keep,
            "rate": self._rate,
            "burst": self._burst,
        }
        return Decimal(self._db.value(_sql["take"], values))
