"""The official SDK, pointed at a fresh stand-in; every answer it gets is checked on the way."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from commet import Commet

from standin.testing import Receiver, StandIn, receiver, standin
from tests.standin.contract.shapes import assert_complete


def connect(server: StandIn, *, retries: int = 0, api_key: str | None = None) -> Commet:
    """An SDK client that talks to the stand-in. The SDK has no option for that."""
    client = Commet(api_key or server.api_key, retries=retries)
    client._http._client.base_url = httpx.URL(server.base_url)
    return client


def storage(sdk: Commet) -> Any:
    """The access of `usr_1` to storage; Any, because the SDK types it as a union of four."""
    return sdk.feature_access.get("storage", customer_id="usr_1")


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standin() as running:
        yield running


@pytest.fixture
def sdk(server: StandIn) -> Iterator[Commet]:
    with connect(server) as client:
        yield client


@pytest.fixture
def last_answer(sdk: Commet) -> Callable[[], Any]:
    """The JSON of the SDK's last answer, before the SDK made objects of it."""
    answers: list[Any] = []

    def keep(response: httpx.Response) -> None:
        response.read()
        answers.append(response.json())

    sdk._http._client.event_hooks["response"].append(keep)
    return lambda: answers[-1]


@pytest.fixture
def complete(last_answer: Callable[[], Any]) -> Callable[[Any], Any]:
    """Holds what the SDK has just returned against the JSON it was made of."""

    def check(parsed: Any) -> Any:
        assert_complete(last_answer(), parsed)
        return parsed

    return check


@pytest.fixture
def webhooks() -> Iterator[Receiver]:
    with receiver() as box:
        yield box


@pytest.fixture
def subscribed(server: StandIn, sdk: Commet) -> str:
    """A customer `usr_1` with a paid Usage Pro subscription; the subscription's id."""
    sdk.customers.create(email="ana@example.com", id="usr_1", full_name="Ana Ruiz")
    subscription = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
    server.control.pay(subscription.id)
    return subscription.id
