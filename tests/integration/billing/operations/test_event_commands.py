"""Operators' commands about the endpoints of events: listed, switched on, events sent again."""

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from billing.audit.trail import Actor
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import InvalidRequest, NotFound
from billing.events import endpoints, log
from billing.operations import commands
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user

BY = Actor("service", "backend")
NO_EVENT = "00000000-0000-4000-8000-000000000000"
UNKNOWN = "ep_000000000000000000000000"
FROM = {"from": (NOW - timedelta(days=3)).isoformat()}


def never() -> Commet:
    raise AssertionError("Commet is not asked")


def obey(db: Database, command: str, **fields: Any) -> dict[str, Any]:
    said = {"author": "ann", "note": "ticket 17"}
    return commands.obey(
        db, {"command": command} | said | fields,
        now=NOW, commet=never, deadline=Deadline.after(5),
    )  # fmt: skip


def add(db: Database, url: str = "https://app.example.com/hooks") -> str:
    return endpoints.create(db, url=url, types=None, description="Ours", by=BY).id


def emit(db: Database, days_ago: int) -> None:
    at = NOW - timedelta(days=days_ago)
    db.execute("select emit_event('usr_ana', 'access.granted', %s, %s)", [at, Jsonb({})])
    log.place(db)


def switch_off(db: Database, endpoint: str) -> None:
    db.execute(
        "update event_endpoint set disabled_at = %s, disabled_by = 'failures', failing_since = %s"
        " where id = %s",
        [NOW, NOW - timedelta(days=3), endpoint],
    )


def listed(db: Database) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = obey(db, "endpoints")["endpoints"]
    return found


def pending(db: Database, endpoint: str) -> int:
    return len(endpoints.deliveries(db, endpoint, state="pending", before=None, limit=9))


def audited(db: Database) -> list[tuple[Any, ...]]:
    """What the operator's commands left, in their order."""
    rows = db.all(
        "select action, outcome, details, actor, note from audit"
        " where actor_kind = 'operator' order by at, id"
    )
    assert {(row["actor"], row["note"]) for row in rows} <= {("ann", "ticket 17")}
    return [(row["action"], row["outcome"], row["details"]) for row in rows]


@pytest.fixture(autouse=True)
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


class TestEndpoints:
    def test_where_there_are_none_the_list_is_empty(self, db: Database) -> None:
        assert obey(db, "endpoints") == {"endpoints": []}

    def test_it_says_which_is_off_or_failing_and_since_when_an_event_waits(
        self, db: Database
    ) -> None:
        on, off = add(db), add(db, "https://old.example.com:8443/hooks?token=secret")
        switch_off(db, off)
        emit(db, 1)
        db.execute("update event_delivery set waits_since = %s", [NOW])
        emit(db, 0)
        assert listed(db) == [
            {
                "id": on, "host": "app.example.com", "description": "Ours", "enabled": True,
                "disabled_by": None, "disabled_at": None, "failing_since": None,
                "waits_since": NOW.isoformat(),
            },
            {
                "id": off, "host": "old.example.com", "description": "Ours", "enabled": False,
                "disabled_by": "failures", "disabled_at": NOW.isoformat(),
                "failing_since": (NOW - timedelta(days=3)).isoformat(), "waits_since": None,
            },
        ]  # fmt: skip

    def test_what_waited_when_it_was_switched_off_is_told(self, db: Database) -> None:
        endpoint = add(db)
        emit(db, 1)
        switch_off(db, endpoint)
        assert listed(db)[0]["waits_since"] is not None
        db.execute("update event_delivery set state = 'sent', ended_at = now()")
        assert listed(db)[0]["waits_since"] is None

    def test_it_is_written_into_the_trail_each_time_and_changes_nothing(self, db: Database) -> None:
        add(db)
        assert listed(db) == listed(db)
        assert audited(db) == [("operator.command", "done", {"command": "endpoints"})] * 2


