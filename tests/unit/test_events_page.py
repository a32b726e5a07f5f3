"""docs/events.md names each type of outgoing event, and all that its data has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.markdown import ROOT, sections

SCHEMAS = sorted((ROOT / "docs" / "events").glob("*.json"))
ROW = re.compile(r"^\| \[`([a-z_.]+)`\]\(events/([a-z_.]+)\.json\) \|.*?\|(.*)\|$", re.MULTILINE)


def rows() -> dict[str, str]:
    """What the table says of the data of each type."""
    found = ROW.findall(sections(ROOT / "docs" / "events.md")["the-types"])
    assert [name for name, linked, _ in found if name != linked] == []
    return {name: data for name, _, data in found}


def fields(schema: Path) -> set[str]:
    """The names in the data of a type, by its schema."""
    document: dict[str, Any] = json.loads(schema.read_text(encoding="utf-8"))
    data = document["properties"]["data"]
    if "$ref" in data:
        data = document["$defs"][data["$ref"].rpartition("/")[2]]
    return set(data.get("properties", {}))


def test_each_type_has_a_row() -> None:
    assert rows().keys() == {schema.stem for schema in SCHEMAS}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.stem)
def test_a_row_names_all_that_the_data_has(schema: Path) -> None:
    said = rows()[schema.stem]
    if "the same" in said:
        said += rows()["access.granted"]
    named = set(re.findall(r"`(\w+)`", said))
    assert fields(schema) - named == set()
