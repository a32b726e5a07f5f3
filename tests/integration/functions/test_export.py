"""The export of a user: everything, nothing secret, nothing of others, and in pages that fit."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from billing import wiring
from billing.accounts import erasing, export
from billing.accounts.limits import Limit
from billing.audit import trail
from billing.audit.trail import Action
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.subscriptions import inbox
from functions.track_usage import app as track_usage
from tests.environments import forget
from tests.integration.billing.conftest import NOW, Subscribe
from tests.integration.functions.calling import call, service_key, start

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64
PASSWORD = "a long walk home"

# Tables with a user's id that no section of the export shows, and why.
EXCEPTIONS = {
    "attempts": "counts of an hour",
    "charged_currency": "says that a plan was sold in a currency; the id is of the first buyer",
    "erasure": "of users who are gone",
    "remembered": "of users who are gone",
    "plan_change_lease": "says for seconds that a request is under way",
    "invoice_search": "says that invoices of an ended subscription are looked through",
    "overage_due": "says for minutes that usage is delivered at once",
    "earlier_free_period": "joins two periods, which are exported",
    "usage_key": "hashes of keys",
    "told": "the newest of what outgoing events, which are exported, have said",
    "event_delivery": "says which of the product's endpoints took an outgoing event",
}


@pytest.fixture(autouse=True)
def _functions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scopes = ("users:manage", "usage:write", "read")
    start(monkeypatch, database_url, [service_key("app", KEY, *scopes)], {})
    monkeypatch.setattr(track_usage.metrics.provider, "namespace", "test")
    monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
    yield
    forget()


def exported(user: str, token: str = KEY) -> dict[str, list[dict[str, Any]]]:
    """All pages, put together."""
    path = f"/users/{user}/export" if token == KEY else "/account/export"
    found: dict[str, list[dict[str, Any]]] = {}
    query = ""
    while True:
        answer = call("GET", path + query, token=token)
        assert answer.status == 200, answer.text
        assert len(answer.text) < 6_000_000
        for name, rows in answer.json["sections"].items():
            found.setdefault(name, []).extend(rows)
        if answer.json["next_cursor"] is None:
            return found
        query = f"?cursor={answer.json['next_cursor']}"


def test_every_table_is_exported_or_an_exception(db: Database) -> None:
    """Tables with a column that names a user, or that hang on a table that does."""
    tables = {
        row["table_name"]
        for row in db.all(
            "select distinct c.table_name from information_schema.columns c"
            " join information_schema.tables t using (table_schema, table_name)"
            " where c.table_schema = 'public' and t.table_type = 'BASE TABLE'"
            " and c.column_name in ('user_id', 'period', 'customer', 'about', 'external_id',"
            "                       'heir', 'key', 'commet_customer_id')"
        )
    }
    statements = " ".join(statement for statement, _ in export.SECTIONS.values())
    shown = {
        table
        for table in tables
        if f" {table} t" in statements or f" exported_{table} t" in statements
    }
    assert tables - shown == EXCEPTIONS.keys() & tables
    assert EXCEPTIONS.keys() <= tables


def test_everything(subscribe: Subscribe, db: Database) -> None:
    subscribe("usr_ana")
    subscribe("usr_bob")
    for user in ("usr_ana", "usr_bob"):
        body = {
            "user_id": user, "feature": "storage", "quantity": 120, "idempotency_key": f"k-{user}",
            "properties": {"path": f"/{user}"},
        }  # fmt: skip
        assert call("POST", "/usage", body, token=KEY).status == 202
        db.execute(
            "insert into webhooks (id, type, customer, user_id, payload, status)"
            " values (%(id)s, 'invoice.sent', %(user)s, %(user)s, %(payload)s, 'applied')",
            {"id": f"whev_{user}", "user": user, "payload": f'{{"to": "{user}"}} \udc00'.encode(
                "utf-8", "surrogatepass"
            )},
        )  # fmt: skip
    found = exported("usr_ana")
    assert found["account"][0]["email"] == "usr_ana@example.com"
    assert found["ledger"][0]["properties"] == {"path": "/usr_ana"}
    assert found["totals"][0]["total"] == 120
    assert found["webhooks"][0]["payload"].startswith('{"to": "usr_ana"}')
    assert "usr_bob" not in json.dumps(found)
    assert found.keys() == export.SECTIONS.keys()


class TestWebhooks:
    """The content of a webhook is the export of the user whose it was, and of nobody else."""

    @staticmethod
    def hear(event: str, minutes: int = 0, **data: Any) -> str:
        at = (NOW + timedelta(minutes=minutes)).isoformat()
        body = json.dumps({
            "id": f"whev_{uuid4().hex[:12]}", "event": event, "mode": "sandbox", "timestamp": at,
            "data": {"updatedAt": at, **data},
        }).encode()  # fmt: skip
        return inbox.receive(wiring.database(), body, mode="sandbox", now=NOW).outcome

    @pytest.mark.parametrize("early", [True, False])
    def test_of_somebody_with_the_same_address(
        self, subscribe: Subscribe, db: Database, *, early: bool
    ) -> None:
        """Commet gave Vera's customer the id of Ana, who checked out with Vera's address."""
        subscribe("usr_ana", starts_at=None)
        db.execute("update users set customer_requested_at = now()")
        link: dict[str, Any] = {
            "id": "cus_vera",
            "externalId": "usr_ana",
            "email": "vera@example.com",
        }
        if not early:
            assert self.hear("customer.updated", **link, fullName="Vera") == "applied"
        hers: dict[str, Any] = {
            "externalId": "usr_ana",
            "customerId": "cus_vera",
            "customerName": "Vera",
        }
        for event in ("invoice.created", "invoice.sent", "payment.received"):
            assert self.hear(event, invoiceId="inv_1", subscriptionId="sub_1", **hers) == "ignored"
        if early:
            assert self.hear("customer.updated", **link, fullName="Vera") == "applied"
        assert exported("usr_ana")["webhooks"] == []
        assert db.value("select count(*) from webhooks where payload is not null") == 0

    def test_of_a_customer_that_gets_another_user(self, subscribe: Subscribe) -> None:
        """What was heard before is the user's before; what comes then is the next one's."""
        for user in ("usr_ana", "usr_bob"):
            subscribe(user, starts_at=None)
        self.hear("customer.updated", 0, id="cus_1", externalId="usr_ana", fullName="Ana")
        self.hear("invoice.sent", 1, customerId="cus_1", customerName="Ana")
        self.hear("customer.updated", 2, id="cus_1", externalId="usr_bob", fullName="Bob")
        self.hear("invoice.sent", 3, customerId="cus_1", customerName="Bob")
        for user, name in (("usr_ana", "Ana"), ("usr_bob", "Bob")):
            texts = [row["payload"] for row in exported(user)["webhooks"]]
            assert [name in text for text in texts] == [True, True]
        erasing.erase(wiring.database(), "usr_ana", by=trail.SOMEBODY)
        kept = wiring.database().all("select payload from webhooks where payload is not null")
        assert ["Bob" in bytes(row["payload"]).decode() for row in kept] == [True, True]

    def test_of_a_user_who_appears_later(self, subscribe: Subscribe) -> None:
        """Then the webhook is applied, and exported."""
        assert self.hear("subscription.updated", subscriptionId="sub_1", externalId="usr_ana",
                         status="active", customerName="Ana") == "ignored"  # fmt: skip
        subscribe("usr_ana", starts_at=None)
        inbox.retry_failed(
            wiring.database(), mode="sandbox", clock=lambda: NOW, deadline=Deadline.after(9)
        )
        (row,) = exported("usr_ana")["webhooks"]
        assert (row["status"], "Ana" in row["payload"]) == ("applied", True)

    def test_of_one_that_failed(
        self, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It waits for a later run, and is the user's all the same."""
        subscribe("usr_ana", starts_at=None)
        monkeypatch.setattr(inbox, "_change_of", lambda *_: 1 / 0)
        assert self.hear("subscription.updated", externalId="usr_ana") == "failed"
        (row,) = exported("usr_ana")["webhooks"]
        assert row["status"] == "failed"


