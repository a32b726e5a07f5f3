"""What a single value may look like, as pydantic types: one rule for our HTTP API and within.

Whatever passes can be stored in Postgres as it is, and reaches Commet unchanged.
"""

import re
from datetime import datetime, timedelta
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
from pydantic_core import PydanticKnownError

from billing.amounts import is_quantity

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[-+.eE0-9]{1,20}")
_PLAIN_QUANTITY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


def _plain(text: str) -> str:
    # Postgres text cannot hold NUL; the other control characters have no place in a name either.
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters")
    return encodable(text)


def encodable(text: str) -> str:
    """The text itself; raises ValueError where it is no Unicode."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # its own message would quote the text
        raise ValueError("must not contain half of a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Email = Annotated[Text, Field(max_length=200, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Url = Annotated[Text, Field(max_length=2000)]
USER_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"  # as long as Commet takes it
UserId = Annotated[str, Field(pattern=USER_ID_PATTERN)]
FEATURE_PATTERN = r"^[a-z0-9_]{1,100}$"
FeatureCode = Annotated[str, Field(pattern=FEATURE_PATTERN)]


def _only_text(value: object) -> object:
    # pydantic would take a number for seconds since 1970, and one in quotes too.
    if not isinstance(value, str | datetime) or (
        isinstance(value, str) and not re.match(r"\d{4}-\d", value)
    ):
        raise ValueError("must be an ISO-8601 time")
    return value


def _storable_offset(value: datetime) -> datetime:
    # Postgres refuses it, and with it a whole batch. No zone of this world is that far off.
    if abs(value.utcoffset() or timedelta()) >= timedelta(hours=16):
        raise ValueError("must have an offset of less than 16 hours")
    return value


OccurredAt = Annotated[AwareDatetime, BeforeValidator(_only_text), AfterValidator(_storable_offset)]


def _no_number_in_disguise(value: object) -> object:
    # pydantic would take true for 1, "1_0" for 10, and 1e999 for a very long number.
    if isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        raise ValueError("must be a decimal number")
    return value


def _quantity(value: object, check: ValidatorFunctionWrapHandler) -> Decimal:
    """What pydantic would say, who takes four times as long over a number that is fine."""
    if isinstance(value, str) and _PLAIN_QUANTITY.fullmatch(value) and (plain := Decimal(value)):
        return plain
    if isinstance(value, Decimal) and is_quantity(value):
        return value
    checked: Decimal = check(_no_number_in_disguise(value))
    return _in_full(checked)


def _in_full(value: Decimal) -> Decimal:
    # pydantic counts digits after rounding to 28 of them, as abs() does.
    if not is_quantity(value.copy_abs()):
        raise PydanticKnownError("decimal_max_places", {"decimal_places": 6})
    return value


def _not_zero(value: Decimal) -> Decimal:
    if value == 0:
        raise ValueError("must not be 0")
    return value


# The bounds stand beside the type: behind a function, pydantic would check them in Python.
Quantity = Annotated[
    Decimal,
    Field(gt=0, lt=10**9, max_digits=15, decimal_places=6, allow_inf_nan=False),
    WrapValidator(_quantity),
]
SignedQuantity = Annotated[
    Decimal,
    Field(gt=-(10**9), lt=10**9, max_digits=15, decimal_places=6, allow_inf_nan=False),
    BeforeValidator(_no_number_in_disguise),
    AfterValidator(_not_zero),
    AfterValidator(_in_full),
]

# The rule of Text as a pattern: a batch has a thousand keys.
_TEXT_PATTERN = r"^[^\x00-\x1f\x7f]*$"
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=200, pattern=_TEXT_PATTERN)]
Property = Annotated[Text, Field(max_length=200)]
Properties = Annotated[dict[Property, Property], Field(max_length=20)]
