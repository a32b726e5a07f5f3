"""A new address by PUT /users reaches Commet: once, the newest, also after Commet was down."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from billing import wiring
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.credentials.secrets import Secrets
from billing.deadline import Deadline
from billing.subscriptions import contacts
from functions.reconcile import app as reconcile
from standin.testing import StandIn, standin
from tests.integration.billing.conftest import own_database
from tests.integration.conftest import Context
from tests.integration.functions.calling import Answer, Store, call, service_key
from tests.integration.functions.test_api import (  # noqa: F401 - one is a fixture
    environment,
)
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    _shop,
    box,
    remote,
)

pytestmark = pytest.mark.handlers

KEY = "svc_" + "c" * 40


@pytest.fixture(autouse=True)
def _product(
    _shop: None,  # noqa: F811
    remote: StandIn,  # noqa: F811
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product that registers users and sells to them."""
    scopes = ("usage:write", "users:manage", "billing:manage", "read")
    store = Store(database_url, [service_key("app", KEY, *scopes)])
    store._values["commet"] = {"api_key": remote.api_key}
    secrets = Secrets(store)
    monkeypatch.setattr(wiring, "secrets", lambda: secrets)


def put(email: str, user: str = "ana", **fields: Any) -> Answer:
    return call("PUT", f"/users/{user}", {"email": email} | fields, token=KEY)


def buy(user: str = "ana") -> Answer:
    body = {"plan_code": "usage_pro", "user_id": user}
    return call("POST", "/checkout", body, token=KEY)


def run() -> dict[str, Any]:
    return reconcile.handler({}, Context(55))


def show(user: str = "ana") -> Any:
    return reconcile.handler({"command": "show", "user": user}, Context(55))["contact"]


def at_commet(remote: StandIn, user: str = "ana") -> tuple[str, str | None]:  # noqa: F811
    found = [c for c in remote.control.state()["customers"] if c["external_id"] == user]
    return found[0]["email"], found[0]["full_name"]


def told(remote: StandIn) -> list[Any]:  # noqa: F811
    return [r["body"] for r in remote.control.requests(method="PATCH", path="/customers")]


@pytest.fixture
def ana(remote: StandIn) -> None:  # noqa: F811
    assert put("old@example.com", name="Ana").status == 201
    assert buy().status == 201
    run()
    assert told(remote) == []


@pytest.mark.usefixtures("ana")
class TestANewAddress:
    def test_reaches_commet_once(self, remote: StandIn) -> None:  # noqa: F811
        assert put("new@example.com", name="Ana B").status == 200
        assert told(remote) == []  # the request does not wait for Commet
        assert run()["contacts_told"] == 1
        assert at_commet(remote) == ("new@example.com", "Ana B")
        assert put("new@example.com", name="Ana B").status == 200
        assert run()["contacts_told"] == 0
        assert len(told(remote)) == 1
        assert show() is None

    def test_after_commet_was_down(self, remote: StandIn) -> None:  # noqa: F811
        remote.control.fault(match={"path": "/customers/*"}, action={"status": 503}, times=None)
        assert put("new@example.com").status == 200
        assert run()["contacts_told"] == 0
        assert at_commet(remote)[0] == "old@example.com"
        remote.control.clear_faults()
        assert run()["contacts_told"] == 1
        assert at_commet(remote)[0] == "new@example.com"

    def test_an_answer_that_is_lost(self, remote: StandIn) -> None:  # noqa: F811
        """Commet may have taken the address: it is told again, when no attempt can arrive late."""
        remote.control.fault(match={"path": "/customers/*"}, action={"reset": "after"}, times=None)
        put("new@example.com")
        assert run()["contacts_told"] == 0
        remote.control.clear_faults()
        assert run()["contacts_told"] == 0  # the lease lasts a minute
        lease = "update contact_change set leased_until = leased_until - interval '1 minute'"
        wiring.database().execute(lease)
        assert run()["contacts_told"] == 1
        assert at_commet(remote)[0] == "new@example.com"

    def test_a_stale_one_never_overwrites_a_newer_one(
        self,
        remote: StandIn,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The address changes while Commet is being told, and another run looks in between."""
        send = Commet.update_contact
        others = []

        def slow(self: Commet, customer: str, **contact: Any) -> Any:
            if contact["email"] == "first@example.com":
                put("second@example.com")
                others.append(run()["contacts_told"])
            return send(self, customer, **contact)

        put("first@example.com")
        monkeypatch.setattr(Commet, "update_contact", slow)
        assert run()["contacts_told"] == 2
        assert others == [0]
        assert [each["email"] for each in told(remote)] == [
            "first@example.com", "second@example.com"
        ]  # fmt: skip
        assert at_commet(remote)[0] == "second@example.com"

    def test_runs_at_once(self, remote: StandIn, database_url: str) -> None:  # noqa: F811
        for user in ("ben", "cem", "dan"):
            put(f"{user}@example.com", user)
            assert buy(user).status == 201
        for user in ("ana", "ben", "cem", "dan"):
            put(f"{user}@new.example", user)

        def tell(_: int) -> int:
            with own_database(database_url) as db:
                return contacts.run(db, wiring.commet(), Budget(db, 1000), Deadline.after(20))

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(tell, range(6))) <= 4
        run()
        assert sorted(each["email"] for each in told(remote)) == [
            f"{user}@new.example" for user in ("ana", "ben", "cem", "dan")
        ]

    def test_a_refused_key_keeps_it(self, remote: StandIn) -> None:  # noqa: F811
        remote.control.fault(
            match={"path": "/customers/*"},
            action={"status": 401, "code": "unauthorized"},
            times=None,
        )
        put("new@example.com")
        assert run()["contacts_told"] == 0
        remote.control.clear_faults()
        assert run()["contacts_told"] == 1


class TestBeforeTheCustomer:
    def test_nobody_is_told(self, remote: StandIn) -> None:  # noqa: F811
        put("old@example.com")
        put("new@example.com")
        assert run()["contacts_told"] == 0
        assert buy().status == 201
        assert at_commet(remote)[0] == "new@example.com"
        assert (run()["contacts_told"], told(remote)) == (0, [])

    def test_while_the_customer_is_made(
        self,
        remote: StandIn,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        find = Commet.find_customer

        def slow(self: Commet, user: str, deadline: Deadline) -> Any:
            put("new@example.com")  # the checkout has read the old address
            return find(self, user, deadline)

        put("old@example.com")
        monkeypatch.setattr(Commet, "find_customer", slow)
        assert buy().status == 201
        assert at_commet(remote)[0] == "old@example.com"
        run()
        assert at_commet(remote)[0] == "new@example.com"


class TestAnAddressOfAnotherCustomer:
    @pytest.fixture
    def remote(self) -> Any:
        with standin(repeated_email="conflict") as running:
            yield running

    def test_is_refused_once_and_shown(self, remote: StandIn) -> None:  # noqa: F811
        put("old@example.com")
        assert buy().status == 201
        made = wiring.commet().create_customer(
            user_id="elsewhere", email="taken@example.com", name=None, deadline=Deadline.after(20)
        )
        assert made.email == "taken@example.com"
        put("taken@example.com")
        for _ in range(2):
            assert run()["contacts_told"] == 0
        assert len(told(remote)) == 1
        assert (show()["refused"], show()["due_at"]) == ("duplicate", None)
        assert at_commet(remote)[0] == "old@example.com"
        put("free@example.com")
        assert run()["contacts_told"] == 1
        assert show() is None
