"""What a single value may look like."""

from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from billing.fields import IdempotencyKey, OccurredAt, Quantity, Text

# The same rule without the short cut for what is plain.
_ByPydantic = Annotated[
    Decimal, Field(gt=0, lt=10**9, max_digits=15, decimal_places=6, allow_inf_nan=False)
]
_numbers = st.one_of(
    st.from_regex(r"\A[-+]?[0-9]{0,11}(\.[0-9]{0,8})?([eE][-+]?[0-9]{1,2})?\Z"),
    st.integers(-(10**10), 10**10),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.decimals(0, 10**9, places=6),
)


def _read(kind: object, value: object) -> object:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return error.errors()[0]["type"]


@given(_numbers)
def test_the_short_cut_for_quantities_changes_nothing(value: object) -> None:
    """A plain number is read without pydantic, with the same outcome; an error is its own."""
    ours, theirs = _read(Quantity, value), _read(_ByPydantic, value)
    assert str(ours) == str(theirs) or ours == "value_error"


@pytest.mark.parametrize("text", ["1_0", "\u0663", " 1", "0x1", "nan", ""])
def test_a_quantity_is_written_in_plain_digits(text: str) -> None:
    """Python reads more as a number than people who count do."""
    assert _read(Quantity, text) == "value_error"


@pytest.mark.parametrize(
    "value", [True, None, [], 0, "0", "-1", "1e9", "0.0000001", "1e999999999999999999"]
)
def test_no_quantity(value: object) -> None:
    """Nothing, less than nothing, and more digits than can be kept."""
    assert isinstance(_read(Quantity, value), str)


@given(st.text(max_size=3))
def test_a_key_is_a_text(text: str) -> None:
    """The pattern says what the function does, but for the length."""
    as_text, as_key = _read(Text, text), _read(IdempotencyKey, text)
    assert (as_text == as_key) or text == "" or as_text == "value_error"
    assert (as_key == text) == (as_text == text and text != "")


def test_no_key_has_half_of_a_pair() -> None:
    """It could not be stored, nor sent back."""
    assert _read(IdempotencyKey, "a\ud800") == "string_unicode"


@pytest.mark.parametrize("text", ["1", "1757500000", "-1", "+1.5", "1e9", "", "today"])
def test_a_time_is_written_as_one(text: str) -> None:
    """Digits alone are no time, in quotes or not: pydantic would count seconds since 1970."""
    with pytest.raises(ValidationError):
        TypeAdapter(OccurredAt).validate_python(text)


def test_a_time_says_its_zone() -> None:
    """With an offset it is taken, without one it is not."""
    times = TypeAdapter(OccurredAt)
    assert times.validate_python("2026-09-10T12:00:00+02:00").isoformat().endswith("+02:00")
    with pytest.raises(ValidationError):
        times.validate_python("2026-09-10T12:00:00")
