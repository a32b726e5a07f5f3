"""Postgres is down, our code is broken, Commet gave up on us: all of it heals, told on the stack.

Commet here is the stand-in with its own rules of delivery: eight attempts, and three events in a
row that fail them all switch the endpoint off.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest

from billing.database.connection import Connection, Row
from billing.subscriptions.inbox import MAX_ATTEMPTS
from local.stack import LocalStack
from standin.testing import Control
from tests.integration.billing.signed import body

Mirror = Callable[[], Connection]
BuyerFactory = Callable[..., "Buyer"]


class Buyer:
    """Somebody who signed up and started a checkout."""

    def __init__(self, stack: LocalStack, http: httpx.Client, plan: str = "usage_pro") -> None:
        self.http = http
        self._stack = stack
        login = {"email": f"{uuid4().hex}@example.com", "password": "a long walk home"}
        answer = http.post("/signup", json=login)
        assert answer.status_code == 201, answer.text
        self.id = str(answer.json()["user"]["id"])
        http.headers["authorization"] = f"Bearer {answer.json()['session']['token']}"
        stack.confirm_address(self.id)
        checkout = http.post("/checkout", json={"plan_code": plan})
        assert checkout.status_code == 201, checkout.text
        self.subscription = str(checkout.json()["subscription"]["id"])
        self._commet = stack.commet
        self._key = stack.commet_api_key

    def uses(self, quantity: str) -> int:
        """The product reports usage of theirs; the status of the answer."""
        usage = {
            "user_id": self.id, "feature": "storage", "quantity": quantity,
            "idempotency_key": uuid4().hex,
        }  # fmt: skip
        key = {"authorization": f"Bearer {self._stack.service_key}"}
        return self.http.post("/usage", json=usage, headers=key).status_code

    def cancels_at_commet(self) -> None:
        """At once, in Commet's portal."""
        httpx.post(
            f"{self._commet}/subscriptions/{self.subscription}/cancel",
            json={"immediate": True},
            headers={"x-api-key": self._key},
            trust_env=False,
        ).raise_for_status()


@pytest.fixture
def buyer(stack: LocalStack, remote: Control) -> Iterator[BuyerFactory]:
    """Makes buyers; of their checkouts everything has been told already."""
    clients: list[httpx.Client] = []

    def make(plan: str = "usage_pro") -> Buyer:
        clients.append(httpx.Client(base_url=stack.api, timeout=40, trust_env=False))
        made = Buyer(stack, clients[-1], plan)
        remote.settle()
        return made

    yield make
    for client in clients:
        client.close()


@contextmanager
def postgres_down(stack: LocalStack) -> Iterator[None]:
    assert stack._postgres is not None
    stack._postgres.stop()
    try:
        yield
    finally:
        stack._postgres.start()


@contextmanager
def a_bug(mirror: Mirror, subscription: str) -> Iterator[None]:
    """Every write to one subscription fails, as a bug of ours would make it."""
    with mirror() as db:
        db.execute(
            "create or replace function fail() returns trigger language plpgsql as"
            " $$ begin raise exception 'a bug'; end $$"
        )
        db.execute(
            "create trigger a_bug before insert or update of status on subscriptions for each row"
            f" when (new.id = '{subscription}') execute function fail()".encode()
        )
    try:
        yield
    finally:
        with mirror() as db:
            db.execute("drop trigger a_bug on subscriptions")


def status(mirror: Mirror, subscription: str) -> str:
    with mirror() as db:
        row = db.execute(
            "select status from subscriptions where id = %s", [subscription]
        ).fetchone()
    assert row is not None
    return str(row["status"])


def inbox(mirror: Mirror, user: str) -> list[Row]:
    """This user's events, by occurrence."""
    with mirror() as db:
        return db.execute(
            "select * from webhooks where customer = %s order by occurred_at, id", [user]
        ).fetchall()


def reconcile(stack: LocalStack, mirror: Mirror, command: dict[str, Any] | None = None) -> Any:
    """One invocation, all pauses over."""
    with mirror() as db:
        db.execute("update webhooks set due_at = now() where due_at is not null")
        db.execute(
            "update subscriptions set checked_at = null,"
            " refresh_due = case when refresh_due is not null then now() end"
        )
    return stack.invoke("ReconcileFunction", command or {})


def is_active(remote: Control) -> bool:
    (endpoint,) = remote.state()["webhooks"]
    return bool(endpoint["is_active"])


class TestPostgresIsDown:
    def test_commet_is_told_and_sends_again(
        self, stack: LocalStack, mirror: Mirror, remote: Control, buyer: BuyerFactory
    ) -> None:
        """503 while it lasts; the attempts after it bring everything, nobody has to ask."""
        ana = buyer()
        with postgres_down(stack):
            remote.pay(ana.subscription)
            remote.settle()
            refused = [d for d in remote.deliveries(status="pending") if d["attempts"]]
            assert {a["status"] for d in refused for a in d["attempts"]} == {503}
        remote.advance(seconds=10)
        remote.settle()
        assert remote.deliveries(status="pending") == []
        assert status(mirror, ana.subscription) == "active"
        assert {row["status"] for row in inbox(mirror, ana.id)} == {"applied"}

    def test_both_doors(self, stack: LocalStack) -> None:
        """A problem document that says to come back, on the API and on the function's URL."""
        event = body("invoice.created", 1)
        signature = hmac.new(stack.webhook_secret.encode(), event, hashlib.sha256).hexdigest()
        headers = {"x-commet-signature": signature, "content-type": "application/json"}
        with postgres_down(stack), httpx.Client(timeout=40, trust_env=False) as http:
            for door in (stack.function_url, f"{stack.api}/webhooks/commet"):
                answer = http.post(door, content=event, headers=headers)
                assert (answer.status_code, answer.json()["status"]) == (503, 503)


