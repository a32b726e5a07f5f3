"""Limits in Postgres: exactly so many pass in a window, whatever runs beside."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from billing.accounts.limits import Limit, Turn
from billing.database.connection import Database
from billing.errors import TooManyRequests
from tests.integration.billing.conftest import _connect, own_database
from tests.integration.billing.racing import racing

NOW = datetime(2026, 9, 10, 12, 20, tzinfo=UTC)
THREE = Limit(3, timedelta(hours=1))


@pytest.fixture
def key() -> str:
    """A key of this test's own: nobody else counts under it."""
    return uuid4().hex


def passes(db: Database, key: str, now: datetime = NOW, limit: Limit = THREE) -> bool:
    try:
        Turn(db, key, limit, now).take()
    except TooManyRequests:
        return False
    return True


class TestTurn:
    def test_so_many_pass(self, shared: Database, key: str) -> None:
        """Refused requests are not counted, and other keys have counts of their own."""
        assert [passes(shared, key) for _ in range(5)] == [True] * 3 + [False] * 2
        assert shared.value("select count from attempts where key = %s", [key]) == 3
        assert passes(shared, key + "x")

    def test_a_new_window(self, shared: Database, key: str) -> None:
        """How long to wait is said in whole seconds, and true."""
        assert all(passes(shared, key) for _ in range(3))
        with pytest.raises(TooManyRequests) as refused:
            Turn(shared, key, THREE, NOW).take()
        assert refused.value.retry_after == 40 * 60
        after = NOW + timedelta(minutes=40)
        assert not passes(shared, key, after - timedelta(microseconds=1))
        assert passes(shared, key, after)

    def test_taken_twice(self, shared: Database, key: str) -> None:
        """One request counts once, however often it asks for its turn."""
        turn = Turn(shared, key, THREE, NOW)
        for _ in range(5):
            turn.take()
        assert shared.value("select count from attempts where key = %s", [key]) == 1

    def test_given_back(self, shared: Database, key: str) -> None:
        """Once, by whoever took it."""
        turns = [Turn(shared, key, THREE, NOW) for _ in range(3)]
        for turn in turns:
            turn.take()
        late = Turn(shared, key, THREE, NOW)
        with pytest.raises(TooManyRequests):
            late.take()
        late.give_back()
        assert not passes(shared, key)
        turns[0].give_back()
        turns[0].give_back()
        assert [passes(shared, key) for _ in range(2)] == [True, False]

    def test_at_once(self, migrated_url: str, key: str) -> None:
        """Forty at the same moment: as many pass as one after the other."""

        def one(_: int) -> bool:
            with own_database(migrated_url) as db:
                return passes(db, key)

        with ThreadPoolExecutor(20) as pool:
            assert sum(pool.map(one, range(40))) == 3

    def test_two_want_the_last_one(self, migrated_url: str, shared: Database, key: str) -> None:
        """The second waits until the first has it, and gets none."""
        assert all(passes(shared, key) for _ in range(2))
        with racing(lambda: _connect(migrated_url)) as race:
            assert race.first(lambda mine: passes(mine, key))
            second = race.second(lambda mine: passes(mine, key))
            assert second.waits
            race.commit()
            assert not second.answer


def test_windows_are_utc() -> None:
    """A window begins at the same moment for everybody."""
    five_minutes = Limit(1, timedelta(minutes=5))
    assert five_minutes.window_start(NOW + timedelta(minutes=7)) == NOW + timedelta(minutes=5)
    india = timezone(timedelta(hours=5, minutes=30))
    assert THREE.window_start(NOW.astimezone(india)) == NOW.replace(minute=0)
