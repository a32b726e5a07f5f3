"""Misbehaviour on demand, of the API and of webhooks."""

import time
from threading import Barrier
from typing import Any

import httpx
import pytest
from commet import Commet, CommetAPIError

from standin.testing import Receiver, StandIn
from tests.standin.contract.conftest import storage

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

    def test_a_reset_can_let_one_wait_first(self, server: StandIn) -> None:
        """A connection that hangs and then breaks."""
        server.control.fault(match=TRACK, action={"reset": "before", "latency_ms": 300})
        started = time.monotonic()
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            _track(server)
        assert time.monotonic() - started >= 0.3

    def test_a_gateway_that_answers_in_html(self, server: StandIn) -> None:
        """Parts of a rule can be combined."""
        server.control.fault(match=TRACK, action={"status": 502, "invalid_json": True})
        answer = _track(server)
        assert (answer.status_code, answer.text[:6]) == (502, "<html>")

    def test_a_code_of_ones_own(self, server: StandIn) -> None:
        """In the body the SDK reads."""
        action = {"status": 409, "code": "idempotency_in_progress", "message": "Wait"}
        server.control.fault(match=TRACK, action=action)
        error = _track(server).json()["error"]
        assert (error["code"], error["message"]) == ("idempotency_in_progress", "Wait")

    @pytest.mark.parametrize("retry_after", [None, 7, 0, "Wed, 21 Oct 2037 07:28:00 GMT", "soon"])
    def test_rate_limited(
        self, server: StandIn, sdk: Commet, retry_after: int | str | None
    ) -> None:
        """With and without Retry-After, in every form a proxy may give it."""
        server.control.fault(match=TRACK, action={"status": 429, "retry_after": retry_after})
        answer = _track(server)
        assert answer.status_code == 429
        assert answer.headers.get("Retry-After") == (
            None if retry_after is None else str(retry_after)
        )
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

    def test_clearing_one_of_two(self, server: StandIn) -> None:
        """The other stays in force, and has counted its strikes."""
        first = server.control.fault(match=TRACK, action={"status": 500}, times=None)
        server.control.fault(match=TRACK, action={"status": 503}, times=None)
        server.control.clear_faults(first)
        assert _track(server).status_code == 503
        assert [rule["hits"] for rule in server.control.faults()] == [1]

    def test_the_journal_tells_which_fault_struck(self, server: StandIn) -> None:
        """So that a failed test explains itself."""
        server.control.fault(match=TRACK, action={"reset": "after"})
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            _track(server)
        entry = server.control.requests(path="/usage/events")[-1]
        assert (entry["fault"], entry["status"]) == ({"reset": "after"}, 201)


@pytest.mark.usefixtures("subscribed")
class TestLateUsage:
    def test_it_shows_later_but_counts_at_once(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """Reads and webhooks trail behind; usage tracked after the rule shows at once."""
        sdk.webhooks.create(url=webhooks.url, events=["usage.recorded"])
        server.control.fault(usage={"late_seconds": 3600})
        assert _track(server).status_code == 201
        assert _track(server).status_code == 201
        server.control.settle()
        assert (storage(sdk).consumption.units_used, len(webhooks.received)) == (1, 1)
        server.control.advance(seconds=3601)
        assert (storage(sdk).consumption.units_used, len(webhooks.received)) == (2, 2)

    @pytest.mark.parametrize(
        ("match", "used"),
        [
            ({"customer": "usr_1"}, 0),
            ({"customer": "cus_*", "feature": "stor*"}, 0),
            ({"customer": "usr_2"}, 1),
            ({"feature": "seats"}, 1),
        ],
    )
    def test_it_can_be_one_customers_only(
        self, sdk: Commet, server: StandIn, match: dict[str, str], used: int
    ) -> None:
        """By either id of the customer, and by feature."""
        server.control.fault(match=match, usage={"late_seconds": 60})
        assert _track(server).status_code == 201
        assert storage(sdk).consumption.units_used == used


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": {"status": 500}, "webhooks": {"drop": True}},
        {"usage": {"late_seconds": 5}, "webhooks": {"drop": True}},
        {"usage": {"late_seconds": 0}},
        {"usage": {"late_seconds": 5}, "match": {"path": "/usage/events"}},
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

    def test_two_copies_arrive_at_once(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """The second is there before the first is answered."""
        meet = Barrier(2, timeout=10)
        webhooks.before_answer = meet.wait
        server.control.fault(webhooks={"concurrent": True})
        self._create(sdk, server)
        assert not meet.broken
        delivery = server.control.deliveries()[0]
        assert [a["status"] for a in delivery["attempts"]] == [200, 200]

    def test_copies_do_not_use_up_attempts(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """Eight scheduled ones, whatever else is sent."""
        webhooks.default = 500
        server.control.fault(webhooks={"duplicate": True}, times=None)
        self._create(sdk, server)
        server.control.advance(days=1)
        kinds = [a["kind"] for a in server.control.deliveries()[0]["attempts"]]
        assert (kinds.count("scheduled"), kinds.count("copy")) == (8, 8)

    def _three_events(self, sdk: Commet, server: StandIn) -> None:
        self._create(sdk, server)
        customer = sdk.customers.list().data[0]
        for name in ("First", "Second"):
            sdk.customers.update(customer.id, full_name=name)
            server.control.settle()

    def test_reorder(self, sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
        """Held back until there are three, then sent last first; once."""
        server.control.fault(webhooks={"reorder": 3})
        self._three_events(sdk, server)
        told = [request.json for request in webhooks.received]
        assert [e["data"]["fullName"] for e in told] == ["Second", "First", None]
        assert [e["timestamp"] for e in told] == sorted(
            (e["timestamp"] for e in told), reverse=True
        )
        sdk.customers.update(sdk.customers.list().data[0].id, full_name="Third")
        server.control.settle()
        assert webhooks.received[-1].json["data"]["fullName"] == "Third"

    def test_what_is_held_back_is_sent_when_the_rule_is_cleared(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """Nothing gets lost."""
        server.control.fault(webhooks={"reorder": 10}, times=None)
        self._three_events(sdk, server)
        assert webhooks.received == []
        server.control.clear_faults()
        server.control.settle()
        assert len(webhooks.received) == 3

    def test_disable(self, sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
        """As after three exhausted events: off, and nothing is replayed once it is on again."""
        server.control.fault(match={"event": "customer.updated"}, webhooks={"disable": True})
        self._three_events(sdk, server)
        endpoint = sdk.webhooks.list().data[0]
        assert not endpoint.is_active
        assert [d["status"] for d in server.control.deliveries()] == ["delivered", "abandoned"]
        sdk.webhooks.update(endpoint.id, is_active=True)
        server.control.advance(days=1)
        assert webhooks.events() == ["customer.created"]

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
    from standin.testing import standin
    from tests.standin.contract.conftest import connect

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
    from standin.testing import standin

    with standin(rate_limit=2) as server:
        answers = [
            httpx.get(f"{server.base_url}/plans", headers={"x-api-key": server.api_key})
            for _ in range(3)
        ]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert [a.headers["RateLimit-Remaining"] for a in answers] == ["1", "0", "0"]
    assert 0 < int(answers[2].headers["Retry-After"]) <= 61
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