def test_no_secrets() -> None:
    """Neither tokens nor hashes of them."""
    body = {"email": "ana@example.com", "password": PASSWORD}
    up = call("POST", "/signup", body).json
    found = exported(up["user"]["id"], up["session"]["token"])
    assert len(found["sessions"]) == 1
    assert "changed_at" in found["password"][0]
    text = json.dumps(found)
    for secret in ("argon2", up["session"]["token"], "token_sha256", "fingerprint", "person"):
        assert secret not in text


def test_page_by_page(subscribe: Subscribe, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages together are the document, whatever the size of a page."""
    subscribe("usr_ana")
    events = [
        {"user_id": "usr_ana", "feature": "storage", "quantity": 1, "idempotency_key": f"k{n}"}
        for n in range(250)
    ]
    assert call("POST", "/usage", {"events": events}, token=KEY).status == 202
    db.execute(
        "insert into webhooks (id, type, customer, user_id, payload, status)"
        " select 'whev_' || n, 'x', 'usr_ana', 'usr_ana', convert_to(repeat('x', 100000), 'UTF8'),"
        " 'applied'"
        " from generate_series(1, 70) n"
    )
    whole = exported("usr_ana")
    assert len(whole["ledger"]) == 250
    assert len(whole["webhooks"]) == 70
    monkeypatch.setattr(export, "MAX_BYTES", 20_000)
    assert {name: rows for name, rows in exported("usr_ana").items() if name != "audit"} == {
        name: rows for name, rows in whole.items() if name != "audit"
    }


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "bnVsbA", "WyJtYWlscyIsICJ4IiwgIiIsICIiXQ", "WyJ4IiwgIiIsICIiLCAiIl0"]
)
def test_a_cursor_of_no_page(subscribe: Subscribe, cursor: str) -> None:
    subscribe("usr_ana")
    assert call("GET", f"/users/usr_ana/export?cursor={cursor}", token=KEY).status == 422


def test_a_cursor_of_no_page_on_an_old_connection(subscribe: Subscribe) -> None:
    """After some pages Postgres has a plan for all values, which compares nothing with no row."""
    subscribe("usr_ana")
    for _ in range(8):
        exported("usr_ana")
    cursor = "WyJtYWlscyIsICJ4IiwgIiIsICIiXQ"
    assert call("GET", f"/users/usr_ana/export?cursor={cursor}", token=KEY).status == 422


def test_who_may(subscribe: Subscribe, db: Database) -> None:
    """Asked for with the scope, and written down."""
    subscribe("usr_ana")
    exported("usr_ana")
    assert trail.page(db, "usr_ana", cursor=None, limit=5).entries[0].action == Action.EXPORTED
    assert call("GET", "/users/usr_x/export", token=KEY).code == "unknown_user"


def test_a_limit_of_its_own(subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody keeps the database busy. Each user has one, and its pages count."""
    for user in ("usr_ana", "usr_bob"):
        subscribe(user)
    monkeypatch.setattr(export, "PAGES", Limit(2, timedelta(hours=1)))
    for _ in range(2):
        exported("usr_ana")
    refused = call("GET", "/users/usr_ana/export", token=KEY)
    assert (refused.status, refused.code) == (429, "too_many_requests")
    assert refused.headers["retry-after"] == "3600"  # NOW is a whole hour
    exported("usr_bob")
