"""What requests are checked for, beyond what the SDK can send."""

from typing import Any

import pytest

from standin.errors import ApiError
from standin.schemas import CreateWebhook, Page, TrackUsage, read

USAGE = {"customerId": "usr_1", "featureCode": "storage"}


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "http://127.0.0.1:8000/hook",
        "http://localhost/hook",
        "http://[::1]:8000/",
        "http://api.localhost/",
    ],
)
def test_endpoint_urls(url: str) -> None:
    """https anywhere, plain http on this machine."""
    assert read(CreateWebhook, {"url": url, "events": ["customer.created"]}).url == url


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "http://10.0.0.1/", "ftp://localhost/", "https://", "nonsense", ""],
)
def test_endpoint_urls_that_are_refused(url: str) -> None:
    """Secrets and payloads do not travel in the clear."""
    with pytest.raises(ApiError) as caught:
        read(CreateWebhook, {"url": url, "events": ["customer.created"]})
    assert caught.value.param == "url"


@pytest.mark.parametrize("value", ["1", True, None, [], -0.5, 10**16])
def test_usage_values_must_be_numbers(value: Any) -> None:
    """A number in quotes is text, a truth value is not one; None means it was not given."""
    if value is None:
        assert read(TrackUsage, USAGE | {"value": None}).value is None
        return
    with pytest.raises(ApiError) as caught:
        read(TrackUsage, USAGE | {"value": value})
    assert caught.value.param == "value"


def test_unknown_fields_are_ignored() -> None:
    """So that a newer client still works."""
    assert read(TrackUsage, USAGE | {"novelty": 1}).customer_id == "usr_1"


@pytest.mark.parametrize("limit", ["0", "101", "ten", "-1"])
def test_page_limits(limit: str) -> None:
    """1 to 100."""
    with pytest.raises(ApiError) as caught:
        read(Page, {"limit": limit})
    assert caught.value.details[0]["field"] == "limit"
