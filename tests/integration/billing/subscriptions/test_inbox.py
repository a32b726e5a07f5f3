"""The inbox: everything signed is kept, applied once, and one bad event stops no other."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aws_lambda_powertools import Logger
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.clock import Clock
from billing.database.connection import Connection, Database, Row
from billing.deadline import Deadline
from billing.errors import DatabaseUnavailable
from billing.subscriptions import inbox
from tests.integration.billing.conftest import NOW, add_user, own_database
from tests.integration.billing.signed import body, metered, moment, state


def receive(db: Database, body: bytes) -> str:
    return inbox.receive(db, body, mode="sandbox", now=NOW).outcome


def stored(db: Database, event_id: str) -> Row:
    found = db.one("select * from webhooks where id = %s", [event_id])
    assert found is not None
    return found


def status(db: Database, sub: str) -> str | None:
    found = db.value("select status from subscriptions where id = %s", [sub])
    return None if found is None else str(found)


def retry(db: Database, *, clock: Clock = lambda: NOW, seconds: float = 20) -> dict[str, int]:
    deadline = Deadline.after(seconds)
    return inbox.retry_failed(db, mode="sandbox", clock=clock, deadline=deadline)


def broken(db: Database, sub: str) -> None:
    """From now on every write to one subscription fails, as a bug of ours would make it."""
    db.execute(
        "create or replace function fail() returns trigger language plpgsql as"
        " $$ begin raise exception 'a bug'; end $$"
    )
    db.execute(
        f"create trigger fail_{sub} before insert or update on subscriptions for each row"
        f" when (new.id = '{sub}') execute function fail()"
    )


def mended(db: Database, sub: str) -> None:
    db.execute(f"drop trigger fail_{sub} on subscriptions")


def due(db: Database) -> None:
    """Time passes."""
    db.execute("update webhooks set due_at = now() where status = 'failed'")


@pytest.fixture
def sub() -> str:
    return f"sub_{uuid4().hex[:12]}"


class TestReceive:
    def test_kept_as_it_was_signed(self, shared: Database, user: str, sub: str) -> None:
        """The bytes, what they say about themselves, and what became of them."""
        event = state(user, sub, 1)
        receipt = inbox.receive(shared, event, mode="sandbox", now=NOW)
        row = stored(shared, receipt.event_id)
        assert bytes(row["payload"]) == event
        assert (row["type"], row["mode"], row["customer"], row["status"]) == (
            "customer.state_changed",
            "sandbox",
            user,
            "applied",
        )
        assert row["occurred_at"] == moment(1)
        assert (row["due_at"], row["error"]) == (None, None)

    @pytest.mark.parametrize(
        "text",
        ["", "null", "[]", "7", "{", "\x00", "[" * 100_000, '{"a":' * 50_000, '"' + "x" * 900_000],
        ids=range(9),
    )
    def test_unreadable(self, shared: Database, text: str) -> None:
        """Signed nonsense is kept once and acknowledged."""
        event = (text + " " * len(uuid4().hex[:3])).encode()
        first = inbox.receive(shared, event, mode="sandbox", now=NOW)
        assert first.outcome in ("unreadable", "duplicate")
        assert receive(shared, event) == "duplicate"
        assert stored(shared, first.event_id)["status"] == "unreadable"

    @pytest.mark.parametrize(
        "changes",
        [
            {"id": None}, {"id": 7}, {"id": "\x00"}, {"id": "\ud800"}, {"id": ""},
            {"event": None}, {"event": []}, {"event": "\x00"}, {"event": "x" * 900_000},
            {"timestamp": None}, {"timestamp": "0001-01-01T00:00:00+14:00"},
            {"timestamp": "9999-12-31T23:59:59-01:00"}, {"timestamp": 10**400},
            {"mode": 7}, {"mode": "\ud800"}, {"mode": "x"}, {"organizationId": "\x00"},
            {"data": None}, {"data": []}, {"data": "x" * 900_000}, {"data": {"customerId": {}}},
            {"data": {"customerId": "\x00", "subscriptionId": "\x00"}},
            {"data": {"deep": json.loads("[" * 500 + "]" * 500)}},
        ],
        ids=range(23),
    )  # fmt: skip
    def test_hostile_fields(
        self, shared: Database, user: str, sub: str, changes: dict[str, Any]
    ) -> None:
        """Whatever is signed is stored and acknowledged, and a second time a duplicate."""
        event = json.dumps(json.loads(state(user, sub, 1)) | changes).encode()
        assert receive(shared, event) in ("applied", "ignored")
        assert receive(shared, event) == "duplicate"

    @settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
            | st.sampled_from(["active", "2026-09-01T00:00:00Z", "0001-01-01", "9999-12-31"]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["code", "consumption", "period", "start", "end", "overage",
                                 "includedUnits", "unitPrice", "amount", "id", "name", "enabled"]),
                inner, max_size=5),
            max_leaves=15,
        )
    )  # fmt: skip
    def test_any_state_can_be_applied(self, shared: Database, value: object) -> None:
        """Read leniently, what remains always fits the tables: nothing fails."""
        user = add_user(shared)
        event = json.loads(state(user, f"sub_of_{user}", 1, features=[metered()]))
        for key in ("status", "plan", "features", "billingInterval"):
            event["id"] = f"{user}_{key}"
            changed = event | {"data": event["data"] | {key: value}}
            assert receive(shared, json.dumps(changed).encode()) == "applied"

    def test_at_once(self, migrated_url: str, shared: Database, user: str, sub: str) -> None:
        """Commet may deliver an event twice at the same moment: applied once."""
        event = state(user, sub, 1)

        def deliver(_: int) -> str:
            with own_database(migrated_url) as db:
                return receive(db, event)

        with ThreadPoolExecutor(4) as pool:
            outcomes = sorted(pool.map(deliver, range(8)))
        assert outcomes == ["applied"] + ["duplicate"] * 7
        assert status(shared, sub) == "active"

    def test_the_database_is_down(self) -> None:
        """The one thing Commet is told: it will send it again."""

        def down() -> Connection:
            raise psycopg.OperationalError

        with pytest.raises(DatabaseUnavailable):
            receive(Database(down), b"{}")

    def test_it_cannot_be_stored_at_all(self, db: Database, sub: str) -> None:
        """Neither applied nor kept: then it must come again, so it is not acknowledged."""
        user = add_user(db)
        db.execute("alter table webhooks rename to lost")
        try:
            with pytest.raises(DatabaseUnavailable):
                receive(db, state(user, sub, 1))
        finally:
            db.execute("alter table lost rename to webhooks")
        assert receive(db, state(user, sub, 1)) == "applied"


class TestFailedEvents:
    @pytest.fixture
    def sub(self, db: Database) -> str:  # noqa: ARG002 - emptied before the trigger is made
        return f"sub_{uuid4().hex[:8]}"

    @pytest.fixture
    def user(self, db: Database) -> str:
        return add_user(db)

    def test_acknowledged_and_retried(self, db: Database, user: str, sub: str) -> None:
        """Our bug is not Commet's: stored as failed with a reason, applied once it is mended."""
        broken(db, sub)
        try:
            event = state(user, sub, 1)
            receipt = inbox.receive(db, event, mode="sandbox", now=NOW)
            row = stored(db, receipt.event_id)
            assert (receipt.outcome, row["status"]) == ("failed", "failed")
            assert (
                row["error"] == "RaiseException: a bug (PL/pgSQL function fail() line 1 at RAISE)"
            )
            assert bytes(row["payload"]) == event
            assert db.value("select count(*) from entitlements") == 0
            assert retry(db) == {"failed": 1}
            assert retry(db) == {}
        finally:
            mended(db, sub)
        due(db)
        assert retry(db) == {"applied": 1}
        assert status(db, sub) == "active"
        row = stored(db, receipt.event_id)
        assert (row["status"], row["error"], row["due_at"]) == ("applied", None, None)

    def test_a_row_that_is_refused(
        self,
        db: Database,
        user: str,
        sub: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The constraint and the line of the routine are told, nothing of the row."""
        stream = io.StringIO()
        Logger()  # a function makes the one that the layer's loggers write through
        monkeypatch.setattr(inbox.logger.registered_handler, "stream", stream)
        db.execute(
            "alter table subscriptions add constraint short check (length(id) < 3) not valid"
        )
        try:
            receipt = inbox.receive(db, state(user, sub, 1), mode="sandbox", now=NOW)
        finally:
            db.execute("alter table subscriptions drop constraint short")
        row = stored(db, receipt.event_id)
        log = stream.getvalue()
        [line] = [json.loads(each) for each in log.splitlines() if "event_failed" in each]
        assert receipt.outcome == "failed"
        assert (line["event_id"], line["constraint"]) == (receipt.event_id, "short")
        assert line["sqlstate"] == "23514"
        assert line["routine"][0].startswith("PL/pgSQL function record_subscription(")
        assert line["routine"][0].endswith(" at SQL statement")
        assert line["routine"][0] in row["error"]
        for told in (log, row["error"]):
            assert sub not in told
            assert user not in told

    def test_a_duplicate_of_a_failed_one(self, db: Database, user: str, sub: str) -> None:
        """It is there already: reconcile has it."""
        broken(db, sub)
        try:
            event = state(user, sub, 1)
            assert [receive(db, event), receive(db, event)] == ["failed", "duplicate"]
        finally:
            mended(db, sub)

    def test_dead_after_the_last(self, db: Database, user: str, sub: str) -> None:
        """So many attempts with growing pauses, then somebody has to look."""
        broken(db, sub)
        try:
            event_id = inbox.receive(db, state(user, sub, 1), mode="sandbox", now=NOW).event_id
            pauses, outcomes = [], []
            for _ in range(inbox.MAX_ATTEMPTS - 1):
                due(db)
                outcomes += list(retry(db))
                pauses.append(db.value("select extract(epoch from due_at - now()) from webhooks"))
        finally:
            mended(db, sub)
        assert outcomes == ["failed"] * (inbox.MAX_ATTEMPTS - 2) + ["dead"]
        assert pauses[-1] is None
        doubling = pauses[:6]
        assert len(doubling) == 6
        assert all(one < other for one, other in pairwise(doubling))
        assert max(pauses[:-1]) <= 3600
        due(db)
        assert retry(db) == {}
        assert stored(db, event_id)["status"] == "dead"

    def test_poison_stops_nobody(self, db: Database, user: str, sub: str) -> None:
        """Of many failed events, the one that still fails fails alone."""
        others = [add_user(db) for _ in range(3)]
        subs = {each: f"{sub}_{n}" for n, each in enumerate(others)}
        for each in (sub, *subs.values()):
            broken(db, each)
        receive(db, state(user, sub, 0))
        for each, their in subs.items():
            receive(db, state(each, their, 1))
        for each in subs.values():
            mended(db, each)
        try:
            assert retry(db) == {"failed": 1, "applied": 3}
        finally:
            mended(db, sub)
        assert [status(db, each) for each in subs.values()] == ["active"] * 3

    def test_in_order_of_occurrence(self, db: Database, user: str, sub: str) -> None:
        """The older first, however they came; what is newer stays on top."""
        broken(db, sub)
        receive(db, state(user, sub, 9, "past_due"))
        receive(db, state(user, sub, 1, "active"))
        mended(db, sub)
        before_each = []

        def clock() -> datetime:
            before_each.append(status(db, sub))
            return NOW

        assert retry(db, clock=clock) == {"applied": 2}
        assert before_each == [None, "active"]
        assert status(db, sub) == "past_due"

    def test_two_runs_at_once(
        self, db: Database, migrated_url: str, user: str, sub: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Each event is worked on by one of them; more than a batch is no matter."""
        monkeypatch.setattr(inbox, "_BATCH", 2)
        broken(db, sub)
        for minutes in range(6):
            receive(db, state(user, sub, minutes))
        mended(db, sub)

        def run(_: int) -> int:
            with own_database(migrated_url) as each:
                return sum(retry(each).values())

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(run, range(4))) == 6

    def test_a_lease_that_ran_out(self, db: Database, user: str, sub: str) -> None:
        """Two runs with the same event: the slower one applies nothing and counts nothing."""
        broken(db, sub)
        event_id = inbox.receive(db, state(user, sub, 1), mode="sandbox", now=NOW).event_id
        mended(db, sub)
        payload = bytes(stored(db, event_id)["payload"])
        outcomes = [inbox._retry(db, event_id, payload, mode="sandbox", now=NOW) for _ in range(2)]
        assert outcomes == ["applied", None]

    def test_no_time_left(self, db: Database, user: str, sub: str) -> None:
        """What was not come to is not lost."""
        broken(db, sub)
        receive(db, state(user, sub, 1))
        mended(db, sub)
        assert retry(db, seconds=0) == {}
        assert retry(db) == {"applied": 1}

    def test_time_runs_out_in_a_batch(self, db: Database, user: str) -> None:
        """What was taken and not come to is given back at once, and lost no attempt."""
        ids = []
        for minutes in range(3):
            each = f"sub_{minutes}"
            broken(db, each)
            receipt = inbox.receive(db, state(user, each, minutes), mode="sandbox", now=NOW)
            ids.append(receipt.event_id)
            mended(db, each)
        over = Deadline(time.monotonic() + 3600)

        def clock() -> datetime:
            over._at = 0  # the first event takes all the time there was
            return NOW

        assert inbox.retry_failed(db, mode="sandbox", clock=clock, deadline=over) == {"applied": 1}
        assert [stored(db, each)["attempts"] for each in ids] == [2, 1, 1]
        assert retry(db) == {"applied": 2}

    def test_the_other_mode(self, db: Database, user: str, sub: str) -> None:
        """A live event that failed on a sandbox stack is not applied by the back door."""
        event = state(user, sub, 1, mode="live")
        db.execute(
            "insert into webhooks (id, type, occurred_at, payload, status, due_at)"
            " values ('whev_live', 'customer.state_changed', %s, %s, 'failed', now())",
            [moment(1), event],
        )
        assert retry(db) == {"ignored": 1}
        assert status(db, sub) is None

    def test_a_user_that_is_not_there(self, db: Database, user: str, sub: str) -> None:
        """A failed event of a stranger is ignored in the end."""
        event = state(f"not_{user}", sub, 1)
        db.execute(
            "insert into webhooks (id, type, occurred_at, payload, status, due_at)"
            " values ('whev_1', 'x', %s, %s, 'failed', now())",
            [moment(1), event],
        )
        assert retry(db) == {"ignored": 1}


def test_body_helper_makes_what_commet_sends() -> None:
    """Our own bodies look like the contract's."""
    event = json.loads(body("subscription.created", 0, customerId="usr_1"))
    assert event["timestamp"] == "2026-09-01T00:00:00.000Z"
    assert set(event) == {
        "id", "event", "timestamp", "organizationId", "mode", "apiVersion", "data"
    }  # fmt: skip
