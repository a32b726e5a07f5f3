"""The life of an event in the inbox: found again, redriven, pruned."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from billing import wiring
from billing.accounts import accounts
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import InvalidRequest, NotFound
from billing.operations import commands, housekeeping
from billing.subscriptions import inbox
from tests.integration.billing.conftest import NOW, Subscribe, add_user, own_database
from tests.integration.billing.signed import state

MONTH, YEAR = timedelta(days=30), timedelta(days=400)


def obey(db: Database, command: dict[str, Any]) -> dict[str, Any]:
    """What an operator's command comes to; none of these calls Commet."""
    return commands.obey(db, command, now=NOW, commet=wiring.commet, deadline=Deadline.after(20))


def receive(db: Database, body: bytes, mode: str = "sandbox") -> inbox.Receipt:
    return inbox.receive(db, body, mode=mode, now=NOW)


def retry(db: Database, mode: str = "sandbox") -> dict[str, int]:
    return inbox.retry_failed(db, mode=mode, clock=lambda: NOW, deadline=Deadline.after(20))


def rows(db: Database, columns: str = "status, error") -> list[tuple[Any, ...]]:
    found = db.all(f"select {columns} from webhooks order by occurred_at, id")  # noqa: S608
    return [tuple(each.values()) for each in found]


def old(db: Database, days: float) -> None:
    db.execute("update webhooks set received_at = now() - make_interval(days => %s)", [days])


def kill(db: Database) -> None:
    """Every event had its last attempt."""
    db.execute("update webhooks set status = 'dead', due_at = null, error = 'a bug'")


class TestUnknownCustomers:
    def test_registered_later(self, db: Database) -> None:
        """Events that came before a backend registered its user are applied after all."""
        assert receive(db, state("late", "sub_1", 1)).outcome == "ignored"
        assert rows(db) == [("ignored", "unknown_customer")]
        accounts.put_user(
            db,
            user_id="late",
            email="late@example.com",
            name=None,
            now=NOW,
            deadline=Deadline.after(20),
        )
        assert retry(db) == {"applied": 1}
        assert db.value("select status from subscriptions") == "active"
        assert rows(db) == [("applied", None)]

    def test_linked_later(self, db: Database) -> None:
        """So are those that name Commet's own id, once it is known whose that is."""
        receive(db, state("cus_1", "sub_1", 1))
        user = add_user(db)
        assert retry(db) == {}
        db.execute("update users set commet_customer_id = 'cus_1' where id = %s", [user])
        assert retry(db) == {"applied": 1}
        assert db.value("select user_id from subscriptions") == user

    def test_at_the_same_moment(self, migrated_url: str, db: Database) -> None:
        """However the two cross, the event is applied in the end."""

        def deliver(number: int) -> None:
            with own_database(migrated_url) as each:
                receive(each, state(f"usr_{number}", f"sub_{number}", 1))

        def register(number: int) -> None:
            with own_database(migrated_url) as each:
                add_user(each, f"usr_{number}")

        with ThreadPoolExecutor(6) as pool:
            for number in range(20):
                pool.submit(deliver, number)
                pool.submit(register, number)
        retry(db)
        assert rows(db, "status") == [("applied",)] * 20
        assert db.value("select count(*) from subscriptions where status = 'active'") == 20

    def test_what_was_pruned(self, db: Database) -> None:
        """Without its payload there is nothing to apply: the sweep has to find it."""
        receive(db, state("late", "sub_1", 1))
        db.execute("update webhooks set payload = null")
        add_user(db, "late")
        assert retry(db) == {}

    def test_events_that_change_nothing_stay(self, db: Database) -> None:
        """They are not tried again for a new user."""
        body = state("late", "sub_1", 1).replace(b"customer.state_changed", b"usage.recorded")
        receive(db, body)
        add_user(db, "late")
        assert retry(db) == {}
        assert rows(db) == [("ignored", None)]


class TestOtherMode:
    def test_the_mode_was_wrong(self, db: Database, user: str) -> None:
        """A stack that was told the wrong mode finds its events once it is told the right one."""
        receive(db, state(user, "sub_1", 1, mode="live"))
        assert rows(db) == [("ignored", "other_mode")]
        assert retry(db) == {}
        assert retry(db, mode="live") == {"applied": 1}


class TestRedrive:
    @pytest.fixture
    def dead(self, db: Database) -> list[str]:
        """Two users' events, both dead."""
        users = [add_user(db, f"usr_{number}") for number in range(2)]
        ids = [receive(db, state(user, f"sub_{user}", 1)).event_id for user in users]
        db.execute("truncate subscriptions cascade")
        kill(db)
        return ids

    def test_all(self, db: Database, dead: list[str]) -> None:
        """As if they had just come: a full set of attempts."""
        assert retry(db) == {}
        assert obey(db, {"command": "redrive"}) == {"redriven": len(dead)}
        assert rows(db, "status, attempts") == [("failed", 0)] * 2
        assert retry(db) == {"applied": 2}
        assert obey(db, {"command": "redrive"}) == {"redriven": 0}

    @pytest.mark.parametrize("name", ["id", "user"])
    def test_one(self, db: Database, dead: list[str], name: str) -> None:
        """By its id, or those of one user."""
        chosen = {"id": dead[1], "user": "usr_1"}[name]
        event = {"command": "redrive", "what": "webhooks", name: chosen}
        assert obey(db, event) == {"redriven": 1}
        assert sorted(rows(db, "status")) == [("dead",), ("failed",)]

    @pytest.mark.parametrize(
        "event",
        [{"command": "explode"}, {"command": None}, {"command": "redrive", "what": "users"},
         {"command": "redrive", "id": 7}, {"command": "show"}],
    )  # fmt: skip
    def test_nonsense(self, db: Database, event: dict[str, Any]) -> None:
        """What was meant is asked for; nothing is done."""
        with pytest.raises(InvalidRequest):
            obey(db, event)


