"""Makes the example of a body from its fields' examples, and simplifies pydantic's schemas."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

_REF = "#/components/schemas/"


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Any:
    """Returns a value that the schema accepts, made of examples.

    Raises LookupError if a field has no example.
    """
    if "$ref" in schema:
        schema = schemas[str(schema["$ref"]).removeprefix(_REF)]
    if "const" in schema:
        return schema["const"]
    if values := schema.get("examples") or schema.get("enum"):
        return copy.deepcopy(values[0])
    if branches := schema.get("anyOf"):
        return example_of(branches[0], schemas)
    return _example_of_kind(schema, schemas)


def _example_of_kind(schema: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Any:
    match schema.get("type"):
        case "object":
            properties: Mapping[str, Schema] = schema.get("properties", {})
            return {name: _of_field(name, field, schemas) for name, field in properties.items()}
        case "array":
            return [example_of(schema["items"], schemas)]
        case "boolean":
            return bool(schema.get("default", False))
    raise LookupError(f"no example: {dict(schema)}")


def _of_field(name: str, field: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Any:
    try:
        return example_of(field, schemas)
    except LookupError as error:
        raise LookupError(f"{name}: {error}") from None


def tidy(schema: Schema) -> None:
    """Removes titles that only repeat a name, and moves descriptions of optional fields to the
    field.

    Pydantic writes the description of `Email | None` into the branch for the email. Generators and
    pages read it from the field itself.
    """
    for field in _properties(schema):
        field.pop("title", None)
        _flatten(field)
        branches = field.get("anyOf", [])
        for said in ("description", "examples"):
            found = [branch.pop(said) for branch in branches if said in branch]
            if found:
                field.setdefault(said, found[0])
        kinds = {branch.get("type") for branch in branches}
        for branch in branches:  # a decimal may be sent as a number, but text is better
            if kinds >= {"number", "string"} and "pattern" in branch:
                branch["format"] = "decimal"
                [number] = [each for each in branches if each.get("type") == "number"]
                branch["pattern"] = _bounded(branch["pattern"], number)
        branches.sort(key=lambda branch: branch.get("type") == "number")


def _bounded(pattern: str, number: Schema) -> str:
    """The pattern of a decimal as text, as far as it can say the bounds of the number."""
    least = number.get("minimum", number.get("exclusiveMinimum"))
    if least is not None and least >= 0:
        pattern = pattern.replace("^", "^(?!-)", 1)
    if number.get("exclusiveMinimum") == 0:
        pattern = pattern.replace("^", "^(?=.*[1-9])", 1)
    most = number.get("maximum", number.get("exclusiveMaximum", 0) - 1)
    if most > 0:  # a number with more digits before the point is larger
        pattern = pattern.replace("^", rf"^(?![+-]?0*[1-9]\d{{{len(str(int(most)))}}})", 1)
    return pattern


def _flatten(field: Schema) -> None:
    """Turns a choice within a choice into one choice."""
    branches: list[Schema] = field.get("anyOf", [])
    for branch in [branch for branch in branches if "anyOf" in branch]:
        at = branches.index(branch)
        branches[at : at + 1] = branch.pop("anyOf")
        for name, said in branch.items():
            field.setdefault(name, said)


def _properties(schema: Schema) -> Iterator[Schema]:
    yield from schema.get("properties", {}).values()
