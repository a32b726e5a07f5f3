"""Facts about fields for the OpenAPI document that pydantic cannot know: values, formats,
references.

Nothing here changes how a value is checked or written.
"""

from typing import Any

from pydantic import WithJsonSchema


def one_of(*values: str) -> WithJsonSchema:
    """The field has one of these values. Another value would need a new version of the API."""
    return WithJsonSchema({"type": "string", "enum": list(values)})


def known(*values: str) -> WithJsonSchema:
    """The values that the field has today. New values may be added, so any text is valid."""
    listed: dict[str, Any] = {"type": "string", "enum": list(values)}
    return WithJsonSchema({"anyOf": [listed, {"type": "string"}], "examples": list(values[:1])})


def list_of(model: str, *, most: int) -> WithJsonSchema:
    """A list of 1 to `most` objects of a model, whose items the caller checks one by one."""
    items = {"$ref": f"#/components/schemas/{model}"}
    return WithJsonSchema({"type": "array", "items": items, "minItems": 1, "maxItems": most})


# A decimal number as text, so that no program rounds it.
DECIMAL = {"format": "decimal"}
TIME = WithJsonSchema(
    {"type": "string", "format": "date-time", "examples": ["2026-03-01T09:30:00.000Z"]}
)
