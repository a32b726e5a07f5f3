"""JSON without binary floats."""

import json
from decimal import Decimal
from http import HTTPStatus
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.wire import Encoded, dumps, loads

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class TestDumps:
    @given(JSON_VALUES)
    def test_reads_back_as_it_was(self, value: object) -> None:
        """Any parser gets what was written."""
        assert json.loads(dumps(value)) == value

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (Decimal("1.50"), b"1.5"),
            (Decimal(100), b"100"),
            (Decimal("1E+3"), b"1000"),
            (Decimal("0E-7"), b"0"),
            (Decimal("0.000001"), b"0.000001"),
            (Decimal("-2.5"), b"-2.5"),
            (Decimal("-0.0"), b"0"),
        ],
    )
    def test_decimals_are_plain_numbers(self, value: Decimal, text: bytes) -> None:
        """Neither an exponent nor trailing zeros."""
        assert dumps(value) == text

    @given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9)))
    def test_decimals_are_exact(self, value: Decimal) -> None:
        """Not a digit is lost on the way out and in."""
        assert Decimal(str(loads(dumps(value)))) == value

    def test_floats_are_refused(self) -> None:
        """One that slipped in would be a bug in money."""
        with pytest.raises(TypeError):
            dumps({"value": 0.1})

    def test_subclasses_are_what_they_extend(self) -> None:
        """An enumeration's text is text, a read-only mapping is an object."""
        assert dumps([HTTPStatus.OK, MappingProxyType({"a": (1, 2)})]) == b'[200,{"a":[1,2]}]'

    def test_what_is_encoded_already_is_not_encoded_again(self) -> None:
        """So that an answer can be written once and sent often."""
        assert dumps({"data": Encoded('{"a":1}')}) == b'{"data":{"a":1}}'


class TestLoads:
    def test_fractions_are_decimals(self) -> None:
        """As they were written."""
        assert loads(b'{"a": 0.1, "b": 1}') == {"a": Decimal("0.1"), "b": 1}

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999999999", "{", ""])
    def test_what_is_not_json_is_refused(self, text: str) -> None:
        """Python's own extensions included."""
        with pytest.raises(ValueError):  # noqa: PT011 - json has its own subclass, we promise none
            loads(text)

    def test_a_byte_order_mark_is_refused(self) -> None:
        """In either form, like anything else before the first brace."""
        with pytest.raises(ValueError):  # noqa: PT011 - as above
            loads("\ufeff{}")
