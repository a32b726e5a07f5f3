"""What the webhook secret holds: read whatever a person has put there, renewed without a gap."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.credentials.webhook_secrets import WebhookSecret

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def of(*entries: object, **more: Any) -> WebhookSecret:
    return WebhookSecret.of({"secrets": list(entries)} | more)


def until(secret: object, moment: object) -> dict[str, object]:
    return {"secret": secret, "until": moment}


class TestOf:
    def test_a_plain_list(self) -> None:
        """What a person puts there by hand."""
        kept = of("whsec_new", "whsec_old")
        assert kept.valid(NOW) == ["whsec_new", "whsec_old"]
        assert (kept.endpoint_id, kept.rotation) == (None, "")

    def test_one_that_ends(self) -> None:
        """Believed until that very moment."""
        kept = of("whsec_new", until("whsec_old", NOW.isoformat()))
        assert kept.valid(NOW - timedelta(microseconds=1)) == ["whsec_new", "whsec_old"]
        assert kept.valid(NOW) == ["whsec_new"]

    @pytest.mark.parametrize(
        "entry",
        ["", 7, None, True, ["whsec_x"], {}, {"secret": "whsec_x"}, until("", NOW.isoformat()),
         until(None, NOW.isoformat()), until("whsec_x", None), until("whsec_x", "tomorrow"),
         until("whsec_x", "2999-01-01T00:00:00"), until("whsec_x", 9**12)],
        ids=str,
    )  # fmt: skip
    def test_a_malformed_entry(self, entry: object) -> None:
        """Opens nothing, and closes nothing for the others."""
        assert of(entry, "whsec_good").valid(NOW) == ["whsec_good"]

    @pytest.mark.parametrize("secrets", [None, "whsec_x", {"whsec_x": 1}, 7])
    def test_no_list(self, secrets: object) -> None:
        assert WebhookSecret.of({"secrets": secrets}).valid(NOW) == []

    def test_no_names(self) -> None:
        """What is not text names no endpoint and no rotation."""
        kept = of("whsec_x", endpoint=7, rotation=None)
        assert (kept.endpoint_id, kept.rotation) == (None, "")


class TestRenewed:
    def test_in_front_and_the_others_for_a_day(self) -> None:
        """Also those that were to be believed for longer, and those for less stay so."""
        kept = of("whsec_a", until("whsec_b", (NOW + HOUR).isoformat()), until("whsec_c", "2999-01-01T00:00:00+00:00"))  # fmt: skip  # noqa: E501
        renewed = kept.renewed("whsec_new", endpoint_id="whe_2", rotation="r", now=NOW)
        assert renewed.valid(NOW) == ["whsec_new", "whsec_a", "whsec_b", "whsec_c"]
        assert renewed.valid(NOW + HOUR) == ["whsec_new", "whsec_a", "whsec_c"]
        last = NOW + 24 * HOUR - timedelta(microseconds=1)
        assert renewed.valid(last) == ["whsec_new", "whsec_a", "whsec_c"]
        assert renewed.valid(NOW + 24 * HOUR) == ["whsec_new"]
        assert (renewed.endpoint_id, renewed.rotation) == ("whe_2", "r")

    def test_what_has_ended_is_dropped(self) -> None:
        kept = of("whsec_a", until("whsec_b", NOW.isoformat()))
        text = kept.renewed("whsec_new", endpoint_id="whe_2", rotation="", now=NOW).text()
        assert "whsec_b" not in text

    def test_the_same_once_more(self) -> None:
        """A run that is repeated leaves one entry, which does not end."""
        kept = of("whsec_a").renewed("whsec_new", endpoint_id="whe_2", rotation="", now=NOW)
        again = kept.renewed("whsec_new", endpoint_id="whe_2", rotation="", now=NOW)
        assert again == kept


class TestText:
    def test_it_reads_back(self) -> None:
        kept = of("whsec_a").renewed("whsec_new", endpoint_id="whe_2", rotation="r", now=NOW)
        assert WebhookSecret.of(json.loads(kept.text())) == kept

    def test_it_is_never_printed(self) -> None:
        assert "whsec" not in repr(of("whsec_a", until("whsec_b", NOW.isoformat())))