class TestHealth:
    def test_counts(self, db: Database, user: str) -> None:
        """What waits, what is dead, and since when."""
        assert inbox.health(db) == inbox.Health(failed=0, dead=0, oldest_seconds=0)
        for minutes in range(3):
            receive(db, state(user, "sub_1", minutes))
        kill(db)
        db.execute(
            "update webhooks set status = 'failed', due_at = now(),"
            " received_at = now() - interval '100 seconds'"
            " where id in (select id from webhooks limit 1)"
        )
        assert inbox.health(db) == inbox.Health(failed=1, dead=2, oldest_seconds=100)


class TestPrune:
    def prune(self, db: Database, seconds: float = 20) -> int:
        return housekeeping.prune_inbox(
            db, NOW, payload_age=MONTH, id_age=YEAR, deadline=Deadline.after(seconds)
        )

    def test_payloads_go_ids_stay(self, db: Database, user: str) -> None:
        """After a month; the same event is still a duplicate."""
        event = state(user, "sub_1", 1)
        receive(db, event)
        old(db, 29)
        assert self.prune(db) == 0
        old(db, 31)
        assert self.prune(db) == 1
        assert rows(db, "payload") == [(None,)]
        assert receive(db, event).outcome == "duplicate"

    def test_what_was_not_applied_is_kept(self, db: Database, user: str) -> None:
        """A dead event can be redriven however long nobody looked."""
        receive(db, state(user, "sub_1", 1))
        kill(db)
        old(db, 500)
        assert self.prune(db) == 0
        assert obey(db, {"command": "redrive"}) == {"redriven": 1}
        assert retry(db) == {"applied": 1}

    def test_rows_go_in_the_end(self, db: Database, user: str) -> None:
        """After more than a year, and a repeat then changes nothing: its news are old."""
        event = state(user, "sub_1", 1)
        receive(db, event)
        receive(db, state(user, "sub_1", 2, "past_due"))
        old(db, 401)
        self.prune(db)
        assert rows(db) == []
        assert receive(db, event).outcome == "applied"
        assert db.value("select status from subscriptions") == "past_due"

    def test_goes_on_where_it_stopped(
        self, db: Database, user: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Any number of rows, received in the same moment or not, in any number of runs."""
        monkeypatch.setattr(housekeeping, "_AT_ONCE", 2)
        for minutes in range(7):
            receive(db, state(user, "sub_1", minutes))
        old(db, 31)
        db.execute("update webhooks set received_at = (select min(received_at) from"
                   " webhooks)")  # fmt: skip
        assert self.prune(db, seconds=0) == 0
        assert self.prune(db) == 7
        assert set(rows(db, "payload")) == {(None,)}
        assert self.prune(db) == 0


class TestShow:
    def test_everything_of_one_user(self, db: Database, subscribe: Subscribe) -> None:
        """By any name: rows, events, and what reconcile would do next."""
        user = subscribe()
        db.execute("update users set commet_customer_id = 'cus_1' where id = %s", [user])
        db.execute("update subscriptions set refresh_due = now()")
        receive(db, state(user, f"sub_{user}", 1))
        dead = receive(db, state("cus_1", f"sub_{user}", 2)).event_id
        db.execute("update webhooks set status = 'dead', error = 'a bug' where id = %s", [dead])
        found = [
            obey(db, {"command": "show", "user": name})
            for name in (user, "cus_1", "USR_ANA@example.com")
        ]
        assert found[0] == found[1] == found[2]
        (shown, *_) = found
        assert shown["user"]["id"] == user
        assert [each["status"] for each in shown["subscriptions"]] == ["active"]
        assert {each["feature"] for each in shown["entitlements"]} == {"storage"}
        assert [each["closed_at"] is None for each in shown["periods"]] == [True, False]
        assert {each["status"] for each in shown["webhooks"]} == {"applied", "dead"}
        assert shown["would_do"] == [
            f"ask Commet about sub_{user} now: it is in doubt",
            f"nothing about webhook {dead}: it is dead until somebody redrives it",
        ]

    def test_nothing_to_do(self, db: Database) -> None:
        """Somebody who never bought anything."""
        user = add_user(db)
        shown = obey(db, {"command": "show", "user": user})
        assert shown["subscriptions"] == []
        assert shown["would_do"] == ["nothing: no row is in doubt and no webhook waits"]

    def test_nobody(self, db: Database) -> None:
        """A clear word."""
        with pytest.raises(NotFound):
            obey(db, {"command": "show", "user": "usr_nobody"})
