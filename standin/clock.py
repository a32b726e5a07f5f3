"""Simulated time. It passes like wall time, times `speed`, and can be moved forward."""

import calendar
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

DAY = timedelta(days=1)


def iso(moment: datetime) -> str:
    """The moment as Commet writes it: UTC, milliseconds, `Z`."""
    # strftime takes ten times as long, and an answer has many timestamps.
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def iso_or_none(moment: datetime | None) -> str | None:
    """Returns `iso(moment)`, or None for None."""
    return None if moment is None else iso(moment)


def parse_iso(text: str) -> datetime:
    """Read an ISO-8601 timestamp; one without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def midnight(moment: datetime) -> datetime:
    """The start of the moment's UTC day."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def add_months(start: datetime, months: int, anchor_day: int) -> datetime:
    """`months` later, on the anchor day or the last day of a shorter month."""
    index = start.year * 12 + start.month - 1 + months
    year, month = divmod(index, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return start.replace(year=year, month=month + 1, day=min(anchor_day, last))


class Clock:
    """The simulated time.

    While a test-clock run processes deadlines, the clock is held: it shows the time of the deadline
    that is being processed, however long that takes.
    """

    def __init__(self, speed: float = 1.0, wall: Callable[[], float] = time.time) -> None:
        self.speed = speed
        self._wall = wall
        self._wall_base = wall()
        self._base = datetime.fromtimestamp(self._wall_base, UTC)
        self._held: datetime | None = None
        self.moved = False

    def now(self) -> datetime:
        """The simulated time, never going backwards."""
        if self._held is not None:
            return self._held
        flowed = max(0.0, self._wall() - self._wall_base) * self.speed
        return self._base + timedelta(seconds=flowed)

    def hold(self, moment: datetime) -> None:
        """Stop the clock at `moment`, or at the present time if that is later."""
        self._held = max(moment, self.now())
        self.moved = True

    def release(self) -> None:
        """Let time pass again, from the held moment on."""
        if self._held is not None:
            self._base, self._wall_base, self._held = self._held, self._wall(), None

    def wall_seconds_until(self, moment: datetime) -> float:
        """Wall seconds until simulated time reaches `moment`; 0 when it has passed."""
        return max(0.0, (moment - self.now()).total_seconds()) / self.speed

    def snapshot(self) -> dict[str, str]:
        """Returns the values for `restore`. The time between stop and restart passes too."""
        return {
            "simulated": self.now().isoformat(),
            "wall": repr(self._wall()),
            "speed": repr(self.speed),
            "moved": "1" if self.moved else "",
        }

    def restore(self, kept: dict[str, str]) -> None:
        """Continue from a snapshot. Until now, time passed at the speed of the snapshot."""
        elapsed = max(0.0, self._wall() - float(kept["wall"])) * float(kept["speed"])
        self._base = datetime.fromisoformat(kept["simulated"]) + timedelta(seconds=elapsed)
        self._wall_base = self._wall()
        self.moved = bool(kept["moved"])
