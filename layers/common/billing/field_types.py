"""The types of single fields, for pydantic. The HTTP API and all other code use the same types.

Postgres can store every valid value unchanged, and Commet receives the value unchanged.
"""

import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

from billing import email_address
from billing.amounts import MAX_DECIMALS, MAX_DIGITS, MAX_QUANTITY, is_quantity

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[-+.eE0-9]{1,30}")
_PLAIN_QUANTITY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?|[0-9]{10,15}")


def _plain(text: str) -> str:
    # Postgres cannot store NUL in a text, and no name needs the other control characters.
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return encodable(text)


def encodable(text: str) -> str:
    """Returns the text. Raises ValueError if it cannot be encoded as UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # not chained: the message quotes the text
        raise ValueError("must not contain half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]


def _one_spelling(value: object) -> object:
    return email_address.normalized(value) if isinstance(value, str) else value


Email = Annotated[
    Text,
    Field(max_length=200, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$"),
    BeforeValidator(_one_spelling),
]
Url = Annotated[Text, Field(max_length=2000)]
USER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"  # Commet takes at most 100 characters
UserId = Annotated[str, Field(pattern=USER_ID_PATTERN)]
FEATURE_PATTERN = r"^[a-z0-9_]{1,100}$"
FeatureCode = Annotated[str, Field(pattern=FEATURE_PATTERN)]


def _only_text(value: object) -> object:
    # pydantic would read a number, even in quotes, as seconds since 1970.
    if not isinstance(value, str | datetime) or (
        isinstance(value, str) and not re.match(r"\d{4}-\d", value)
    ):
        raise ValueError("must be an ISO-8601 time")
    return value


def _storable_offset(value: datetime) -> datetime:
    # Postgres refuses an offset of 16 hours, and the whole batch with it. No time zone has such an
    # offset.
    if abs(value.utcoffset() or timedelta()) >= timedelta(hours=16):
        raise ValueError("must have an offset of less than 16 hours")
    return value


OccurredAt = Annotated[AwareDatetime, BeforeValidator(_only_text), AfterValidator(_storable_offset)]


def _only_day(value: object) -> object:
    # pydantic would read a number, even in quotes, as seconds since 1970. It would also accept a
    # time at midnight.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("must be a day such as 2026-11-30")
    return value


Day = Annotated[date, BeforeValidator(_only_day)]


def _no_number_in_disguise(value: object) -> object:
    # pydantic would read true as 1, "1_0" as 10, and 1e999 as a number with 1000 digits. Its
    # message about null or a list names types of Python.
    named = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not named and not (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise PydanticCustomError("decimal_parsing", "must be a decimal number")
    return value


def _quantity(value: object, check: ValidatorFunctionWrapHandler) -> Decimal:
    """Validates like pydantic. For a plain number, pydantic takes four times as long."""
    if isinstance(value, str) and _PLAIN_QUANTITY.fullmatch(value) and (plain := Decimal(value)):
        return plain
    if isinstance(value, Decimal) and is_quantity(value):
        return value
    checked: Decimal = check(_no_number_in_disguise(value))
    return _in_full(checked)


def _in_full(value: Decimal) -> Decimal:
    # pydantic rounds to 28 digits before it counts digits, and abs() would too. So check the exact
    # value.
    if not is_quantity(value.copy_abs()):
        if value == round(value, MAX_DECIMALS):
            raise PydanticKnownError("decimal_max_digits", {"max_digits": MAX_DIGITS})
        raise PydanticKnownError("decimal_max_places", {"decimal_places": MAX_DECIMALS})
    return value


def _not_zero(value: Decimal) -> Decimal:
    if value == 0:
        raise ValueError("must not be 0")
    return value


# Together with decimal_places, pydantic's max_digits would allow only nine digits before the point.
# So `_in_full` counts the digits.
# The bounds stand directly after the type. After a validator function, pydantic would check them in
# Python, which is slower.
Quantity = Annotated[
    Decimal,
    Field(gt=0, le=MAX_QUANTITY, decimal_places=MAX_DECIMALS, allow_inf_nan=False),
    WrapValidator(_quantity),
]
SignedQuantity = Annotated[
    Decimal,
    Field(ge=-MAX_QUANTITY, le=MAX_QUANTITY, decimal_places=MAX_DECIMALS, allow_inf_nan=False),
    BeforeValidator(_no_number_in_disguise),
    AfterValidator(_not_zero),
    AfterValidator(_in_full),
]


def _full_or_zero(value: Decimal) -> Decimal:
    return _in_full(value) if value else Decimal(0)


# A quantity that somebody only asks about, and that may be 0.
QuantityOrZero = Annotated[
    Decimal,
    Field(ge=0, le=MAX_QUANTITY, decimal_places=MAX_DECIMALS, allow_inf_nan=False),
    BeforeValidator(_no_number_in_disguise),
    AfterValidator(_full_or_zero),
]

# An amount of money in major units that is a limit. With 0, nothing is allowed.
LimitAmount = Annotated[
    Decimal,
    Field(ge=0, lt=10**9, max_digits=13, decimal_places=4, allow_inf_nan=False),
    BeforeValidator(_no_number_in_disguise),
]

# The rule of `Text` as a pattern, because a pattern is checked faster and a batch may have a
# thousand keys.
TEXT_PATTERN = r"^[^\x00-\x1f\x7f]*$"
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT_PATTERN)]
# A quantity is summed by day, by the values of a property, or by both. Callers choose the names of
# properties, so all text after the dot is the name.
GROUP_BY_PATTERN = r"^(day|(day,)?property\.[^\x00-\x1f\x7f]{1,200})$"
Property = Annotated[Text, Field(max_length=200)]
Properties = Annotated[dict[Property, Property], Field(max_length=20)]
