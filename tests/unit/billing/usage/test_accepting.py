"""What is an event, and when two are the same."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage.accepting import UsageEvent

EVENT = UsageEvent("usr_ana", "storage", Decimal("1.5"), "key-1")
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=3)
names = st.text("ab1", min_size=1, max_size=4)
AT = datetime(2026, 9, 2, 8, tzinfo=UTC)


class TestEvent:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"quantity": Decimal(0)},
            {"quantity": Decimal("NaN")},
            {"idempotency_key": ""},
            {"idempotency_key": "k" * 201},
            {"idempotency_key": "a\0b"},
            {"idempotency_key": "a\nb"},
            {"properties": {"\x7f": "v"}},
            {"idempotency_key": "\ud800"},
            {"user_id": "\0"},
            {"feature": "f\0"},
            {"occurred_at": datetime(2026, 9, 2)},  # noqa: DTZ001 - that is what is wrong with it
            {"properties": {"k": "v\0"}},
            {"properties": {"k" * 201: "v"}},
            {"properties": {"k": "v" * 201}},
            {"properties": {str(i): "" for i in range(21)}},
        ],
    )
    def test_malformed(self, wrong: Mapping[str, Any]) -> None:
        """What could not be stored exactly as it is does not become an event."""
        with pytest.raises(ValueError, match=r"\w"):
            replace(EVENT, **wrong)

    def test_the_longest_that_is_allowed(self) -> None:
        """The limits themselves are inside."""
        replace(
            EVENT,
            idempotency_key="é" * 200,
            properties={f"{i:0200}": "v" * 200 for i in range(20)},
        )


class TestFingerprint:
    @pytest.mark.parametrize(
        "same",
        [
            {"quantity": Decimal("1.500")},
            {"idempotency_key": "key-2"},
            {"properties": {}},
        ],
    )
    def test_another_way_to_write_it_is_the_same(self, same: Mapping[str, Any]) -> None:
        """A quantity is a number, not its digits; the key is not part of the payload."""
        assert replace(EVENT, **same).fingerprint == EVENT.fingerprint

    @pytest.mark.parametrize(
        "other",
        [
            {"user_id": "usr_bob"},
            {"feature": "api"},
            {"quantity": Decimal("1.500001")},
            {"occurred_at": AT},
            {"properties": {"a": "b"}},
        ],
    )
    def test_every_supplied_field_counts(self, other: Mapping[str, Any]) -> None:
        """Whatever the caller changes makes it another payload."""
        assert replace(EVENT, **other).fingerprint != EVENT.fingerprint

    def test_a_moment_is_the_same_in_every_offset(self) -> None:
        """10:00+02:00 and 08:00Z are one time."""
        madrid = AT.astimezone(timezone(timedelta(hours=2)))
        assert (
            replace(EVENT, occurred_at=AT).fingerprint
            == replace(EVENT, occurred_at=madrid).fingerprint
        )

    @given(st.dictionaries(texts, texts, max_size=4))
    def test_order_of_properties_does_not_count(self, properties: dict[str, str]) -> None:
        """JSON objects have no order, and neither has a fingerprint."""
        turned = dict(reversed(properties.items()))
        assert (
            replace(EVENT, properties=properties).fingerprint
            == replace(EVENT, properties=turned).fingerprint
        )

    @given(names, names, names, names)
    def test_fields_do_not_run_into_each_other(self, a: str, b: str, c: str, d: str) -> None:
        """Two events are the same only if each field is."""
        one, other = UsageEvent(a, b, Decimal(1), "k"), UsageEvent(c, d, Decimal(1), "k")
        assert (one.fingerprint == other.fingerprint) == ((a, b) == (c, d))

    @given(st.dictionaries(names, names, max_size=2), st.dictionaries(names, names, max_size=2))
    def test_properties_do_not_run_into_each_other(
        self, one: dict[str, str], other: dict[str, str]
    ) -> None:
        """Nor is a name taken for part of a value."""
        fingerprints = {replace(EVENT, properties=each).fingerprint for each in (one, other)}
        assert len(fingerprints) == (1 if one == other else 2)
