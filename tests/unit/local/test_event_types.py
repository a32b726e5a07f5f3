"""The schemas of outgoing events: one for each type, and they only grow."""

from typing import Any

import jsonschema_rs
import pytest

from billing.events import cloud_events
from billing.events.known_types import TYPES
from billing.events.log import OutgoingEvent
from local.openapi.event_types import MODELS, breaks, schema


def data(**properties: Any) -> dict[str, Any]:
    form = {"properties": properties, "required": [n for n in properties if n != "maybe"]}
    return {"properties": {"data": form}}


TEXT, NULLABLE = {"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}


def test_each_type_has_one() -> None:
    assert list(MODELS) == list(TYPES)


def test_an_event_as_it_leaves_is_valid() -> None:
    from datetime import UTC, datetime
    from uuid import uuid4

    at = datetime(2026, 9, 1, 12, tzinfo=UTC)
    event = OutgoingEvent(uuid4(), 9, 2, "customer-17", "user.erased", at, {})
    document = cloud_events.document(event, "https://app.example.com")
    assert jsonschema_rs.validator_for(schema("user.erased")).is_valid(document)
    assert not jsonschema_rs.validator_for(schema("access.ended")).is_valid(document)


@pytest.mark.parametrize("kind", MODELS)
def test_a_field_that_is_not_known_yet_is_allowed(kind: str) -> None:
    """Readers have older schemas than the stack."""
    assert "'additionalProperties': False" not in str(schema(kind))


@pytest.mark.parametrize(
    ("new", "wrong"),
    [
        (data(a=TEXT), []),
        (data(a=TEXT, b=TEXT), []),
        (data(b=TEXT), ["a is gone"]),
        (data(a=NULLABLE), ["a has another form"]),
        (data(a={"type": "integer"}), ["a has another form"]),
    ],
)
def test_schemas_only_grow(new: dict[str, Any], wrong: list[str]) -> None:
    assert breaks(data(a=TEXT), new) == wrong


def test_a_field_that_was_always_there_stays_so() -> None:
    assert breaks(data(maybe=TEXT), data(maybe=TEXT)) == []
    old = {"properties": {"data": {"properties": {"maybe": TEXT}, "required": ["maybe"]}}}
    assert breaks(old, data(maybe=TEXT)) == ["maybe may be missing"]
