"""The whole local stack, once per session: what `make run` starts, on free ports."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.stack import TEMPLATE, LocalStack
from standin.testing import Control
from tests.issuer import AUDIENCE, Issuer, issuing

_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who signed up, and an HTTP client that is signed in as them."""

    id: str
    email: str
    http: httpx.Client


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """The identity provider of the stack."""
    with issuing() as running:
        yield running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[LocalStack]:
    """Of the sources; or of what STACK_TEMPLATE names, under the interpreter STACK_PYTHON."""
    with LocalStack(
        data_dir=Path(tmp_path_factory.mktemp("stack")),
        template=Path(os.environ.get("STACK_TEMPLATE", TEMPLATE)),
        python=os.environ.get("STACK_PYTHON"),
        parameters={"OidcIssuer": issuer.url, "OidcAudience": AUDIENCE},
    ) as running:
        yield running


@pytest.fixture(scope="session")
def commet(stack: LocalStack) -> Iterator[Control]:
    """The stand-in's control endpoints."""
    control = Control(stack.commet.removesuffix("/api/v1"))
    yield control
    control.close()


@pytest.fixture(autouse=True)
def _well_behaved(commet: Control) -> Iterator[None]:
    yield
    commet.clear_faults()


@pytest.fixture
def http(stack: LocalStack) -> Iterator[httpx.Client]:
    """A stranger."""
    with httpx.Client(base_url=stack.api, timeout=40, trust_env=False) as client:
        yield client


@pytest.fixture
def backend(stack: LocalStack) -> Iterator[httpx.Client]:
    """A product's own backend, with a service key."""
    headers = {"authorization": f"Bearer {stack.service_key}"}
    with httpx.Client(base_url=stack.api, timeout=40, trust_env=False, headers=headers) as client:
        yield client


@pytest.fixture
def sign_up(stack: LocalStack) -> Iterator[Callable[[], Person]]:
    """Makes new people."""
    clients: list[httpx.Client] = []

    def new() -> Person:
        email = f"person-{next(_names)}@example.com"
        client = httpx.Client(base_url=stack.api, timeout=40, trust_env=False)
        clients.append(client)
        answer = client.post("/signup", json={"email": email, "password": "a long walk home"})
        assert answer.status_code == 201, answer.text
        body = answer.json()
        client.headers["authorization"] = f"Bearer {body['session']['token']}"
        stack.confirm_address(body["user"]["id"])
        return Person(body["user"]["id"], email, client)

    yield new
    for client in clients:
        client.close()


@pytest.fixture
def person(sign_up: Callable[[], Person]) -> Person:
    return sign_up()


@pytest.fixture
def subscribe(commet: Control) -> Callable[..., dict[str, Any]]:
    """Takes a person through checkout and payment; answers their dashboard."""

    def to(person: Person, plan: str = "usage_pro") -> dict[str, Any]:
        checkout = person.http.post("/checkout", json={"plan_code": plan})
        assert checkout.status_code == 201, checkout.text
        if checkout.json()["checkout_url"]:
            commet.pay(checkout.json()["subscription"]["id"])
        commet.settle()
        board: dict[str, Any] = person.http.get("/dashboard").json()
        assert board["access"], board
        return board

    return to
