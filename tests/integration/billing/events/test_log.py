"""A reader who has read up to a place misses no event, whoever commits meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.events import log
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user
from tests.integration.billing.racing import Race

USERS = ("usr_ana", "usr_bob", "usr_cid")


@pytest.fixture(autouse=True)
def users(db: Database) -> None:
    for user in USERS:
        add_user(db, user)


def emit(db: Database, user: str, number: int = 0) -> None:
    data = Jsonb({"number": number})
    db.execute("select emit_event(%s, 'access.granted', %s, %s)", [user, NOW, data])


class Reader:
    """Reads as `GET /events?after=` does, from where it read last."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.after = 0
        self.found: list[log.OutgoingEvent] = []

    def read(self, limit: int = 100) -> list[str]:
        """The users of the events that are new to this reader."""
        log.place(self._db)
        new = log.after(self._db, self.after, limit)
        self.found += new
        if new:
            self.after = new[-1].place
        return [each.user_id for each in new]


def test_an_event_of_an_open_transaction_comes_after_what_was_read(
    db: Database, race: Race
) -> None:
    """It was inserted first, and committed after the other one was read."""
    reader = Reader(db)
    race.first(lambda mine: emit(mine, "usr_ana"))
    emit(db, "usr_bob")
    assert reader.read() == ["usr_bob"]
    assert reader.read() == []
    race.commit()
    assert reader.read() == ["usr_ana"]
    assert [each.place for each in reader.found] == [1, 2]
    assert [each.user_id for each in log.after(db, 0, 10)] == ["usr_bob", "usr_ana"]


def test_a_transaction_that_is_rolled_back_leaves_no_gap_to_wait_for(
    db: Database, race: Race
) -> None:
    reader = Reader(db)
    race.first(lambda mine: emit(mine, "usr_ana"))
    emit(db, "usr_bob")
    race.first(lambda mine: mine.execute("rollback"))
    assert reader.read() == ["usr_bob"]
    emit(db, "usr_cid")
    assert reader.read() == ["usr_cid"]
    assert [each.place for each in reader.found] == [1, 2]


def test_two_at_once_give_each_event_one_place(db: Database, race: Race) -> None:
    """The second waits for the first, and then sees what the first has placed."""
    reader = Reader(db)
    emit(db, "usr_ana")
    assert reader.read() == ["usr_ana"]
    emit(db, "usr_ana")
    emit(db, "usr_bob")
    assert race.first(log.place) == 2
    emit(db, "usr_cid")
    other = race.second(log.place)
    assert other.waits
    race.commit()
    assert other.answer == 1
    assert reader.read() == ["usr_ana", "usr_bob", "usr_cid"]
    assert [(each.place, each.sequence) for each in reader.found] == [
        (1, 1), (2, 2), (3, 1), (4, 1),
    ]  # fmt: skip


def test_many_write_while_three_read(connect: Callable[[], Database]) -> None:
    """Each reader gets each event once, and each user's in their order."""
    writers, rounds = 4, 30
    barrier, ended = Barrier(writers + 3), Event()

    def write(number: int) -> None:
        mine = connect()
        barrier.wait()
        for turn in range(rounds):
            mine.execute(
                "select emit_event(%s, 'access.granted', %s, %s), pg_sleep(%s)",
                [USERS[(turn + number) % 3], NOW, Jsonb({"n": turn}), (turn * number % 5) / 1000],
            )

    def read(_: int) -> Reader:
        reader = Reader(connect())
        barrier.wait()
        while True:
            is_last = ended.is_set()
            new = reader.read(limit=7)
            if is_last and not new:
                return reader

    with ThreadPoolExecutor(writers + 3) as pool:
        readers = [pool.submit(read, each) for each in range(3)]
        written = [pool.submit(write, each) for each in range(writers)]
        for each in written:
            each.result()
        ended.set()
        found = [each.result().found for each in readers]
    assert len(found) == 3
    for events in found:
        assert [each.place for each in events] == list(range(1, writers * rounds + 1))
        for user in USERS:
            own = [each.sequence for each in events if each.user_id == user]
            assert own == list(range(1, len(own) + 1))
