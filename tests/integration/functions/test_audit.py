"""The audit trail: what is written, who reads it, and that functions cannot change it."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, QueryCanceled
from psycopg.types.json import Jsonb

from billing import wiring
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import BillingError, InvalidRequest
from billing.operations import commands, housekeeping
from billing.operations.inspection import of_user
from functions.send_mail import app as send_mail
from tests.environments import forget
from tests.integration.conftest import Context
from tests.integration.functions.calling import Answer, call, service_key, start

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64
SCOPES = ("users:manage", "read", "billing:manage")
PASSWORD = "a long walk home"


@pytest.fixture(autouse=True)
def _functions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start(monkeypatch, database_url, [service_key("app", KEY, *SCOPES)], {})
    yield
    forget()


@pytest.fixture
def role(db: Database, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that acts as the role of most functions."""
    assert db.value("select count(*) from audit") == 0
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set role billing_app")
        yield connection


def put(user: str = "customer-17", **fields: str) -> Answer:
    return call("PUT", f"/users/{user}", {"email": f"{user}@example.com"} | fields, token=KEY)


def entries(user: str = "customer-17", query: str = "") -> list[dict[str, Any]]:
    answer = call("GET", f"/users/{user}/audit{query}", token=KEY)
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json["entries"]
    return found


def said_as(command: dict[str, Any]) -> dict[str, Any]:
    """The row that a command leaves."""
    return {
        "actor": "ann", "note": "ticket 17", "command": command["command"],
        "user_id": command.get("user"),
    }  # fmt: skip


