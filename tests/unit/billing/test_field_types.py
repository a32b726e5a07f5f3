"""What a single value may look like."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from billing.amounts import is_quantity
from billing.field_types import IdempotencyKey, OccurredAt, Quantity, SignedQuantity, Text

# The same rule without the short cut for what is plain.
_ByPydantic = Annotated[Decimal, Field(gt=0, le=10**15 - 1, decimal_places=6, allow_inf_nan=False)]
_numbers = st.one_of(
    st.from_regex(r"\A[-+]?[0-9]{0,17}(\.[0-9]{0,8})?([eE][-+]?[0-9]{1,2})?\Z"),
    st.integers(-(10**16), 10**16),
    st.decimals(allow_nan=True, allow_infinity=True),
    st.decimals(0, 10**9, places=6),
    st.decimals(0, 10**12, places=3),
    # More digits than arithmetic keeps: pydantic rounds before it counts them.
    st.from_regex(r"\A[0-9]{1,15}\.([0-9]|0{30}|9{30}){1,2}\Z").map(Decimal),
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
    if isinstance(theirs, Decimal) and not is_quantity(theirs):
        theirs = "decimal_max_digits" if theirs == round(theirs, 6) else "decimal_max_places"
    assert str(ours) == str(theirs) or ours == "decimal_parsing"


@pytest.mark.parametrize("kind", [Quantity, SignedQuantity])
@given(_numbers)
def test_a_quantity_is_kept_to_the_last_digit(kind: object, value: object) -> None:
    """Whatever passes can be booked, and is what was sent."""
    found = _read(kind, value)
    if isinstance(found, Decimal):
        assert is_quantity(found.copy_abs())
        assert found == Decimal(value)  # type: ignore[arg-type]  # whatever was generated


@pytest.mark.parametrize("kind", [Quantity, SignedQuantity])
@pytest.mark.parametrize(
    "number", ["1.0000000000000000000000000000001", "999999999.99999999999999999999999999999999"]
)
def test_more_digits_than_arithmetic_keeps(kind: object, number: str) -> None:
    """A JSON number comes with all of its digits, and is refused for them."""
    assert _read(kind, Decimal(number)) == "decimal_max_places"
    assert _read(SignedQuantity, Decimal(f"-{number}")) == "decimal_max_places"


@pytest.mark.parametrize("text", ["1_0", "\u0663", " 1", "0x1", "nan", ""])
def test_a_quantity_is_written_in_plain_digits(text: str) -> None:
    """Python reads more as a number than people who count do."""
    assert _read(Quantity, text) == "decimal_parsing"


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        [],
        0,
        "0",
        "-1",
        "1e15",
        "0.0000001",
        "1000000000.000001",
        10**15,
        "1e999999999999999999",
    ],
)
def test_no_quantity(value: object) -> None:
    """Nothing, less than nothing, and more digits than can be kept."""
    assert isinstance(_read(Quantity, value), str)


@pytest.mark.parametrize("value", [True, None, [], {}, "ten", "1,5", ""])
@pytest.mark.parametrize("kind", [Quantity, SignedQuantity])
def test_what_is_no_number_is_told_so(kind: object, value: object) -> None:
    """In words for people who have no Python."""
    with pytest.raises(ValidationError, match="must be a decimal number"):
        TypeAdapter(kind).validate_python(value)


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


@pytest.mark.parametrize("date", ["2026-09-10", "0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("sign", ["+", "-"])
def test_a_time_has_an_offset_that_can_be_stored(date: str, sign: str) -> None:
    """Postgres takes less than 16 hours, in any year; pydantic would take up to 24."""
    times = TypeAdapter(OccurredAt)
    assert isinstance(times.validate_python(f"{date}T12:00:00{sign}15:59"), datetime)
    for offset in ("16:00", "23:59"):
        with pytest.raises(ValidationError, match="offset of less than 16 hours"):
            times.validate_python(f"{date}T12:00:00{sign}{offset}")
