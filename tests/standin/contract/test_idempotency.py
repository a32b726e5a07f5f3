"""Idempotency keys: replay, mismatch, in progress, and 24 hours."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from commet import Commet, CommetAPIError

from standin.testing import StandIn
from tests.standin.contract.conftest import connect, storage

pytestmark = pytest.mark.usefixtures("subscribed")


def _track(sdk: Commet, key: str, value: float = 1) -> str:
    return sdk.usage.track(
        feature_code="storage", customer_id="usr_1", value=value, idempotency_key=key
    ).id


def test_the_same_request_is_answered_again(sdk: Commet, server: StandIn) -> None:
    """The first answer comes back and nothing happens twice."""
    assert _track(sdk, "k1") == _track(sdk, "k1")
    assert len(server.control.events("usage.recorded")) == 1
    assert [r["replayed"] for r in server.control.requests(path="/usage/events")] == [False, True]


def test_another_request_is_a_mismatch(sdk: Commet) -> None:
    """A key belongs to one operation and one payload."""
    _track(sdk, "k1")
    with pytest.raises(CommetAPIError) as caught:
        _track(sdk, "k1", value=2)
    assert (caught.value.code, caught.value.status_code) == ("idempotency_key_mismatch", 409)
    with pytest.raises(CommetAPIError) as caught:
        sdk.usage.set(customer_id="usr_1", feature_code="storage", value=1, idempotency_key="k1")
    assert caught.value.code == "idempotency_key_mismatch"


def test_a_business_refusal_is_kept_a_validation_error_is_not(sdk: Commet) -> None:
    """What was decided stays decided; what was not even read can be corrected."""
    with pytest.raises(CommetAPIError):
        sdk.usage.track(feature_code="priority_support", customer_id="usr_1", idempotency_key="k1")
    with pytest.raises(CommetAPIError) as caught:
        _track(sdk, "k1")
    assert caught.value.code == "idempotency_key_mismatch"
    with pytest.raises(CommetAPIError):
        _track(sdk, "k2", value=-1)
    assert _track(sdk, "k2")


def test_a_request_still_in_progress_is_told(sdk: Commet, server: StandIn) -> None:
    """The second of two at once is asked to come back."""
    server.control.fault(match={"path": "/usage/events"}, action={"latency_ms": 1500})
    with ThreadPoolExecutor(1) as pool, connect(server) as other:
        first = pool.submit(_track, sdk, "k1")
        while not server.control.requests(path="/usage/events"):
            pass
        with pytest.raises(CommetAPIError) as caught:
            _track(other, "k1")
        assert (caught.value.code, caught.value.status_code) == ("idempotency_in_progress", 409)
        assert first.result() == _track(other, "k1")


def test_a_key_is_forgotten_after_a_day(sdk: Commet, server: StandIn) -> None:
    """Then it counts again."""
    first = _track(sdk, "k1")
    server.control.advance(days=1.01)
    assert _track(sdk, "k1") != first


def test_the_sdk_retries_with_one_key(server: StandIn) -> None:
    """A 500 after the effect, then the retry: counted once."""
    server.control.fault(match={"path": "/usage/events"}, action={"status": 500, "after": True})
    with connect(server, retries=1) as sdk:
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=3)
        access = storage(sdk)
    assert access.consumption.units_used == 3
    keys = {r["headers"]["idempotency-key"] for r in server.control.requests(path="/usage/events")}
    assert len(keys) == 1