class TestWriting:
    def test_a_user_of_a_product(self) -> None:
        """Registered once, then changed; the same request again writes nothing."""
        for fields in ({}, {}, {"name": "Ana"}):
            assert put(**fields).status in (200, 201)
        call("PATCH", "/users/customer-17", {"email": "new@example.com"}, token=KEY)
        call("PATCH", "/users/customer-17", {"email": "new@example.com"}, token=KEY)
        found = entries()
        assert [each["action"] for each in found] == [
            "account.changed", "account.changed", "account.registered",
        ]  # fmt: skip
        assert {(each["actor_kind"], each["actor"], each["request_id"]) for each in found} == {
            ("service", "app", "req-1")
        }
        assert "example.com" not in str(found)
        assert "Ana" not in str(found)

    def test_limits_and_refused_commands(self) -> None:
        put()
        call("PUT", "/users/customer-17/spend-limit", {"amount": "5"}, token=KEY)
        canceled = call("POST", "/subscription/cancel", {"user_id": "customer-17"}, token=KEY)
        assert canceled.code == "no_billing_account"
        refused, limited, _ = entries()
        assert (refused["action"], refused["outcome"]) == ("billing.canceled", "no_billing_account")
        assert limited["action"] == "billing.spend_limit_changed"
        assert limited["details"] == {"by": "product"}

    def test_the_first_use_of_a_key(self, db: Database) -> None:
        """Once for each scope and day, whichever environment sees it."""
        for _ in range(2):
            put()
            entries()
            forget()
        rows = db.all("select actor, details from audit where action = 'service_key.used'")
        assert sorted(row["details"]["scope"] for row in rows) == ["read", "users:manage"]
        assert {row["actor"] for row in rows} == {"app"}

    def test_an_operator(self, db: Database) -> None:
        """By name, with the command's ids and its note; `show` writes nothing.

        Operators read the note, and so does the person with the export; the list leaves it out.
        """
        put()
        command = {
            "command": "forgive", "user": "customer-17", "debt": "all", "author": "ann",
            "note": "she called",
        }  # fmt: skip
        for each in (command, {"command": "show", "user": "customer-17"}):
            commands.obey(
                db, each, now=wiring.now(), commet=wiring.commet, deadline=Deadline.after(5)
            )
        newest, _ = entries()
        assert (newest["actor_kind"], newest["actor"]) == ("operator", "ann")
        assert newest["details"] == {"command": "forgive", "debt": "all"}
        assert "called" not in str(newest)
        shown = of_user(db, "customer-17", now=wiring.now())["audit"]
        assert [each["note"] for each in shown] == ["she called", None]
        exported = call("GET", "/users/customer-17/export", token=KEY).json["sections"]["audit"]
        assert "she called" in {each["note"] for each in exported}
        assert [each["action"] for each in shown] == ["operator.command", "account.registered"]

    @pytest.mark.parametrize(
        "command",
        [
            {"command": "redrive", "what": "webhooks", "user": "customer-17"},
            {"command": "sweep"},
            {"command": "compare"},
            {"command": "repair_drift", "user": "customer-17"},
            {"command": "resolve", "user": "customer-17", "id": "no such delivery"},
            {"command": "resolve_dispute", "user": "customer-17", "transaction": "txn_1",
             "outcome": "won"},
            {"command": "forgive", "user": "customer-17", "debt": "all"},
            {"command": "end_sessions", "user": "customer-17"},
            {"command": "adopt", "user": "customer-17", "customer": "cus_1"},
            {"command": "refund", "transaction": "txn_1"},
            {"command": "endpoints"},
            {"command": "enable_endpoint", "endpoint": "ep_" + "1" * 24},
            {"command": "redeliver", "endpoint": "ep_" + "1" * 24, "from": "2026-03-01T00:00:00Z"},
        ],
        ids=lambda command: command["command"],
    )  # fmt: skip
    def test_each_command_keeps_who_and_why(self, db: Database, command: dict[str, Any]) -> None:
        """Whatever became of it."""
        put()
        said = {"author": "ann", "note": "ticket 17"}
        with suppress(BillingError):
            commands.obey(
                db, command | said, now=wiring.now(), commet=wiring.commet,
                deadline=Deadline.after(5),
            )  # fmt: skip
        kept = db.one(
            "select actor, note, details->>'command' as command, user_id from audit"
            " where action = 'operator.command'"
        )
        assert kept == said_as(command)

    def test_every_command_is_in_this_list(self) -> None:
        """An erasure keeps no note, and is tested with the erasure; `show` changes nothing."""
        (tested,) = (
            mark.args[1] for mark in TestWriting.test_each_command_keeps_who_and_why.pytestmark
        )
        named = {each["command"] for each in tested} | {"erase", "show"}
        assert named == commands._COMMANDS.keys()

    def test_a_command_that_a_statement_timed_out_is_not_kept_as_done(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def time_out(*_: object, **__: object) -> None:
            raise QueryCanceled

        monkeypatch.setitem(commands._COMMANDS, "sweep", time_out)
        with pytest.raises(QueryCanceled):
            commands.obey(
                db, {"command": "sweep"}, now=wiring.now(), commet=wiring.commet,
                deadline=Deadline.after(5),
            )  # fmt: skip
        assert db.value("select outcome from audit") == "internal_error"

    def test_the_url_of_an_endpoint_is_not_kept_as_its_id(self, db: Database) -> None:
        """It may have a password in it."""
        url = "https://app.example.com/hooks?token=secret"
        with pytest.raises(InvalidRequest):
            commands.obey(
                db, {"command": "enable_endpoint", "endpoint": url}, now=wiring.now(),
                commet=wiring.commet, deadline=Deadline.after(5),
            )  # fmt: skip
        assert db.value("select count(*) from audit") == 0

    @pytest.mark.parametrize("command", [{"author": 7}, {"note": ["x"]}, {"note": "x" * 2001}])
    def test_who_and_why_are_texts(self, db: Database, command: dict[str, Any]) -> None:
        """Refused before anything is done."""
        with pytest.raises(InvalidRequest):
            commands.obey(
                db, {"command": "sweep"} | command, now=wiring.now(), commet=wiring.commet,
                deadline=Deadline.after(5),
            )  # fmt: skip
        assert db.value("select count(*) from rounds") == 0

    def test_commands_about_mails(self, db: Database) -> None:
        """They go to another function, and are kept in the same way, without the address."""
        said = {"author": "ann", "note": "ticket 17"}
        for command in (
            {"command": "redrive", "user": "customer-17"},
            {"command": "allow", "address": "ana@example.com"},
        ):
            send_mail.handler(command | said, Context(55))
        rows = db.all("select actor, note, user_id, details from audit order by at")
        assert [tuple(row.values()) for row in rows] == [
            ("ann", "ticket 17", "customer-17", {"command": "mail_redrive"}),
            ("ann", "ticket 17", None, {"command": "mail_allow"}),
        ]

    def test_a_statement_that_is_repeated_writes_once(self, db: Database) -> None:
        written = trail.entry(trail.SYSTEM, Action.CHANGED)
        for _ in range(2):
            db.execute("select audit('usr_1', %s)", [written])
        assert db.value("select count(*) from audit") == 1

    @pytest.mark.parametrize(
        ("address", "network"),
        [
            ("203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("nonsense", None),
        ],
    )
    def test_no_whole_address(self, address: str, network: str | None) -> None:
        assert trail.network_of(address) == network


class TestReading:
    def test_page_by_page(self) -> None:
        put()
        for name in "abcd":
            put(name=name)
        query, found = "?limit=2", []
        while query:
            answer = call("GET", f"/users/customer-17/audit{query}", token=KEY).json
            found += answer["entries"]
            cursor = answer["next_cursor"]
            query = f"?limit=2&cursor={cursor}" if cursor else ""
        assert found == entries()
        assert len(found) == 5

    @pytest.mark.parametrize("cursor", ["x", "W10", "WzEsMl0", "bnVsbA"])
    def test_a_cursor_of_no_page(self, cursor: str) -> None:
        put()
        answer = call("GET", f"/users/customer-17/audit?cursor={cursor}", token=KEY)
        assert answer.status == 422

    def test_ones_own_only(self) -> None:
        """A session reads its own user's trail, and no service key's route."""
        put()
        body = {"email": "ana@example.com", "password": PASSWORD}
        token = call("POST", "/signup", body).json["session"]["token"]
        call("PUT", "/spend-limit", {"amount": "5"}, token=token)
        mine = call("GET", "/account/audit", token=token)
        newest, *_ = mine.json["entries"]
        assert newest["action"] == "billing.spend_limit_changed"
        assert {each["actor_kind"] for each in mine.json["entries"]} == {"user"}
        other = call("GET", "/users/customer-17/audit", token=token)
        assert other.code == "service_key_required"
        assert call("GET", "/account/audit", token=KEY).status == 401


class TestKeeping:
    def test_functions_cannot_change_it(self, role: psycopg.Connection[Any]) -> None:
        """They write by the routine alone."""
        written = Jsonb(trail.entry(Actor("service", "app"), Action.CHANGED).obj)
        role.execute("select audit('usr_1', %s)", [written])
        assert role.execute("select count(*) from audit").fetchone() == (1,)
        for statement in (
            "update audit set outcome = 'x'",
            "delete from audit",
            "truncate audit",
            "insert into audit (id, actor_kind, action, outcome)"
            " values (gen_random_uuid(), 'user', 'a.b', 'done')",
        ):
            with pytest.raises(InsufficientPrivilege):
                role.execute(statement)

    def test_the_recent_stays_whatever_is_asked(self, role: psycopg.Connection[Any]) -> None:
        """Whoever has the functions' login cannot have the traces of a month deleted."""
        written = Jsonb(trail.entry(trail.SYSTEM, Action.CHANGED).obj)
        role.execute("select audit('usr_1', %s)", [written])
        assert role.execute("select prune_audit('0 days', 10)").fetchone() == (0,)

    def test_old_entries_go(self, db: Database) -> None:
        for _ in range(3):
            trail.write(db, trail.SYSTEM, Action.CHANGED, user_id="usr_1")
        db.execute(
            "update audit set at = at - interval '401 days'"
            " where id = (select id from audit limit 1)"
        )
        pruned = housekeeping.prune_audit(db, age=timedelta(days=400), deadline=Deadline.after(5))
        assert pruned == 1
        assert db.value("select count(*) from audit") == 2


class TestUsers:
    def test_read_and_patch(self) -> None:
        put(name="Ana")
        patched = call("PATCH", "/users/customer-17", {"name": None}, token=KEY)
        assert patched.json["user"] == {
            "id": "customer-17", "email": "customer-17@example.com", "name": None,
        }  # fmt: skip
        call("PATCH", "/users/customer-17", {"email": "x@example.com"}, token=KEY)
        read = call("GET", "/users/customer-17", token=KEY)
        assert read.json["user"]["email"] == "x@example.com"
        unknown = call("PATCH", "/users/nobody", {"name": "x"}, token=KEY)
        assert (unknown.status, unknown.code) == (404, "unknown_user")

    def test_an_own_account_changes_itself(self) -> None:
        body = {"email": "ana@example.com", "password": PASSWORD}
        user = call("POST", "/signup", body).json["user"]["id"]
        answer = call("PATCH", f"/users/{user}", {"name": "x"}, token=KEY)
        assert (answer.status, answer.code) == (409, "own_account")

    def test_an_address_of_another(self) -> None:
        """It is contact data: two users may have the same."""
        put()
        put("customer-18")
        answer = call(
            "PATCH", "/users/customer-18", {"email": "customer-17@example.com"}, token=KEY
        )
        assert answer.status == 200
