"""Reads and writes JSON without binary floats, so that quantities remain exact decimals."""

import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

Json = Any

_LARGEST_EXPONENT = 308


def loads(text: str | bytes) -> Json:
    """Parse JSON; fractions become Decimal. Raises ValueError, for NaN and Infinity too."""
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return _DECODER.decode(text)


def _fraction(text: str) -> Decimal:
    value = Decimal(text)
    # The limit is that of doubles. Written out, 1e999999999 would fill the memory.
    if abs(value.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError("a number is out of range")
    return value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


# One decoder, because json.loads would make a new one for each text.
_DECODER = json.JSONDecoder(parse_float=_fraction, parse_constant=_refuse_constant)


class Encoded(str):
    """JSON text that was written before and is sent unchanged."""

    __slots__ = ()


def dumps(value: Json) -> bytes:
    """Compact UTF-8 JSON. A Decimal becomes a plain number, without an exponent."""
    return _encode(value).encode()


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _object(value: Mapping[str, Json]) -> str:
    pairs = [encode_basestring(str(k)) + ":" + _encode(v) for k, v in value.items()]
    return "{" + ",".join(pairs) + "}"


def _array(value: Sequence[Json]) -> str:
    return "[" + ",".join([_encode(item) for item in value]) + "]"


# By exact type, the usual ones first, which takes half of the time of isinstance checks.
_ENCODERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null",
    bool: lambda value: "true" if value else "false",
    str: encode_basestring,
    int: int.__repr__,
    Decimal: _plain,
    Encoded: str.__str__,
    dict: _object,
    list: _array,
    tuple: _array,
}
_FAMILIES: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (str, encode_basestring),
    (int, int.__repr__),
    (Mapping, _object),
    (Sequence, _array),
)


def _encode(value: Json) -> str:
    encoder = _ENCODERS.get(type(value))
    return encoder(value) if encoder else _encode_relative(value)


def _encode_relative(value: Json) -> str:
    """Encodes a value of a subclass. Raises TypeError for a value without a JSON form, such as
    a float.
    """
    for family, encoder in _FAMILIES:
        if isinstance(value, family):
            return encoder(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")
