"""Whose customer and whose subscription it is, in whichever order Commet's words arrive."""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest

from billing.commet.answers import Customer
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.operations import customer_watch
from billing.subscriptions import customers, inbox, mirror
from billing.subscriptions.changes import Change
from tests.integration.billing.conftest import NOW, _connect, add_user, own_database
from tests.integration.billing.racing import Race, in_between
from tests.integration.billing.signed import iso, moment, state


def named(
    customer: str, user: str | None, minutes: float | None, *, ours: bool = False, **data: Any
) -> bytes:
    """customer.updated: Commet has this id of ours for the customer."""
    envelope = {
        "id": f"whev_{uuid4().hex[:12]}",
        "event": "customer.updated",
        "timestamp": moment(9999).isoformat(),  # sent late; `updatedAt` decides
        "mode": "sandbox",
        "data": {
            "id": customer,
            "externalId": user,
            "email": "somebody@example.com",
            "metadata": {"user": user} if ours else None,
            "updatedAt": None if minutes is None else moment(minutes).isoformat(),
        }
        | data,
    }
    return json.dumps(envelope).encode()


def receive(db: Database, *bodies: bytes) -> list[str]:
    return [inbox.receive(db, body, mode="sandbox", now=NOW).outcome for body in bodies]


def holders(db: Database) -> dict[str, str]:
    """Each user who has a customer, and which."""
    rows = db.all(
        "select id, commet_customer_id from users where commet_customer_id is not null order by id"
    )
    return {row["id"]: row["commet_customer_id"] for row in rows}


def answer(customer: str, user: str | None, at: datetime) -> Customer:
    return Customer(id=customer, external_id=user, updated_at=at)


def due(db: Database, customer: str) -> bool:
    return bool(db.value("select due_at is not null from customers where id = %s", [customer]))


def rights(db: Database, user: str) -> tuple[Any, ...]:
    """The user's current subscription, what is allowed, and how many periods are open."""
    found = mirror.current(db, user)
    row = db.one(
        "select"
        " (select count(*) from entitlements where user_id = %(user)s and allowed) as allowed,"
        " (select count(*) from usage_period"
        "   where user_id = %(user)s and closed_at is null) as open",
        {"user": user},
    )
    assert row is not None
    return (found and (found.id, found.status), row["allowed"], row["open"])


NOTHING = (None, 0, 0)
ORDERS = list(permutations(range(4)))


@pytest.fixture
def people(db: Database) -> list[str]:
    return [add_user(db, name) for name in ("usr_ana", "usr_ben", "usr_cleo")]


