"""The schemas of outgoing events: one for each type."""

import jsonschema_rs
import pytest

from billing.events import cloud_events
from billing.events.known_types import TYPES
from billing.events.log import OutgoingEvent
from local.openapi.event_types import MODELS, schema


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


@pytest.mark.parametrize("kind", MODELS)
def test_its_id_has_its_type_and_its_version(kind: str) -> None:
    assert schema(kind)["$id"] == f"urn:usage-billing:event:{kind}:1"
