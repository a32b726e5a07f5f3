"""Reads the events of one request, up to 1,000, and finds the wrong fields of each invalid one."""

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from billing.errors import FieldError
from billing.field_types import IdempotencyKey
from billing.http import api
from billing.http.shapes import usage as shapes
from billing.usage.accepting import UsageEvent

# The answer names at most this many wrong fields of each event, because Lambda limits an answer to
# 6 MB and all 1,000 events may be wrong.
_MOST_ERRORS = 3

_event = TypeAdapter(UsageEvent)
_events = TypeAdapter(list[UsageEvent])
_key = TypeAdapter(IdempotencyKey)


def read(items: list[Any]) -> Sequence[UsageEvent | list[FieldError]]:
    """Returns each event, or its wrong fields, in the order of the request."""
    try:
        return _events.validate_python(items)  # validating one by one takes twice as long
    except ValidationError:
        return [_read_one(item) for item in items]


def read_single(body: object) -> UsageEvent:
    """Returns the event of a request that has one. Raises pydantic's ValidationError."""
    try:
        return _event.validate_python(body)
    except ValidationError:
        shapes.UsageEvent.model_validate(body)  # its errors name the fields as the document does
        raise


def key_of(item: object) -> str | None:
    """Returns the idempotency key of an invalid item; None if the item has no valid key.

    The sender uses the key to find the item.
    """
    key = item.get("idempotency_key") if isinstance(item, dict) else None
    try:
        return _key.validate_python(key, strict=True)
    except ValidationError:
        return None


def _read_one(item: object) -> UsageEvent | list[FieldError]:
    try:
        return read_single(item)
    except ValidationError as error:
        wrong = error
    found = wrong.errors(include_url=False, include_context=False, include_input=False)
    return [api.field_error(each, each["loc"]) for each in found[:_MOST_ERRORS]]