@pytest.mark.usefixtures("people")
class TestWords:
    @pytest.mark.parametrize("order", ORDERS)
    def test_the_newest_word_stands(self, db: Database, order: Sequence[int]) -> None:
        """However the webhooks arrive, and though one of them comes twice."""
        words = [
            named("cus_1", "usr_ana", 1), named("cus_1", "usr_ben", 2), named("cus_1", None, 3),
            named("cus_1", "usr_cleo", 4),
        ]  # fmt: skip
        receive(db, *(words[i] for i in order), words[order[0]])
        assert holders(db) == {"usr_cleo": "cus_1"}

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_user_has_one_customer(self, db: Database, order: Sequence[int]) -> None:
        """Two customers swap their users: the last word about each is the right one."""
        words = [
            named("cus_1", "usr_ana", 1), named("cus_2", "usr_ben", 1),
            named("cus_2", "usr_ana", 3), named("cus_1", "usr_ben", 3),
        ]  # fmt: skip
        receive(db, *(words[i] for i in order))
        assert holders(db) == {"usr_ana": "cus_2", "usr_ben": "cus_1"}

    def test_a_word_without_a_time(self, db: Database) -> None:
        """Does not count: Commet is asked."""
        receive(db, named("cus_1", "usr_ana", 1), named("cus_1", "usr_ben", None))
        assert (holders(db), due(db, "cus_1")) == ({"usr_ana": "cus_1"}, True)

    def test_two_words_of_one_moment(self, db: Database) -> None:
        """Their order cannot be told: Commet is asked."""
        receive(db, named("cus_1", "usr_ana", 1), named("cus_1", "usr_ben", 1))
        assert (holders(db), due(db, "cus_1")) == ({"usr_ana": "cus_1"}, True)

    def test_an_id_that_cannot_be_read(self, db: Database) -> None:
        """Takes nothing away: Commet is asked."""
        receive(db, named("cus_1", "usr_ana", 1), named("cus_1", None, 2, externalId=7))
        assert (holders(db), due(db, "cus_1")) == ({"usr_ana": "cus_1"}, True)

    def test_a_user_who_registers_later(self, db: Database) -> None:
        """Commet is asked then, and what it says links the two."""
        receive(db, named("cus_1", "usr_late", 1))
        db.execute("update customers set due_at = null")
        add_user(db, "usr_late")
        assert due(db, "cus_1")
        customers.record(db, answer("cus_1", "usr_late", moment(1)), NOW)
        assert holders(db) == {"usr_late": "cus_1"}

    def test_a_customer_that_we_made_needs_no_question(self, db: Database) -> None:
        receive(db, named("cus_1", "usr_ana", 1, ours=True))
        assert (holders(db), due(db, "cus_1")) == ({"usr_ana": "cus_1"}, False)

    @pytest.mark.parametrize("ours", [True, False])
    def test_after_we_asked_for_a_customer(self, db: Database, *, ours: bool) -> None:
        """Only the one that was made for the user is theirs: the other has the same address."""
        db.execute(customers._sql["request"], {"user_id": "usr_ana"})
        receive(db, named("cus_1", "usr_ana", 1, ours=ours))
        assert holders(db) == ({"usr_ana": "cus_1"} if ours else {})
        assert customers.is_awaited(db, "usr_ana") is not ours
        outcome = "applied" if ours else "ignored"
        assert receive(db, state("usr_ana", "sub_1", 2)) == [outcome]
        mirror.record_change(
            db, "usr_ana", Change("sub_2", {"status": "active"}), at=moment(3), now=NOW
        )
        assert (mirror.current(db, "usr_ana") is not None) is ours


@pytest.mark.usefixtures("people")
class TestTheSameAddress:
    """Commet has given somebody else's customer the id of a user, because of the address."""

    @pytest.fixture
    def taken(self, db: Database, people: list[str]) -> str:
        """Ana asked for a customer; Commet answered with one that has the same address."""
        db.execute(customers._sql["request"], {"user_id": "usr_ana"})
        found = answer("cus_1", people[0], NOW)
        customers.record(db, found, NOW)
        assert holders(db) == {}
        return "cus_1"

    @pytest.mark.usefixtures("taken")
    def test_its_webhooks_are_never_applied(self, db: Database) -> None:
        """Not even when it was given back, nor when the user has a customer of their own."""
        heard = [state("usr_ana", f"sub_{n}", n) for n in range(3)]
        assert receive(db, heard[0]) == ["ignored"]
        customers.record(db, answer("cus_1", None, NOW + timedelta(seconds=1)), NOW)
        assert receive(db, heard[1]) == ["ignored"]
        made = Customer(
            id="cus_2", external_id="usr_ana", updated_at=NOW + timedelta(seconds=2),
            metadata={"user": "usr_ana"},
        )  # fmt: skip
        customers.record(db, made, NOW)
        assert holders(db) == {"usr_ana": "cus_2"}
        inbox.retry_failed(db, mode="sandbox", clock=lambda: NOW, deadline=Deadline.after(9))
        assert rights(db, "usr_ana") == NOTHING
        assert receive(db, heard[2]) == ["applied"]  # from now on it is the user's own

    def test_somebody_decides_later(self, db: Database, taken: str) -> None:
        """In Commet's dashboard: the customer is the user's after all."""
        customers.record(db, answer(taken, None, NOW + timedelta(seconds=1)), NOW)
        receive(db, named(taken, "usr_ana", None, updatedAt=iso(NOW + timedelta(minutes=6))))
        assert holders(db) == {"usr_ana": taken}

    def test_a_change_of_something_else(self, db: Database, taken: str) -> None:
        """Nobody decided anything: the customer was never given back, and got another name."""
        receive(db, named(taken, "usr_ana", None, updatedAt=iso(NOW + timedelta(days=1))))
        assert holders(db) == {}

    def test_an_old_subscription_of_the_user(self, db: Database) -> None:
        """What Commet says about it still ends it."""
        receive(db, state("usr_ana", "sub_1", 1))
        db.execute(customers._sql["request"], {"user_id": "usr_ana"})
        ended = Change("sub_1", {"status": "canceled"})
        mirror.record_change(db, "usr_ana", ended, at=moment(2), now=NOW)
        assert rights(db, "usr_ana")[0] == ("sub_1", "canceled")


