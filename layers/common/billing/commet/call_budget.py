"""The call budget: how many calls per second the whole stack may make to Commet.

It is one token bucket in Postgres, because Commet publishes no rate limit and hundreds of Lambda
environments cannot know of each other's calls. Calls for which a person waits come first:
background work leaves a part of the bucket for them.
"""

import time
from collections.abc import Callable
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

_BURST_SECONDS = 2  # seconds in which an empty bucket becomes full
# A full bucket has at least this many calls, so that the largest request fits beside the part that
# is kept for people.
_SMALLEST_BURST = 32
_KEPT_FOR_PEOPLE = Decimal("0.25")  # background work leaves this part of the bucket
_LONGEST_NAP_SECONDS = 1.0
# The longest pause that Commet may ask for. A wrong number must not stop the stack for days.
_LONGEST_PAUSE_SECONDS = 900.0


class Budget:
    """Gives out calls to Commet. All methods raise DatabaseUnavailable.

    A budget with another `name` is a second limit for one kind of work. That work takes each of its
    calls from both budgets.
    """

    def __init__(
        self,
        db: Database,
        calls_per_second: int | Decimal,
        *,
        name: str = "commet",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._db = db
        self._name = name
        self._rate = Decimal(calls_per_second)
        self._burst = max(self._rate * _BURST_SECONDS, Decimal(_SMALLEST_BURST))
        self._sleep = sleep

    def take(self, calls: int) -> bool:
        """Takes `calls` for a person who waits. Returns False if there are not enough."""
        return self._take(calls, keep=Decimal(0)) == 0

    def wait(self, calls: int, deadline: Deadline) -> bool:
        """Takes `calls` for background work, and waits for them. Returns False at `deadline`."""
        while True:
            seconds = self._take(calls, keep=self._burst * _KEPT_FOR_PEOPLE)
            if seconds == 0:
                return True
            if seconds >= deadline.remaining():
                return False
            # `seconds` is only an estimate, because other runs take tokens too. So ask again soon.
            self._sleep(min(float(seconds), _LONGEST_NAP_SECONDS))

    def pause(self, seconds: float) -> None:
        """Makes the whole stack pause, because Commet asked for it (429 with Retry-After).

        The pause is 15 minutes at most.
        """
        seconds = min(seconds, _LONGEST_PAUSE_SECONDS)
        self._db.execute(_sql["pause"], {"seconds": seconds})

    def _take(self, calls: int, *, keep: Decimal) -> Decimal:
        values = {
            "name": self._name,
            "count": calls,
            "keep": keep,
            "rate": self._rate,
            "burst": self._burst,
        }
        return Decimal(self._db.value(_sql["take"], values))
