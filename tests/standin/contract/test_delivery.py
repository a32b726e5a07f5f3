"""Webhook delivery: retries, giving up, disabling, filters, and the log of it all."""

from datetime import timedelta
from itertools import pairwise
from threading import Barrier, Event

import httpx
import pytest
from commet import Commet

from standin.clock import parse_iso
from standin.settings import Settings
from standin.testing import Receiver, StandIn, receiver, standin
from tests.standin.contract.conftest import connect

RETRY_MINUTES = [1, 5, 15, 30, 60, 60, 60]


def _customer(sdk: Commet, number: int = 1) -> None:
    sdk.customers.create(email=f"{number}@example.com", id=f"usr_{number}")


def test_only_the_chosen_events_are_sent(
    sdk: Commet, server: StandIn, webhooks: Receiver, subscribed: str
) -> None:
    """Each endpoint gets what it subscribed to, from then on."""
    with receiver() as other:
        sdk.webhooks.create(url=webhooks.url, events=["subscription.canceled"])
        sdk.webhooks.create(url=other.url, events=["customer.state_changed"])
        sdk.subscriptions.cancel(subscribed, immediate=True)
        server.control.settle()
        assert webhooks.events() == ["subscription.canceled"]
        assert other.events() == ["customer.state_changed"]


def test_a_failure_is_retried_with_the_same_id(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """The first retry comes a minute later and says the same."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    webhooks.statuses = [500]
    _customer(sdk)
    server.control.settle()
    assert len(webhooks.received) == 1
    server.control.advance(seconds=61)
    assert len(webhooks.received) == 2
    first, second = webhooks.received
    assert first.body == second.body
    assert first.headers["x-commet-signature"] == second.headers["x-commet-signature"]
    delivery = server.control.deliveries()[0]
    assert delivery["status"] == "delivered"
    assert [a["status"] for a in delivery["attempts"]] == [500, 200]


@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
def test_anything_but_2xx_is_a_failure(
    sdk: Commet, server: StandIn, webhooks: Receiver, status: int
) -> None:
    """Redirects are not followed."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    webhooks.default = status
    _customer(sdk)
    server.control.settle()
    delivery = server.control.deliveries()[0]
    assert delivery["status"] == "pending"
    assert [a["status"] for a in delivery["attempts"]] == [status]


def test_eight_attempts_on_the_schedule(sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
    """Then the event is given up."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    webhooks.default = 500
    _customer(sdk)
    server.control.settle()
    server.control.advance(days=1)
    delivery = server.control.deliveries()[0]
    assert delivery["status"] == "exhausted"
    times = [parse_iso(attempt["at"]) for attempt in delivery["attempts"]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    slack = timedelta(seconds=30)
    assert len(times) == len(gaps) + 1 == 8
    for gap, minutes in zip(gaps, RETRY_MINUTES, strict=True):
        assert timedelta(minutes=minutes) <= gap < timedelta(minutes=minutes) + slack


def test_nobody_there_is_a_failure_too(sdk: Commet, server: StandIn) -> None:
    """The log says what went wrong."""
    with receiver() as box:
        url = box.url
    sdk.webhooks.create(url=url, events=["customer.created"])
    _customer(sdk)
    server.control.settle()
    attempt = server.control.deliveries()[0]["attempts"][0]
    assert attempt["status"] is None
    assert "Cannot connect" in attempt["error"]


def test_each_endpoint_gets_its_own_signature(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """The same event under two secrets; the SDK verifies each with its own only."""
    with receiver() as other:
        secrets = {
            box: sdk.webhooks.create(url=box.url, events=["customer.created"]).secret_key
            for box in (webhooks, other)
        }
        _customer(sdk)
        server.control.settle()
        assert webhooks.received[0].body == other.received[0].body
        assert len(secrets) == 2
        for box, own in secrets.items():
            for secret in secrets.values():
                request = box.received[0]
                verified = sdk.webhooks.verify(
                    payload=request.body.decode(),
                    signature=request.headers["x-commet-signature"],
                    secret=secret,
                )
                assert verified == (secret == own)


def test_one_endpoint_does_not_suffer_from_another(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """Retries are each endpoint's own."""
    with receiver() as other:
        other.default = 500
        for box in (webhooks, other):
            sdk.webhooks.create(url=box.url, events=["customer.created"])
        _customer(sdk)
        server.control.settle()
        server.control.advance(seconds=61)
        assert (len(webhooks.received), len(other.received)) == (1, 2)


def test_events_are_sent_side_by_side(sdk: Commet, server: StandIn, webhooks: Receiver) -> None:
    """Two different ones reach the receiver before either is answered."""
    meet = Barrier(2, timeout=10)
    webhooks.before_answer = meet.wait
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    _customer(sdk, 1)
    _customer(sdk, 2)
    server.control.settle()
    assert not meet.broken
    assert {r.json["data"]["externalId"] for r in webhooks.received} == {"usr_1", "usr_2"}


def test_no_answer_in_time_is_a_failure() -> None:
    """Ten seconds, unless told otherwise; a late 200 does not help."""
    assert Settings().webhook_timeout == 10
    late = Event()
    with standin(webhook_timeout=0.2) as server, connect(server) as sdk, receiver() as box:
        box.before_answer = lambda: late.wait(30)
        sdk.webhooks.create(url=box.url, events=["customer.created"])
        _customer(sdk)
        server.control.settle()
        late.set()
        delivery = server.control.deliveries()[0]
        assert delivery["attempts"][0]["error"] == "no answer within 0.2 s"
        assert delivery["status"] == "pending"
        server.control.advance(seconds=61)
        assert server.control.deliveries()[0]["status"] == "delivered"


class TestDisabling:
    def _exhaust(self, sdk: Commet, server: StandIn, *numbers: int) -> None:
        for number in numbers:
            _customer(sdk, number)
            server.control.settle()
            server.control.advance(days=1)

    def test_after_three_events_in_a_row(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """The endpoint is off, later events are not kept for it, PATCH turns it on again."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        webhooks.default = 500
        self._exhaust(sdk, server, 1, 2)
        assert sdk.webhooks.get(endpoint.id).is_active
        self._exhaust(sdk, server, 3)
        assert not sdk.webhooks.get(endpoint.id).is_active
        webhooks.default = 200
        webhooks.received.clear()
        _customer(sdk, 4)
        assert sdk.webhooks.update(endpoint.id, is_active=True).is_active
        _customer(sdk, 5)
        server.control.settle()
        assert [r.json["data"]["externalId"] for r in webhooks.received] == ["usr_5"]

    def test_what_waits_for_a_retry_is_given_up_with_it(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """Also when the endpoint is on again before the retry would have been due."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        webhooks.default = 500
        self._exhaust(sdk, server, 1, 2)
        _customer(sdk, 3)
        server.control.settle()
        server.control.advance(seconds=13_800)  # the last of eight attempts is at 13,860 s
        _customer(sdk, 4)
        server.control.settle()
        server.control.advance(seconds=70)
        assert not sdk.webhooks.get(endpoint.id).is_active
        webhooks.default = 200
        webhooks.received.clear()
        sdk.webhooks.update(endpoint.id, is_active=True)
        server.control.advance(days=1)
        assert webhooks.received == []
        statuses = [d["status"] for d in server.control.deliveries()]
        assert statuses == ["exhausted", "exhausted", "exhausted", "abandoned"]

    def test_a_success_in_between_starts_the_count_anew(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """Three in a row, not three in all."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        webhooks.default = 500
        self._exhaust(sdk, server, 1, 2)
        webhooks.default = 200
        self._exhaust(sdk, server, 3)
        webhooks.default = 500
        self._exhaust(sdk, server, 4, 5)
        assert sdk.webhooks.get(endpoint.id).is_active

    def test_what_was_pending_is_given_up(
        self, sdk: Commet, server: StandIn, webhooks: Receiver
    ) -> None:
        """A disabled endpoint gets no more retries."""
        endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
        webhooks.default = 500
        _customer(sdk)
        server.control.settle()
        sdk.webhooks.update(endpoint.id, is_active=False)
        server.control.advance(days=1)
        assert len(webhooks.received) == 1
        assert server.control.deliveries()[0]["status"] == "abandoned"


def test_the_snapshot_is_computed_when_it_is_delivered(
    sdk: Commet, server: StandIn, webhooks: Receiver, subscribed: str
) -> None:
    """A retry of customer.state_changed tells the state of the retry."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.state_changed"])
    webhooks.statuses = [500]
    sdk.subscriptions.cancel(subscribed)
    server.control.settle()
    sdk.usage.track(feature_code="storage", customer_id="usr_1", value=7)
    server.control.advance(seconds=61)
    first, second = (request.json for request in webhooks.received)
    assert first["id"] == second["id"]
    used = [b["data"]["features"][0]["consumption"]["unitsUsed"] for b in (first, second)]
    assert used == [0, 7]


def test_a_delivery_can_be_sent_again_by_hand(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """In any state, with the same id."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    _customer(sdk)
    server.control.settle()
    delivery = server.control.deliveries()[0]
    again = server.control.redeliver(delivery["id"])
    assert [a["status"] for a in again["attempts"]] == [200, 200]
    assert webhooks.received[0].json["id"] == webhooks.received[1].json["id"]


def test_sending_by_hand_uses_up_no_attempt(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """A failed one leaves the schedule alone; a good one after the end makes it delivered."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    webhooks.default = 500
    _customer(sdk)
    server.control.settle()
    delivery = server.control.deliveries()[0]
    assert server.control.redeliver(delivery["id"])["next_at"] == delivery["next_at"]
    server.control.advance(days=1)
    exhausted = server.control.deliveries()[0]
    kinds = [attempt["kind"] for attempt in exhausted["attempts"]]
    assert (kinds.count("scheduled"), kinds.count("manual")) == (8, 1)
    webhooks.default = 200
    assert server.control.redeliver(delivery["id"])["status"] == "delivered"


def test_sending_by_hand_while_an_attempt_is_under_way(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """Both are in the log, whichever ends first."""
    meet = Barrier(2, timeout=10)
    webhooks.before_answer = meet.wait
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    _customer(sdk)
    while not webhooks.received:
        pass
    again = server.control.redeliver(server.control.deliveries()[0]["id"])
    server.control.settle()
    attempts = server.control.deliveries()[0]["attempts"]
    assert not meet.broken
    assert sorted(a["kind"] for a in attempts) == ["manual", "scheduled"]
    assert [a["number"] for a in attempts] == [1, 2]
    assert again["status"] == "delivered"


def test_to_a_deleted_endpoint_nothing_can_be_sent(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """Asking for it is a conflict, not silence."""
    endpoint = sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    _customer(sdk)
    server.control.settle()
    sdk.webhooks.delete(endpoint.id)
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        server.control.redeliver(server.control.deliveries()[0]["id"])


def test_the_log_shows_request_and_response(
    sdk: Commet, server: StandIn, webhooks: Receiver
) -> None:
    """Enough to find out what a receiver did not like."""
    sdk.webhooks.create(url=webhooks.url, events=["customer.created"])
    _customer(sdk)
    server.control.settle()
    delivery = server.control.deliveries(event="customer.created", status="delivered")[0]
    assert delivery["request_body"].encode() == webhooks.received[0].body
    assert delivery["request_headers"]["X-Commet-Event"] == "customer.created"
    assert delivery["attempts"][0]["response"] == "ok"
