"""Reads single fields of Commet's webhooks.

No field is trusted to exist or to have the right type. A field that cannot be read is None.
Postgres can store every value that these functions return.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Data = Mapping[str, Any]

# The field of a customer's metadata that names the user for whom we created the customer. Commet
# may give our user's id to another customer with the same address. The field shows which customer
# is which.
MADE_FOR = "user"

_MAX_TEXT = 500
_DECIMAL = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,6})?")


def is_null(data: Data, key: str) -> bool:
    """Returns whether the key is present and its value is null."""
    return key in data and data[key] is None


def nested(data: Data, key: str) -> Data:
    """Returns an object inside the object; an empty one if there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def text(data: Data, key: str, *, longest: int = _MAX_TEXT) -> str | None:
    """Returns a string of at most `longest` characters that Postgres can store, or None."""
    value = data.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest or "\x00" in value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
    return value


def number(data: Data, key: str) -> str | None:
    """Returns a number as decimal text that fits numeric(21,6), or None."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    written = str(value)  # fractions remained text when the webhook was parsed
    return written if _DECIMAL.fullmatch(written) else None


def time_of(value: object) -> datetime | None:
    """Returns a time in UTC, or None. A time without an offset is read as UTC."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # OverflowError: outside the years 1 to 9999 in UTC
        return None


def iso(data: Data, key: str) -> str | None:
    """Returns a time as ISO-8601 text in UTC, or None."""
    moment = time_of(data.get(key))
    return moment.isoformat() if moment else None
