"""The local bus takes what EventBridge takes, by its own protocol."""

import json
from typing import Any

import pytest

from local.event_bus import EventBus

ENTRY = {
    "EventBusName": "local",
    "Source": "usage-billing",
    "DetailType": "access.granted",
    "Detail": '{"id": "1"}',
}


def put(bus: EventBus, *entries: object) -> tuple[int, dict[str, Any]]:
    return bus.put_events(json.dumps({"Entries": entries}).encode())


def test_entries_are_kept_the_newest_first() -> None:
    bus = EventBus()
    status, answer = put(bus, ENTRY, ENTRY | {"Detail": '{"id": "2"}'})
    kept = bus.entries()
    assert (status, answer["FailedEntryCount"]) == (200, 0)
    assert [each["EventId"] for each in answer["Entries"]] == [each.id for each in kept[::-1]]
    assert [each.detail["id"] for each in kept] == ["2", "1"]
    assert (kept[0].bus, kept[0].source, kept[0].type) == (
        *("local", "usage-billing"),
        "access.granted",
    )


def test_one_entry_that_is_no_json_fails_alone() -> None:
    bus = EventBus()
    status, answer = put(bus, ENTRY | {"Detail": "{"}, ENTRY)
    assert (status, answer["FailedEntryCount"]) == (200, 1)
    assert answer["Entries"][0]["ErrorCode"] == "MalformedDetail"
    assert len(bus.entries()) == 1


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"Entries": []}', '{"Entries": [1]}', '{"Entries": [{}]}']
)
def test_anything_else_is_refused(body: str) -> None:
    bus = EventBus()
    status, answer = bus.put_events(body.encode())
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert bus.entries() == []


def test_eleven_entries_are_too_many() -> None:
    assert put(EventBus(), *[ENTRY] * 11)[0] == 400
