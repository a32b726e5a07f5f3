"""Endpoints are made, changed and deleted; events are sent to them again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from billing.audit.trail import Actor
from billing.database.connection import Database, Params, Row
from billing.deadline import Deadline
from billing.errors import Conflict, InvalidRequest, NotFound
from billing.events import endpoints, log
from billing.events.endpoints import Change, Endpoint
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user

BY = Actor("service", "backend")
UNKNOWN = "ep_000000000000000000000000"


def redeliver(db: Database, endpoint: Endpoint, start: datetime, end: datetime) -> int:
    return endpoints.redeliver_range(
        db, endpoint.id, start, end, by=BY, deadline=Deadline.after(20)
    )


def add(db: Database, types: list[str] | None = None) -> Endpoint:
    return endpoints.create(
        db, url="https://app.example.com/hooks", types=types, description="Ours", by=BY
    )


def emit(db: Database, kind: str = "access.granted", *, days_ago: int = 0) -> None:
    at = NOW - timedelta(days=days_ago)
    db.execute("select emit_event(%s, %s, %s, %s)", ["usr_ana", kind, at, Jsonb({})])


@pytest.fixture(autouse=True)
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


class TestCreate:
    def test_what_was_made_is_listed(self, db: Database) -> None:
        made = [add(db), add(db, ["access.ended"])]
        assert endpoints.listed(db) == made
        assert [each.types for each in made] == [None, ["access.ended"]]
        assert endpoints.get(db, made[1].id) == made[1]

    def test_there_are_ten_at_most(self, db: Database, connect: Callable[[], Database]) -> None:
        databases = [connect() for _ in range(4)]

        def make_four(mine: Database) -> list[str]:
            codes = []
            for _ in range(4):
                try:
                    add(mine)
                except Conflict as error:
                    codes.append(error.code)
            return codes

        with ThreadPoolExecutor(4) as pool:
            refused = [code for codes in pool.map(make_four, databases) for code in codes]
        assert refused == ["too_many_endpoints"] * 6
        assert len(endpoints.listed(db)) == 10
        endpoints.delete(db, endpoints.listed(db)[3].id, by=BY)
        assert add(db) in endpoints.listed(db)


class TestChange:
    def test_only_what_is_named_changes(self, db: Database) -> None:
        endpoint = add(db, ["access.ended"])
        changed = endpoints.change(db, endpoint.id, Change(description="Theirs"), by=BY)
        assert (changed.description, changed.types) == ("Theirs", ["access.ended"])
        changed = endpoints.change(
            db, endpoint.id, Change(types=[], url="https://b.example"), by=BY
        )
        assert (changed.types, changed.url) == (None, "https://b.example")

    def test_an_endpoint_is_switched_off_and_on(self, db: Database) -> None:
        endpoint = add(db)
        off = endpoints.change(db, endpoint.id, Change(enabled=False), by=BY)
        assert off.disabled_by == "request"
        again = endpoints.change(db, endpoint.id, Change(enabled=False), by=BY)
        assert again.disabled_at == off.disabled_at
        assert endpoints.change(db, endpoint.id, Change(enabled=True), by=BY).disabled_at is None

    @pytest.mark.parametrize("wanted", [Change(enabled=True), Change(url="https://b.example")])
    def test_what_waits_begins_anew_at_an_endpoint_that_was_mended(
        self, db: Database, wanted: Change
    ) -> None:
        endpoint = add(db)
        emit(db)
        log.place(db)
        db.execute(
            "update event_delivery set due_at = now() + interval '1 hour', first_failed_at = now()"
        )
        db.execute("update event_endpoint set failing_since = now()")
        endpoints.change(db, endpoint.id, Change(description="Theirs"), by=BY)
        assert db.value("select due_at > now() from event_delivery")
        assert endpoints.change(db, endpoint.id, wanted, by=BY).failing_since is None
        assert db.value("select due_at <= now() and first_failed_at is null from event_delivery")

    @pytest.mark.parametrize(
        "act", ["get", "change", "rotate", "delete", "deliveries", "redeliver"]
    )
    def test_an_unknown_endpoint_is_named(self, db: Database, act: str) -> None:
        acts: dict[str, Callable[[], object]] = {
            "get": lambda: endpoints.get(db, UNKNOWN),
            "change": lambda: endpoints.change(db, UNKNOWN, Change(enabled=True), by=BY),
            "rotate": lambda: endpoints.rotate(db, UNKNOWN, by=BY),
            "delete": lambda: endpoints.delete(db, UNKNOWN, by=BY),
            "deliveries": lambda: endpoints.deliveries(
                db, UNKNOWN, state=None, before=None, limit=1
            ),
            "redeliver": lambda: endpoints.redeliver_one(db, UNKNOWN, uuid4(), by=BY),
        }
        with pytest.raises(NotFound) as raised:
            acts[act]()
        assert raised.value.code == "endpoint_not_found"
        assert db.value("select count(*) from audit") == 0

    def test_each_act_is_in_the_audit_trail(self, db: Database) -> None:
        endpoint = add(db)
        endpoints.change(db, endpoint.id, Change(enabled=False), by=BY)
        endpoints.rotate(db, endpoint.id, by=BY)
        endpoints.redeliver_range(db, endpoint.id, NOW, NOW, by=BY, deadline=Deadline.after(20))
        endpoints.delete(db, endpoint.id, by=BY)
        rows = db.all("select actor, action, details from audit order by at, id")
        assert {row["action"] for row in rows} == {
            "event_endpoint.added",
            "event_endpoint.changed",
            "event_endpoint.secret_rotated",
            "event_endpoint.events_redelivered",
            "event_endpoint.deleted",
        }
        assert len(rows) == 5
        assert all(row["details"] == {"endpoint": endpoint.id} for row in rows)


class TestRunTwice:
    """The connection breaks after the commit, and the statement runs a second time."""

    @pytest.fixture(autouse=True)
    def each_runs_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        once = Database.one

        def twice(self: Database, statement: str, params: Params | None = None) -> Row | None:
            once(self, statement, params)
            return once(self, statement, params)

        monkeypatch.setattr(Database, "one", twice)

    def test_one_endpoint_is_made(self, db: Database) -> None:
        made = add(db)
        assert endpoints.listed(db) == [made]
        assert db.value("select count(*) from audit") == 1

    def test_the_tenth_endpoint_is_made(self, db: Database) -> None:
        made = [add(db) for _ in range(10)]
        assert endpoints.listed(db) == made

    def test_a_rotation_makes_one_secret(self, db: Database) -> None:
        endpoint = add(db)
        assert endpoints.rotate(db, endpoint.id, by=BY).generation == 2
        assert endpoints.rotate(db, endpoint.id, by=BY).generation == 3
        assert db.value("select count(*) from audit") == 3


class TestRedeliver:
    def test_an_event_from_before_the_endpoint_is_sent_too(self, db: Database) -> None:
        emit(db)
        log.place(db)
        endpoint = add(db)
        event = db.value("select id from outgoing_event")
        assert endpoints.redeliver_one(db, endpoint.id, event, by=BY) == 1
        assert endpoints.redeliver_one(db, endpoint.id, event, by=BY) == 0  # it waits already
        (delivery,) = endpoints.deliveries(db, endpoint.id, state="pending", before=None, limit=9)
        assert (delivery.event, delivery.sequence) == (event, 1)

    def test_an_unknown_event_is_named_and_not_audited_as_sent(self, db: Database) -> None:
        endpoint = add(db)
        with pytest.raises(NotFound) as raised:
            endpoints.redeliver_one(db, endpoint.id, uuid4(), by=BY)
        assert raised.value.code == "event_not_found"
        assert db.all("select action from audit") == [{"action": "event_endpoint.added"}]

    def test_a_range_has_the_types_of_the_endpoint_and_ends_before_its_end(
        self, db: Database
    ) -> None:
        for days in (4, 3, 2, 1):
            emit(db, days_ago=days)
            emit(db, "access.ended", days_ago=days)
        log.place(db)
        endpoint = add(db, ["access.ended"])
        start, end = NOW - timedelta(days=3), NOW - timedelta(days=1)
        assert (
            endpoints.redeliver_range(
                db, endpoint.id, start, end, by=BY, deadline=Deadline.after(20)
            )
            == 2
        )
        found = endpoints.deliveries(db, endpoint.id, state=None, before=None, limit=9)
        assert [each.type for each in found] == ["access.ended"] * 2
        assert [each.place for each in found] == [6, 4]
        assert endpoints.deliveries(db, endpoint.id, state=None, before=6, limit=9) == found[1:]

    def test_a_long_range_is_queued_whole(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoints, "_REDELIVERED_AT_ONCE", 2)
        for _ in range(5):
            emit(db)
        log.place(db)
        endpoint = add(db)
        later = NOW + timedelta(days=1)
        assert (
            endpoints.redeliver_range(
                db, endpoint.id, NOW, later, by=BY, deadline=Deadline.after(20)
            )
            == 5
        )

    def test_a_range_that_takes_too_long(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was read is sent, and the caller hears that it was not all."""
        monkeypatch.setattr(endpoints, "_REDELIVERED_AT_ONCE", 2)
        for _ in range(5):
            emit(db)
        log.place(db)
        endpoint = add(db)
        end = NOW + timedelta(days=1)
        left = iter([60.0, 1.0])
        deadline = Deadline.after(60)
        monkeypatch.setattr(deadline, "remaining", lambda: next(left))
        with pytest.raises(InvalidRequest) as refused:
            endpoints.redeliver_range(db, endpoint.id, NOW, end, by=BY, deadline=deadline)
        assert refused.value.code == "range_too_long"
        assert "4 events of the range became pending" in str(refused.value)
        found = endpoints.deliveries(db, endpoint.id, state="pending", before=None, limit=9)
        assert len(found) == 4
