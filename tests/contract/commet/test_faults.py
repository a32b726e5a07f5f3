"""Misbehaviour on demand, of the API and of webhooks."""

import time
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError

from local.commet.testing import Receiver, StandIn
from tests.contract.commet.conftest import storage

TRACK = {"method": "POST", "path": "/usage/events"}


def _track(server: StandIn) -> httpx.Response:
    return httpx.post(
        f"{server.base_url}/usage/events",
        json={"featureCode": "storage", "customerId": "usr_1", "value": 1},
        headers={"x-api-key": server.api_key},
    )


@pytest.mark.usefixtures("subscribed")
class TestRequests:
    @pytest.mark.parametrize(("after", "used"), [(False, 0), (True, 1)])
    def test_a_status_before_or_after_the_effect(
        self, sdk: Commet, server: StandIn, *, after: bool, used: int
    ) -> None:
        """Both look the same from outside."""
        server.control.fault(match=TRACK, action={"status": 503, "after": after})
        answer = _track(server)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "internal_error"
        assert storage(sdk).consumption.units_used == used
        assert _track(server).status_code == 201

    @pytest.mark.parametrize(("moment", "used"), [("before", 0), ("after", 1)])
    def test_a_reset_before_or_after_the_effect(
        self, sdk: Commet, server: StandIn, moment: str, used: int
    ) -> None:
        """The connection breaks without an answer."""
        server.control.fault(match=TRACK, action={"reset": moment})
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            _track(server)
        assert storage(sdk).consumption.units_used == used

    @pytest.mark.parametrize("retry_after", [None, 7])
    def test_rate_limited(self, server: StandIn, sdk: Commet, retry_after: int | None) -> None:
        """With and without Retry-After."""
        server.control.fault(match=TRACK, action={"status": 429, "retry_after": retry_after})
        answer = _track(server)
        assert answer.status_code == 429
        assert answer.headers.get("Retry-After") == (str(retry_after) if retry_after else None)
        assert sdk.plans.list().data

    def test_invalid_json(self, sdk: Commet, server: StandIn) -> None:
        """What the SDK calls INVALID_JSON."""
        server.control.fault(match={"path": "/plans"}, action={"invalid_json": True})
        with pytest.raises(CommetAPIError) as caught:
            sdk.plans.list()
        assert caught.value.code == "INVALID_JSON"

    def test_half_an_answer(self, server: StandIn) -> None:
        """The body ends before its length."""
        server.control.fault(match=TRACK, action={"truncate": True})
        with pytest.raises(httpx.RemoteProtocolError):
            _track(server)

    def test_latency(self, server: StandIn) -> None:
        """A slow answer is still an answer."""
        server.control.fault(match=TRACK, action={"latency_ms": 300})
        started = time.monotonic()
        assert _track(server).status_code == 201
        assert time.monotonic() - started >= 0.3

    def test_skip_and_times(self, server: StandIn) -> None:
        """Strikes exactly when it was told to."""
        server.control.fault(match=TRACK, action={"status": 500}, times=2, skip=1)
        assert [_track(server).status_code for _ in range(5)] == [201, 500, 500, 201, 201]

    def test_clearing(self, server: StandIn) -> None:
        """Everything is well again."""
        server.control.fault(match=TRACK, action={"status": 500}, times=None)
        assert _track(server).status_code == 500
        server.control.clear_faults()
        assert _track(server).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": {"status": 500}, "webhooks": {"drop": True}},
        {"action": {"explode": True}},
        {"action": {"status": 500}, "match": {"planet": "mars"}},
        {"action": {"status": 500}, "times": 0},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(server: StandIn, body: dict[str, Any]) -> None:
    """A typo in a test must not pass as a rule that never strikes."""
    answer = httpx.post(f"{server.public_url}/_standin/faults", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "validation_error"


class TestWebhooks:
    @pytest.fixture(autouse=True)
    def _endpoint(self, sdk: Commet, webhooks: Receiver) -> None:
        sdk.webhooks.create(url=webhooks.url, events=["customer.created", "customer.updated"])

    def _create(self, sdk: Commet, server: StandIn) -> None:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        server.control.settle()

    def test_drop(self, sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
        """Never sent, never retried."""
        server.control.fault(webhooks={"drop": True})
        self._create(sdk, server)
        server.control.advance(days=1)
        assert webhooks.received == []
        assert server.control.deliveries()[0]["status"] == "dropped"

    @pytest.mark.parametrize("how", ["duplicate", "concurrent"])
    def test_twice(self, sdk: Commet, server: StandIn, webhooks: Receiver, how: str) -> None:
        """The same id, the same bytes."""
        server.control.fault(webhooks={how: True})
        self._create(sdk, server)
        assert len(webhooks.received) == 2
        assert webhooks.received[0].body == webhooks.received[1].body

    def test_delay(self, sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
        """A later event overtakes it."""
        server.control.fault(
            match={"event": "customer.created"}, webhooks={"delay_ms": 60_000}, times=None
        )
        self._create(sdk, server)
        customer = sdk.customers.list().data[0]
        sdk.customers.update(customer.id, full_name="Ana")
        server.control.settle()
        assert webhooks.events() == ["customer.updated"]
        server.control.advance(seconds=61)
        assert webhooks.events() == ["customer.updated", "customer.created"]

    @pytest.mark.parametrize("part", ["signature", "body"])
    def test_corrupt(self, sdk: Commet, server: StandIn, webhooks: Receiver, part: str) -> None:
        """The signature does not fit the body."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        sdk.webhooks.delete(sdk.webhooks.list().data[1].id)
        server.control.fault(webhooks={"corrupt": part})
        self._create(sdk, server)
        request = webhooks.received[0]
        assert not sdk.webhooks.verify(
            payload=request.body.decode(),
            signature=request.headers["x-commet-signature"],
            secret=endpoint.secret_key,
        )

    def test_equal_timestamps(self, sdk: Commet, server: StandIn) -> None:
        """Events may tie while the rule stands."""
        server.control.fault(webhooks={"same_timestamp": True}, times=None)
        self._create(sdk, server)
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        server.control.advance(days=1)
        server.control.pay(sub.id)
        times = [e["timestamp"] for e in server.control.events()]
        assert len(set(times)) < len(times)


def test_the_order_of_a_moment_can_be_shuffled() -> None:
    """Same seed, same order; it differs from the natural one."""
    from local.commet.testing import standin
    from tests.contract.commet.conftest import connect

    def order(seed: int | None) -> list[str]:
        with standin(shuffle_seed=seed) as server, connect(server) as sdk:
            sdk.customers.create(email="ana@example.com", id="usr_1")
            server.control.pay(
                sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro").id
            )
            return [e["event"] for e in server.control.events()]

    assert order(3) == order(3)
    assert sorted(order(3)) == sorted(order(None))
    assert order(3) != order(None)


def test_rate_limit() -> None:
    """Past the limit: 429 with Retry-After; the window shows in every answer."""
    from local.commet.testing import standin

    with standin(rate_limit=2) as server:
        answers = [
            httpx.get(f"{server.base_url}/plans", headers={"x-api-key": server.api_key})
            for _ in range(3)
        ]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert [a.headers["RateLimit-Remaining"] for a in answers] == ["1", "0", "0"]
    assert 0 < int(answers[2].headers["Retry-After"]) <= 61
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