@pytest.mark.usefixtures("people")
class TestMoves:
    @pytest.mark.parametrize("order", ORDERS)
    def test_a_subscription_follows_the_newest_word(
        self, db: Database, order: Sequence[int]
    ) -> None:
        words = [
            state("usr_ana", "sub_1", 1), state("usr_ben", "sub_1", 2, "past_due"),
            state("usr_ana", "sub_1", 3, "past_due"), state("usr_ben", "sub_1", 4),
        ]  # fmt: skip
        assert receive(db, *(words[i] for i in order)) == ["applied"] * 4
        assert rights(db, "usr_ana") == NOTHING
        assert rights(db, "usr_ben") == (("sub_1", "active"), 1, 1)

    @pytest.mark.parametrize("order", ORDERS)
    def test_with_its_customer(self, db: Database, order: Sequence[int]) -> None:
        """Words about the customer between words about the subscription."""
        words = [
            named("cus_1", "usr_ana", 0), state("usr_ana", "sub_1", 1),
            named("cus_1", "usr_ben", 2), state("usr_ben", "sub_1", 3),
        ]  # fmt: skip
        assert receive(db, *(words[i] for i in order)) == ["applied"] * 4
        assert rights(db, "usr_ana") == NOTHING
        assert rights(db, "usr_ben") == (("sub_1", "active"), 1, 1)
        assert holders(db) == {"usr_ben": "cus_1"}

    def test_the_word_about_the_customer_alone(self, db: Database) -> None:
        """Ends what the user had of it; a refresh asks whose it is."""
        receive(db, named("cus_1", "usr_ana", 0), state("usr_ana", "sub_1", 1))
        receive(db, named("cus_1", "usr_ben", 2))
        assert rights(db, "usr_ana") == (("sub_1", "canceled"), 0, 0)
        marked = "select refresh_due is not null from subscriptions where id = 'sub_1'"
        assert (db.value(marked), due(db, "cus_1")) == (True, True)

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_nothing_is_heard_of_the_new_user(self, db: Database, order: Sequence[int]) -> None:
        """The old user has lost it all the same, also where the older word comes last."""
        words = [
            named("cus_1", "usr_ana", 0), state("usr_ana", "sub_1", 1), named("cus_1", "usr_ben", 2)
        ]  # fmt: skip
        assert receive(db, *(words[i] for i in order)) == ["applied"] * 3
        assert due(db, "cus_1")  # and Commet is asked what the new user has
        if order.index(0) < order.index(2):  # else we do not know that it was the old user's
            assert rights(db, "usr_ana") == (("sub_1", "canceled"), 0, 0)

    def test_another_subscription_stays(self, db: Database) -> None:
        """What the old user has of another customer is not touched; Commet is asked about it."""
        receive(db, state("usr_ana", "sub_1", 1), state("usr_ana", "sub_2", 2))
        receive(db, state("usr_ben", "sub_1", 3))
        assert rights(db, "usr_ana")[0] == ("sub_2", "active")
        assert rights(db, "usr_ben")[0] == ("sub_1", "active")

    def test_an_old_answer(self, db: Database) -> None:
        """Asked before the move, written after it: the subscription stays where it is."""
        receive(db, state("usr_ana", "sub_1", 1), state("usr_ben", "sub_1", 3))
        change = Change("sub_1", {"status": "active"}, owned_at=moment(2))
        mirror.record_change(db, "usr_ana", change, at=moment(9), now=NOW)
        assert rights(db, "usr_ben")[0] == ("sub_1", "active")


