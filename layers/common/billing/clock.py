"""The current time, for every decision of billing.

In AWS this is wall time. The local stack sets `CLOCK_URL`. The time then comes from the stand-in's
test clock, so that a month can pass in a moment. Leases and pauses between attempts use the
database's `now()` instead.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime

from billing.errors import Unavailable

Clock = Callable[[], datetime]


def wall_clock() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def utc_text(moment: datetime) -> str:
    """Returns the time as ISO-8601 in UTC. Equal moments give equal texts. `moment` has an
    offset.
    """
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:  # in UTC the time would be outside the years 1 to 9999
        return moment.isoformat()


def test_clock(url: str) -> Clock:
    """Returns a clock that reads `url` each time. The clock raises Unavailable if it gets no
    answer.
    """

    def now() -> datetime:
        from urllib.request import urlopen  # late: takes 30 ms, and only the local stack uses it

        try:
            with urlopen(url, timeout=2) as answer:  # noqa: S310 - the local stack's own address
                return datetime.fromisoformat(json.load(answer)["now"]).astimezone(UTC)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable from error

    return now
