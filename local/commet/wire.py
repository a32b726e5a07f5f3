"""JSON in and out without binary floats: quantities stay the decimals they were written as."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

Json = Any


def loads(text: str | bytes) -> Json:
    """Parse JSON; fractions become Decimal. Raises ValueError, for NaN and Infinity too."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def dumps(value: Json) -> bytes:
    """Compact UTF-8 JSON. A Decimal becomes a plain number, without an exponent."""
    return _encode(value).encode()


def number(value: Decimal) -> Decimal:
    """The same number without trailing zeros, so 1.50 and 1.5 read alike."""
    return value.normalize() if value else Decimal(0)


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
        return f"{number(value):f}"
    if isinstance(value, Mapping):
        pairs = (f"{encode_basestring(str(k))}:{_encode(v)}" for k, v in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_encode, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form here")
