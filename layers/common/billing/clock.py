"""What time it is, for everything billing decides.

Wall time in AWS. The local stack sets `CLOCK_URL`, and time is then Commet's test clock, so that
a month can pass in a moment. Leases and back-off do not use this: they use the database's `now()`.
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
    """The same for the same moment in every offset. Raises nothing for any aware time."""
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:  # within a day of the years 1 and 9999, beyond them in UTC
        return moment.isoformat()


def test_clock(url: str) -> Clock:
    """A clock that asks `url` on every reading; raises Unavailable when it gets no answer."""

    def now() -> datetime:
        from urllib.request import urlopen  # late: 30 ms that only the local stack needs

        try:
            with urlopen(url, timeout=2) as answer:  # noqa: S310 - the local stack's own address
                return datetime.fromisoformat(json.load(answer)["now"]).astimezone(UTC)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unavailable from error

    return now
