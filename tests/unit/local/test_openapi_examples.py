"""What the document says of decimals, and which field has no example."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from billing.field_types import LimitAmount, Quantity, SignedQuantity
from local.openapi.examples import example_of, tidy

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"


class Body(BaseModel):
    quantity: Annotated[Quantity, Field(examples=["1"])]
    change: Annotated[SignedQuantity, Field(examples=["-1"])]
    limit: Annotated[LimitAmount, Field(examples=["20"])]


def pattern(field: str) -> str:
    schema: dict[str, Any] = Body.model_json_schema(mode="validation")
    tidy(schema)
    [text] = [each for each in schema["properties"][field]["anyOf"] if each["type"] == "string"]
    found: str = text["pattern"]
    return found


@pytest.mark.parametrize(
    ("field", "valid", "invalid"),
    [
        (
            "quantity",
            ["1", "1.5", "0.000001", "+3", "999999999999999"],
            ["0", "0.0", "-1", "1000000000000000", "0.0000001", "ten", "1,5"],
        ),
        ("change", ["1", "-1.5", "-999999999999999"], ["1000000000000000", "0.0000001"]),
        ("limit", ["0", "20", "19.99"], ["-1", "10000000000"]),
    ],
)
def test_a_decimal_as_text_has_the_bounds_of_the_number(
    field: str, valid: list[str], invalid: list[str]
) -> None:
    """Else a generated client would send -1 as a text, which the API refuses."""
    says = re.compile(pattern(field))
    assert [text for text in valid if not says.search(text)] == []
    assert [text for text in invalid if says.search(text)] == []


def test_a_field_without_an_example_is_named() -> None:
    schema = {"type": "object", "properties": {"url": {"type": "string"}}}
    with pytest.raises(LookupError, match="url: no example"):
        example_of(schema, {})


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value, at any depth."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from objects(each)


@pytest.mark.parametrize(
    ("says", "other"),
    [
        (("status", "accepted"), ("code", None)),
        (("kind", "event"), ("reason", None)),
        (("enabled", True), ("disabled_by", None)),
        (("state", "pending"), ("ended_at", None)),
        (("reason", "status"), ("http_status", 503)),
        (("name", "Priority support"), ("feature", "priority_support")),
    ],
)
def test_the_fields_of_an_example_fit_each_other(
    says: tuple[str, Any], other: tuple[str, Any]
) -> None:
    """People copy examples, and tools answer with them."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    examples = [each["example"] for each in objects(document) if "example" in each]
    found = [
        each for each in objects(examples) if each.get(says[0]) == says[1] and other[0] in each
    ]
    assert found
    assert {json.dumps(each[other[0]]) for each in found} == {json.dumps(other[1])}