class TestOurBug:
    def test_acknowledged_and_healed(
        self, stack: LocalStack, mirror: Mirror, remote: Control, buyer: BuyerFactory
    ) -> None:
        """Commet sees nothing of it; reconcile applies the events once the bug is gone."""
        ana = buyer()
        with a_bug(mirror, ana.subscription):
            remote.pay(ana.subscription)
            remote.settle()
            assert remote.deliveries(status="pending") == []
            assert is_active(remote)
            failed = [row for row in inbox(mirror, ana.id) if row["status"] == "failed"]
            assert failed
            summary = reconcile(stack, mirror)
            assert summary["webhooks_failed"] == len(failed) == summary["inbox_failed"]
            assert status(mirror, ana.subscription) == "pending_payment"
        summary = reconcile(stack, mirror)
        assert (summary["webhooks_applied"], summary["inbox_failed"]) == (len(failed), 0)
        assert status(mirror, ana.subscription) == "active"
        assert {row["status"] for row in inbox(mirror, ana.id)} == {"applied"}

    def test_dead_and_redriven(
        self, stack: LocalStack, mirror: Mirror, remote: Control, buyer: BuyerFactory
    ) -> None:
        """After the last attempt only a person can tell; one command tries them again."""
        ana = buyer()
        with a_bug(mirror, ana.subscription):
            remote.pay(ana.subscription)
            remote.settle()
            died = 0
            for _ in range(MAX_ATTEMPTS):
                died += reconcile(stack, mirror)["webhooks_died"]
            dead = [row["id"] for row in inbox(mirror, ana.id) if row["status"] == "dead"]
            assert len(dead) == died > 0
        summary = reconcile(stack, mirror)
        assert (summary["inbox_dead"], summary["webhooks_applied"]) == (died, 0)
        redrive = {"command": "redrive", "what": "webhooks", "user": ana.id}
        assert reconcile(stack, mirror, redrive) == {"redriven": died}
        summary = reconcile(stack, mirror)
        assert (summary["inbox_dead"], summary["webhooks_applied"]) == (0, died)
        assert {row["status"] for row in inbox(mirror, ana.id)} == {"applied"}
        assert status(mirror, ana.subscription) == "active"


class TestHoursOfOutage:
    def test_heals_without_a_human(
        self, stack: LocalStack, mirror: Mirror, remote: Control, buyer: BuyerFactory
    ) -> None:
        """The endpoint is off and what happened is never sent: found, switched on, read again."""
        paid, too, left, later = (buyer() for _ in range(4))
        remote.pay(left.subscription)
        remote.settle()
        with postgres_down(stack):
            remote.pay(paid.subscription)
            remote.pay(too.subscription)
            remote.advance(seconds=4 * 3600)
            assert not is_active(remote)
            left.cancels_at_commet()
            remote.pay(later.subscription)
        assert (status(mirror, paid.subscription), status(mirror, left.subscription)) == (
            "pending_payment",
            "active",
        )
        assert reconcile(stack, mirror)["webhook_endpoint_disabled"] == 1
        assert is_active(remote)
        reconcile(stack, mirror)
        assert [status(mirror, each.subscription) for each in (paid, too, left, later)] == [
            "active",
            "active",
            "canceled",
            "active",
        ]
        assert left.http.get("/dashboard").json()["access"] is False
        assert paid.uses("1") == 202
        assert reconcile(stack, mirror)["webhook_endpoint_disabled"] == 0
        later.cancels_at_commet()
        remote.settle()
        assert status(mirror, later.subscription) == "canceled"


class TestBackFromCheckout:
    @pytest.mark.parametrize("fault", [{"drop": True}, {"delay_ms": 3_600_000}])
    def test_before_the_webhook(
        self, stack: LocalStack, mirror: Mirror, remote: Control, buyer: BuyerFactory,
        fault: dict[str, Any],
    ) -> None:  # fmt: skip
        """The browser is faster, or the webhook never comes: in at once, and for good."""
        ana = buyer()
        remote.fault(webhooks=fault, times=None)
        remote.pay(ana.subscription)
        assert ana.uses("1") == 202
        board = ana.http.get("/dashboard").json()
        assert (board["access"], board["subscription"]["status"]) == (True, "active")
        assert [(each["feature"], each["used"]) for each in board["usage"]] == [("storage", "1")]
        remote.clear_faults()
        remote.advance(seconds=2 * 3600)
        reconcile(stack, mirror)
        assert ana.http.get("/dashboard").json()["usage"][0]["used"] == "1"
