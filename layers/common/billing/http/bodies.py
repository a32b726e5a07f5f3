"""Reads the JSON body of a request, strictly: two different bodies are never read as equal.

A body that cannot be read is refused with 400, because none of its fields is known. A body that can
be read, but has wrong fields, is refused with 422.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

from aws_lambda_powertools.utilities.data_classes.common import BaseProxyEvent

from billing.errors import (
    FieldError,
    InvalidRequest,
    PayloadTooLarge,
    UnreadableBody,
    UnsupportedEncoding,
    UnsupportedMediaType,
)

# No object of this API has more than 20 fields. For a large body, naming each unknown field took
# seconds and 600 MB.
MAX_NAMES = 50

# Lambda accepts 6 MB, and the body is a text inside a JSON document there: each quote, backslash
# and line end takes two bytes. The rest is for headers and for the fields that AWS adds.
_MOST_SENT = 6 * 1024 * 1024 - 128 * 1024
_SURELY_FITS = _MOST_SENT // 6  # a control character takes six

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_UTF8 = ("utf-8", "utf8", "us-ascii", "")
_LONGEST = 50  # at most this much of a header is repeated in a problem document


def check(event: BaseProxyEvent, max_body_bytes: int) -> None:
    """Refuses a body that is not UTF-8 JSON of at most this size, by its headers and its bytes.

    Raises UnsupportedEncoding, UnsupportedMediaType, UnreadableBody or PayloadTooLarge.
    """
    headers: Mapping[str, str] = event.raw_event["headers"]
    encodings = headers.get("content-encoding", "").lower().replace(" ", "").split(",")
    if refused := [_shown(each) for each in encodings if each not in ("", "identity")]:
        raise UnsupportedEncoding(
            f"A body with Content-Encoding {', '.join(refused)} is not read. Send it uncompressed."
        )
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType
    if (charset := _CHARSET.search(content_type)) and charset[1].lower() not in _UTF8:
        raise UnsupportedMediaType(
            f"A body in the character set {_shown(charset[1])} is not read. Send UTF-8."
        )
    try:
        body = event.decoded_body or ""
        size = len(body.encode())
    except ValueError as error:  # invalid base64, invalid UTF-8, or half of a surrogate pair
        raise UnreadableBody("The body is not UTF-8 text.", code="invalid_encoding") from error
    if size > max_body_bytes:
        raise PayloadTooLarge(f"The body is larger than {max_body_bytes} bytes.")
    sent = event.body or ""
    if len(sent) > _SURELY_FITS and len(json.dumps(sent, ensure_ascii=False).encode()) > _MOST_SENT:
        raise PayloadTooLarge(
            f"The body is larger than {_MOST_SENT} bytes, counting quotes and backslashes twice."
        )
    # API Gateway replaces every byte that is not UTF-8 by U+FFFD. Two keys that differ only in such
    # bytes would become equal.
    if "\ufffd" in body:
        raise UnreadableBody(
            "The body is not UTF-8 text, or contains U+FFFD, which stands for bytes that are not."
            r" Where the character itself is meant, write \ufffd.",
            code="invalid_encoding",
        )


def _shown(value: str) -> str:
    return "".join(c for c in value if c.isascii() and c.isprintable())[:_LONGEST]


def parse(text: str) -> dict[str, Any]:
    """Returns a JSON object, with exact decimals.

    Raises UnreadableBody if the text is not JSON, and for NaN and for a name that is given twice.
    Raises InvalidRequest for JSON that is no object, or has an object with more than MAX_NAMES
    names.
    """
    try:
        body = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        # Not chained: the exception contains the whole body, although its message does not.
        detail = "The body is not valid JSON."
        if isinstance(error, json.JSONDecodeError):
            detail = f"The body is not valid JSON (line {error.lineno}, column {error.colno})."
        elif isinstance(error, _Twice):
            detail = "An object of the body has the same name twice."
        raise UnreadableBody(detail) from None
    if not isinstance(body, dict):
        # Powertools would use the first item of a list as the body.
        raise InvalidRequest("The body must be a JSON object.")
    return body


class _Twice(ValueError):
    """An object has the same name twice. Some programs keep the first value, others the last."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    count = len(pairs)
    if count > MAX_NAMES:
        too_many = f"An object of the body has more than {MAX_NAMES} names."
        raise InvalidRequest(errors=[FieldError("body", "too_many_fields", too_many)])
    if len(found) != count:
        raise _Twice
    return found


def _decimal(text: str) -> Decimal:
    # A huge exponent would make later steps slow, and no amount needs one.
    if len(text) > 400 or re.search(r"[eE][+-]?\d{4,}", text):
        raise ValueError("number out of range")
    return Decimal(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# One decoder for all bodies, because making one takes as long as reading a usage event.
_decoder = json.JSONDecoder(
    parse_float=_decimal, parse_constant=_no_constant, object_pairs_hook=_object
)