@pytest.mark.usefixtures("people")
class TestAtOnce:
    def test_two_moves(self, race: Race, db: Database) -> None:
        """The second sees whose it became: nobody keeps what went on to somebody else."""
        receive(db, state("usr_ana", "sub_1", 1))
        race.first(lambda mine: receive(mine, state("usr_ben", "sub_1", 2)))
        other = race.second(lambda mine: receive(mine, state("usr_cleo", "sub_1", 3)))
        assert other.waits
        race.commit()
        assert other.answer == ["applied"]
        assert [rights(db, each) for each in ("usr_ana", "usr_ben")] == [NOTHING, NOTHING]
        assert rights(db, "usr_cleo") == (("sub_1", "active"), 1, 1)

    def test_first_heard_of_for_two(self, race: Race, db: Database) -> None:
        """A subscription that is new to us, named for two users at the same moment."""
        race.first(lambda mine: receive(mine, state("usr_ana", "sub_1", 1)))
        other = race.second(lambda mine: receive(mine, state("usr_ben", "sub_1", 2)))
        race.commit()
        assert other.answer == ["applied"]
        assert rights(db, "usr_ana") == NOTHING
        assert rights(db, "usr_ben") == (("sub_1", "active"), 1, 1)

    def test_an_older_word_about_a_customer(self, db: Database, database_url: str) -> None:
        """It has seen that the customer is there when the newer one comes: it changes nothing."""
        receive(db, named("cus_1", None, 0))
        older, newer = in_between(
            lambda: _connect(database_url),
            "customers",
            lambda mine: receive(mine, named("cus_1", "usr_ben", 4)),
            lambda mine: receive(mine, named("cus_1", "usr_ana", 5)),
        )
        assert (older, newer) == (["applied"], ["applied"])
        assert holders(db) == {"usr_ana": "cus_1"}

    def test_a_request_for_a_customer(self, race: Race, db: Database) -> None:
        """What Commet says while we begin to ask for a customer counts as said after it."""
        race.first(lambda mine: mine.execute(customers._sql["request"], {"user_id": "usr_ana"}))
        other = race.second(lambda mine: receive(mine, named("cus_1", "usr_ana", 1)))
        assert other.waits
        race.commit()
        assert other.answer == ["applied"]
        assert holders(db) == {}

    def test_two_runs_ask_about_different_customers(self, race: Race, db: Database) -> None:
        """A customer that one run asks about is passed by."""
        customers.note(db, ["cus_1", "usr_not_commets"])
        lease = customer_watch._sql["lease"]
        assert len(race.first(lambda mine: mine.all(lease, {"limit": 5}))) == 1
        other = race.second(lambda mine: mine.all(lease, {"limit": 5}))
        assert not other.waits
        assert other.answer == []

    def test_everything_at_once(self, db: Database, database_url: str) -> None:
        """Eight connections move four customers and subscriptions among three users."""
        users = ("usr_ana", "usr_ben", "usr_cleo")
        chance = random.Random(7)  # noqa: S311 - the same moves each time
        bodies, last = [], {}
        for minute in range(120):
            number, user = chance.randrange(4), chance.choice(users)
            last[number] = user
            bodies.append(state(user, f"sub_{number}", minute))
            bodies.append(named(f"cus_{number}", user, minute))
        chance.shuffle(bodies)

        def apply(part: int) -> list[str]:
            with own_database(database_url) as mine:
                return receive(mine, *bodies[part::8])

        with ThreadPoolExecutor(8) as pool:
            outcomes = [each for done in pool.map(apply, range(8)) for each in done]
        assert outcomes == ["applied"] * len(bodies)
        owners = {
            row["id"]: row["user_id"] for row in db.all("select id, user_id from subscriptions")
        }
        assert owners == {f"sub_{number}": user for number, user in last.items()}
        for user in users:
            assert rights(db, user)[2] <= 1
            if user not in last.values():
                assert rights(db, user) == NOTHING
