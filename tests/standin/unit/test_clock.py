"""Simulated time."""

from datetime import UTC, datetime, timedelta

import pytest

from standin.clock import Clock, iso, parse_iso

START = 1_800_000_000.0


class Wall:
    """A wall clock moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


def test_flows_like_wall_time_times_speed(wall: Wall) -> None:
    """A wall second is ten simulated ones."""
    clock = Clock(speed=10, wall=wall)
    before = clock.now()
    wall.now += 1
    assert clock.now() - before == timedelta(seconds=10)


def test_stands_still_while_held_and_flows_on_from_there(wall: Wall) -> None:
    """However long the work in between takes."""
    clock = Clock(wall=wall)
    target = clock.now() + timedelta(days=3)
    clock.hold(target)
    wall.now += 100
    assert clock.now() == target
    clock.release()
    wall.now += 1
    assert clock.now() == target + timedelta(seconds=1)
    assert clock.moved


def test_never_goes_back(wall: Wall) -> None:
    """Neither when told to nor when the wall clock does."""
    clock = Clock(wall=wall)
    before = clock.now()
    wall.now -= 100
    assert clock.now() >= before
    clock.hold(before - timedelta(days=1))
    assert clock.now() >= before


@pytest.mark.parametrize("later_speed", [1.0, 0.5, 100.0])
def test_carries_on_after_a_restart(wall: Wall, later_speed: float) -> None:
    """The time in between passes at the speed it had, whatever the new speed."""
    first = Clock(speed=2, wall=wall)
    first.hold(first.now() + timedelta(days=1))
    first.release()
    kept, stopped_at = first.snapshot(), first.now()
    wall.now += 60
    second = Clock(speed=later_speed, wall=wall)
    second.restore(kept)
    assert second.now() == stopped_at + timedelta(seconds=120)
    assert second.moved


def test_wall_seconds_until(wall: Wall) -> None:
    """What the scheduler sleeps."""
    clock = Clock(speed=60, wall=wall)
    assert clock.wall_seconds_until(clock.now() + timedelta(minutes=1)) == pytest.approx(1)
    assert clock.wall_seconds_until(clock.now() - timedelta(minutes=1)) == 0


def test_iso_has_milliseconds_and_z() -> None:
    """Commet's form, cut and not rounded."""
    assert iso(datetime(2026, 9, 1, 10, 0, 0, 123_999, UTC)) == "2026-09-01T10:00:00.123Z"


@pytest.mark.parametrize(
    "text", ["2026-09-01T10:00:00Z", "2026-09-01T12:00:00+02:00", "2026-09-01T10:00:00"]
)
def test_parse_iso_is_always_utc(text: str) -> None:
    """With an offset, with Z, or with nothing."""
    assert parse_iso(text) == datetime(2026, 9, 1, 10, tzinfo=UTC)
