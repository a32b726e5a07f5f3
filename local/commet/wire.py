"""JSON in and out without binary floats: quantities stay the decimals they were written as."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

Json = Any

_LARGEST_EXPONENT = 308


def loads(text: str | bytes) -> Json:
    """Parse JSON; fractions become Decimal. Raises ValueError, for NaN and Infinity too."""
    return json.loads(text, parse_float=_fraction, parse_constant=_refuse_constant)


def _fraction(text: str) -> Decimal:
    value = Decimal(text)
    # As far as doubles go. Written out, 1e999999999 would fill the memory.
    if abs(value.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError("a number is out of range")
    return value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def dumps(value: Json) -> bytes:
    """Compact UTF-8 JSON. A Decimal becomes a plain number, without an exponent."""
    return _encode(value).encode()


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _encode(value: Json) -> str:  # noqa: PLR0911 - one line per JSON type
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, Decimal):
        return _plain(value)
    if isinstance(value, Mapping):
        pairs = (f"{encode_basestring(str(k))}:{_encode(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_encode, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form here")