class TestEnable:
    def test_an_endpoint_is_on_again_and_what_waited_is_due(self, db: Database) -> None:
        endpoint = add(db)
        emit(db, 1)
        switch_off(db, endpoint)
        db.execute("update event_delivery set due_at = now() + interval '1 hour'")
        assert obey(db, "enable_endpoint", endpoint=endpoint) == {"enabled": endpoint}
        (found,) = listed(db)
        assert (found["enabled"], found["disabled_by"], found["failing_since"]) == (
            True, None, None,
        )  # fmt: skip
        assert db.value("select due_at <= now() from event_delivery")

    def test_it_may_be_repeated(self, db: Database) -> None:
        endpoint = add(db)
        switch_off(db, endpoint)
        for _ in range(2):
            assert obey(db, "enable_endpoint", endpoint=endpoint) == {"enabled": endpoint}
        assert listed(db)[0]["enabled"]

    def test_the_command_and_the_change_are_in_the_trail(self, db: Database) -> None:
        endpoint = add(db)
        obey(db, "enable_endpoint", endpoint=endpoint)
        assert audited(db) == [
            ("event_endpoint.changed", "done", {"endpoint": endpoint}),
            ("operator.command", "done", {"command": "enable_endpoint", "endpoint": endpoint}),
        ]

    def test_an_unknown_endpoint_is_refused_and_written_down(self, db: Database) -> None:
        with pytest.raises(NotFound) as refused:
            obey(db, "enable_endpoint", endpoint=UNKNOWN)
        assert refused.value.code == "endpoint_not_found"
        details = {"command": "enable_endpoint", "endpoint": UNKNOWN}
        assert audited(db) == [("operator.command", "endpoint_not_found", details)]

    @pytest.mark.parametrize("fields", [{}, {"endpoint": ""}, {"endpoint": 7}])
    def test_without_an_id_nothing_is_done(self, db: Database, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            obey(db, "enable_endpoint", **fields)
        assert audited(db) == []


class TestRedeliver:
    def test_the_events_of_a_range_are_sent(self, db: Database) -> None:
        """Those from its beginning on, and before its end."""
        for days in (4, 3, 2, 1):
            emit(db, days)
        endpoint = add(db)
        to = (NOW - timedelta(days=1)).isoformat()
        assert obey(db, "redeliver", endpoint=endpoint, **FROM, to=to) == {"queued": 2}
        assert pending(db, endpoint) == 2

    def test_without_an_end_the_range_ends_now(self, db: Database) -> None:
        for days in (4, 3, 2, -1):
            emit(db, days)
        endpoint = add(db)
        assert obey(db, "redeliver", endpoint=endpoint, **FROM) == {"queued": 2}

    def test_one_event_is_sent(self, db: Database) -> None:
        emit(db, 2)
        emit(db, 1)
        event = str(db.value("select id from outgoing_event order by place limit 1"))
        endpoint = add(db)
        assert obey(db, "redeliver", endpoint=endpoint, event=event) == {"queued": 1}
        assert pending(db, endpoint) == 1
        assert [action for action, _, _ in audited(db)] == [
            "event_endpoint.events_redelivered", "operator.command",
        ]  # fmt: skip

    def test_what_waits_already_is_not_counted_again(self, db: Database) -> None:
        emit(db, 1)
        endpoint = add(db)
        counts = [obey(db, "redeliver", endpoint=endpoint, **FROM)["queued"] for _ in range(2)]
        assert counts == [1, 0]
        assert pending(db, endpoint) == 1

    def test_the_command_and_the_act_are_in_the_trail(self, db: Database) -> None:
        endpoint = add(db)
        obey(db, "redeliver", endpoint=endpoint, **FROM)
        details = {"command": "redeliver", "endpoint": endpoint} | FROM
        assert audited(db) == [
            ("event_endpoint.events_redelivered", "done", {"endpoint": endpoint}),
            ("operator.command", "done", details),
        ]

    @pytest.mark.parametrize(
        ("known", "wanted", "code"),
        [
            (False, FROM, "endpoint_not_found"),
            (False, {"event": NO_EVENT}, "endpoint_not_found"),
            (True, {"event": NO_EVENT}, "event_not_found"),
        ],
        ids=["endpoint-of-a-range", "endpoint-of-an-event", "event"],
    )
    def test_what_is_unknown_is_refused_and_written_down(
        self, db: Database, wanted: dict[str, Any], code: str, *, known: bool
    ) -> None:
        fields = {"endpoint": add(db) if known else UNKNOWN} | wanted
        with pytest.raises(NotFound) as refused:
            obey(db, "redeliver", **fields)
        assert refused.value.code == code
        assert audited(db) == [("operator.command", code, {"command": "redeliver"} | fields)]

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"to": NOW.isoformat()},
            {"event": "ev_1"},
            {"event": NO_EVENT} | FROM,
            {"event": NO_EVENT, "to": NOW.isoformat()},
            {"from": "2026-09-01"},
            {"from": "2026-09-01T00:00:00"},
            {"from": "2026-09-01T00:00:00+23:00"},
            {"from": "1756684800"},
            {"from": 1756684800},
            {"from": "yesterday"},
            {"from": NOW.isoformat()},
            {"from": NOW.isoformat(), "to": FROM["from"]},
        ],
        ids=str,
    )
    def test_a_wrong_range_or_event_is_refused(self, db: Database, fields: dict[str, Any]) -> None:
        endpoint = add(db)
        with pytest.raises(InvalidRequest):
            obey(db, "redeliver", endpoint=endpoint, **fields)
        assert audited(db) == []

    def test_without_an_endpoint_nothing_is_done(self, db: Database) -> None:
        with pytest.raises(InvalidRequest):
            obey(db, "redeliver", **FROM)
        assert audited(db) == []
