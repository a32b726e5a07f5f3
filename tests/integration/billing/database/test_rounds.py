"""Long work that several runs share: one at a time, and the next begins when it is due."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.database import rounds
from billing.database.connection import Database

MOMENT = timedelta(microseconds=1)
LEASE = timedelta(minutes=2)
EVERY = timedelta(days=1)
NOW = datetime(2026, 9, 1, tzinfo=UTC)  # of the functions' clock


def take_up(frozen: Database, now: datetime = NOW) -> dict[str, object] | None:
    found = rounds.take_up(frozen, "work", start={"after": ""}, every=EVERY, now=now)
    return None if found is None else dict(found.position)


def pass_time(frozen: Database, column: str, by: timedelta) -> None:
    frozen.execute(f"update rounds set {column} = {column} - %s", [by])  # noqa: S608


@pytest.mark.parametrize("advanced", [False, True])
@pytest.mark.parametrize(("age", "free"), [(LEASE, False), (LEASE + MOMENT, True)])
def test_two_minutes_after_each_step(
    frozen: Database, age: timedelta, *, free: bool, advanced: bool
) -> None:
    """A run that died holds the round for so long, and the next run goes on from its last step."""
    assert take_up(frozen) == {"after": ""}
    if advanced:
        pass_time(frozen, "leased_until", timedelta(minutes=1))
        rounds.advance(frozen, "work", {"after": "m"})
    pass_time(frozen, "leased_until", age)
    assert take_up(frozen) == (({"after": "m" if advanced else ""}) if free else None)


@pytest.mark.parametrize(("age", "due"), [(EVERY, False), (EVERY + MOMENT, True)])
def test_the_next_round(frozen: Database, age: timedelta, *, due: bool) -> None:
    """So long after the last one began, however soon that was finished.

    By the functions' clock, which can be moved; the database's stands still here.
    """
    take_up(frozen)
    rounds.finish(frozen, "work")
    assert take_up(frozen, NOW + age) == ({"after": ""} if due else None)


def test_the_round_after_that(frozen: Database) -> None:
    """Counts from the beginning of the second, also if somebody asked for it early."""
    take_up(frozen)
    rounds.finish(frozen, "work")
    rounds.request(frozen, "work", start={"after": "k"})
    early = NOW + EVERY / 2
    assert take_up(frozen, early) == {"after": "k"}
    rounds.finish(frozen, "work")
    assert take_up(frozen, NOW + EVERY + MOMENT) is None
    assert take_up(frozen, early + EVERY + MOMENT) == {"after": ""}
