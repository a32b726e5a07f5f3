"""The story of a person whom an identity provider signs in, through the front door."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from local.stack import LocalStack
from tests.e2e.stack.conftest import Person
from tests.issuer import Issuer, ec_key

Visit = Callable[[str], httpx.Client]


@pytest.fixture
def visit(stack: LocalStack) -> Iterator[Visit]:
    """Opens clients that send a token."""
    clients: list[httpx.Client] = []

    def client(token: str) -> httpx.Client:
        headers = {"authorization": f"Bearer {token}"}
        opened = httpx.Client(base_url=stack.api, timeout=40, trust_env=False, headers=headers)
        clients.append(opened)
        return opened

    yield client
    for each in clients:
        each.close()


def test_from_the_first_token_to_the_dashboard(
    issuer: Issuer,
    visit: Visit,
    backend: httpx.Client,
    subscribe: Callable[..., dict[str, Any]],
) -> None:
    """Buy, use, look, leave; the product finds its user by the provider's id."""
    who = f"auth0|{uuid4().hex}"
    email = f"{uuid4().hex[:12]}@example.com"
    query = {"iss": issuer.url, "sub": who}
    assert backend.get("/users", params=query).json()["code"] == "unknown_user"

    page = visit(issuer.token(who, email=email, name="Ana"))
    user = page.get("/dashboard").json()["user"]
    assert user == {"id": user["id"], "email": email, "name": "Ana"}
    assert backend.get("/users", params=query).json() == {"user": user}

    board = subscribe(Person(user["id"], email, page))
    assert board["subscription"]["status"] == "active"
    for key, quantity in (("a", "90"), ("b", "40")):
        event = {"user_id": user["id"], "feature": "storage", "quantity": quantity}
        assert backend.post("/usage", json=event | {"idempotency_key": key}).status_code == 202
    later = visit(issuer.token(who))  # an access token, without an address
    (storage,) = later.get("/dashboard").json()["usage"]
    assert (storage["used"], storage["overage"]["cost"]) == ("130", "3.00")
    assert later.get("/dashboard").json()["user"] == user

    assert later.put("/spend-limit", json={"amount": "20"}).status_code == 200
    assert later.post("/portal", json={}).status_code == 201
    assert later.post("/logout").json()["code"] == "own_account_required"
    assert later.post("/subscription/cancel", json={}).status_code == 200
    assert later.get("/dashboard").json()["subscription"]["cancel_at_period_end"] is True
    actions = [each["action"] for each in later.get("/account/audit").json()["entries"]]
    assert actions[-1] == "account.registered"
    assert actions.count("account.registered") == 1


def test_an_address_is_needed_to_buy(issuer: Issuer, visit: Visit, backend: httpx.Client) -> None:
    page = visit(issuer.token(uuid4().hex))
    refused = page.post("/checkout", json={"plan_code": "usage_pro"})
    assert (refused.status_code, refused.json()["code"]) == (409, "email_missing")
    user = page.get("/dashboard").json()["user"]["id"]
    set_to = {"email": f"{uuid4().hex[:12]}@example.com"}
    assert backend.patch(f"/users/{user}", json=set_to).status_code == 200
    assert page.post("/checkout", json={"plan_code": "usage_pro"}).status_code == 201


def test_two_first_requests_at_once_are_one_user(issuer: Issuer, visit: Visit) -> None:
    """A page that opens asks several functions, each in an environment of its own."""
    token = issuer.token(uuid4().hex, email=f"{uuid4().hex[:12]}@example.com")
    pages = [visit(token) for _ in range(4)]
    together = threading.Barrier(len(pages))

    def open_it(page: httpx.Client) -> httpx.Response:
        together.wait()
        return page.get("/dashboard")

    with ThreadPoolExecutor(len(pages)) as pool:
        answers = list(pool.map(open_it, pages))
    assert {a.status_code for a in answers} == {200}
    assert len({a.json()["user"]["id"] for a in answers}) == 1


def test_a_key_of_nobodys_is_refused_and_named(issuer: Issuer, visit: Visit) -> None:
    visit(issuer.token(uuid4().hex)).get("/dashboard")
    answer = visit(issuer.token(uuid4().hex, key=ec_key("mine"))).get("/dashboard")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "identity provider" in answer.json()["detail"]
