"""One budget of calls to Commet for the whole stack."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from billing.commet.call_budget import Budget
from billing.database.connection import Database
from billing.deadline import Deadline
from tests.integration.billing.conftest import _connect, own_database
from tests.integration.billing.racing import in_between


@pytest.fixture(autouse=True)
def _full(shared: Database) -> Iterator[None]:
    shared.execute("delete from call_budget")
    yield
    shared.execute("delete from call_budget")  # whoever comes next must not wait


def elapse(db: Database, seconds: float) -> None:
    """Time passes for the bucket."""
    db.execute("update call_budget set refilled_at = refilled_at - make_interval(secs => %s)",
               [seconds])  # fmt: skip


# At one call a second the bucket holds 32. What a test asks for in vain is more than comes back
# while it runs, however slow the machine is.
SLOW = 1
FULL = 32


class TestTake:
    def test_as_much_as_there_is(self, shared: Database) -> None:
        """All of it at once, then nothing until it has refilled."""
        budget = Budget(shared, SLOW)
        assert budget.take(FULL)
        assert not budget.take(FULL)
        elapse(shared, FULL)
        assert budget.take(FULL)

    def test_two_seconds_at_once(self, shared: Database) -> None:
        """A faster rate has a larger bucket."""
        assert Budget(shared, 100).take(200)
        assert not Budget(shared, 100).take(201)

    def test_never_more_than_it_holds(self, shared: Database) -> None:
        """A quiet night is not saved up."""
        budget = Budget(shared, SLOW)
        assert budget.take(1)
        elapse(shared, 3600)
        assert budget.take(FULL)
        assert not budget.take(FULL)

    def test_many_at_once(self, migrated_url: str, shared: Database) -> None:
        """However many ask at the same moment, they share one bucket."""

        def take(_: int) -> bool:
            with own_database(migrated_url) as db:
                return Budget(db, SLOW).take(8)

        with ThreadPoolExecutor(8) as pool:
            taken = sum(pool.map(take, range(24)))
        left = shared.value("select tokens from call_budget")
        came_back = taken * 8 + left - FULL
        assert taken >= FULL // 8
        assert 0 <= came_back < 24 * 8 - FULL  # not each its own

    def test_while_another_run_takes(self, migrated_url: str, shared: Database) -> None:
        """Who comes second counts what the first has taken, and not what was there before."""
        assert Budget(shared, SLOW).take(1)

        def take(mine: Database) -> bool:
            return Budget(mine, SLOW).take(20)

        second, first = in_between(lambda: _connect(migrated_url), "call_budget", take, take)
        assert (first, second) == (True, False)


class TestWait:
    def test_leaves_some_for_people(self, shared: Database) -> None:
        """Work in the background never empties the bucket."""
        budget = Budget(shared, SLOW)
        assert budget.wait(FULL * 3 // 4, Deadline.after(0))
        assert not budget.wait(FULL * 3 // 4, Deadline.after(0))
        assert budget.take(FULL // 4)

    def test_waits_its_turn(self, shared: Database) -> None:
        """It sleeps no longer than a second at a time, and goes on when there is enough."""
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            elapse(shared, 60)

        budget = Budget(shared, SLOW, sleep=sleep)
        assert budget.take(FULL)
        assert budget.wait(FULL // 2, Deadline.after(600))
        assert slept == [1]

    def test_no_time(self, shared: Database) -> None:
        """It does not wait for what comes too late."""
        budget = Budget(shared, SLOW, sleep=lambda _: pytest.fail("slept"))
        assert budget.take(FULL)
        assert not budget.wait(FULL // 2, Deadline.after(0.1))


class TestPause:
    def test_nobody_calls(self, shared: Database) -> None:
        """Neither people nor the background, until Commet's pause is over; then from empty."""
        budget = Budget(shared, 8)
        budget.pause(30)
        assert not budget.take(1)
        assert not budget.wait(1, Deadline.after(5))
        elapse(shared, 29)
        assert not budget.take(1)
        elapse(shared, 2)
        assert budget.take(1)

    def test_the_longest_counts(self, shared: Database) -> None:
        """A shorter one that comes later ends nothing."""
        budget = Budget(shared, 8)
        budget.pause(60)
        budget.pause(1)
        elapse(shared, 30)
        assert not budget.take(1)

    def test_not_for_ever(self, shared: Database) -> None:
        """A number gone wrong silences the stack for a quarter of an hour at most."""
        Budget(shared, 8).pause(999_999_999)
        elapse(shared, 901)
        assert Budget(shared, 8).take(1)
