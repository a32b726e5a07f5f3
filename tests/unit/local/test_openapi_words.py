"""Everything in docs/openapi.json says what it is, and shows it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from local.openapi.problem_guide import GUIDES, NOT_OF_THE_API
from tests.unit.cloudformation import ROOT
from tests.unit.request_models import request_models

DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
FIELDS = {
    f"{name}.{field}": schema
    for name, model in SCHEMAS.items()
    for field, schema in model.get("properties", {}).items()
}


def bodies(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is sent and what is answered, but for problems."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for status, answer in operation["responses"].items():
        if int(status) < 300:
            yield from answer.get("content", {}).values()


def has_example(schema: dict[str, Any]) -> bool:
    """Whether a reader sees a value: an example, all values there are, or another schema."""
    if schema.keys() & {"examples", "enum", "const", "$ref"} or schema.get("type") == "boolean":
        return True
    if schema.get("type") == "array":
        return has_example(schema["items"])
    branches = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return any(has_example(each) for each in branches)


def validator(schema: dict[str, Any]) -> Any:
    whole = {"components": {"schemas": SCHEMAS}, **schema}
    return jsonschema_rs.validator_for(whole, validate_formats=True)


@pytest.mark.parametrize("name", OPERATIONS)
class TestOperation:
    def test_it_has_words(self, name: str) -> None:
        """A summary that fits a line and starts with a verb, and a description that says more."""
        operation = OPERATIONS[name]
        assert re.fullmatch(r"[A-Z][a-z]+ [^\n]{5,110}[^.]", operation["summary"])
        assert operation["description"].startswith(operation["summary"])
        assert re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", operation["operationId"])
        assert len(operation["tags"]) == 1

    def test_it_says_who_may_call_it(self, name: str) -> None:
        """Explicitly, also where anybody may."""
        known = DOCUMENT["components"]["securitySchemes"].keys()
        assert [each for each in OPERATIONS[name]["security"] if not each.keys() <= known] == []

    def test_its_parameters_have_words_and_examples(self, name: str) -> None:
        wrong = [
            parameter["name"]
            for parameter in OPERATIONS[name].get("parameters", ())
            if not parameter["description"]
            or not validator(parameter["schema"]).is_valid(parameter["example"])
        ]
        assert wrong == []

    def test_its_bodies_have_an_example(self, name: str) -> None:
        """That is valid, so that it can be sent as it is shown."""
        for body in bodies(OPERATIONS[name]):
            validator(body["schema"]).validate(body["example"])

    def test_its_problems_are_named(self, name: str) -> None:
        """Each by its code, under its status, with a title and an example."""
        answers = OPERATIONS[name]["responses"]
        assert answers
        for status, answer in answers.items():
            problem = answer.get("content", {}).get("application/problem+json")
            assert (
                problem is not None or int(status) < 400 or "API Gateway" in answer["description"]
            )
            codes = list(problem["examples"]) if problem else []
            assert [code for code in codes if GUIDES[code].status != int(status)] == []
            assert [code for code in codes if f"`{code}`" not in answer["description"]] == []


def test_ids_are_unique() -> None:
    counted = Counter(each["operationId"] for each in OPERATIONS.values())
    assert [name for name, times in counted.items() if times > 1] == []
    assert {"reportUsage", "createCheckout", "signIn", "getDashboard"} <= counted.keys()


def test_fields_have_words() -> None:
    """A field of another schema is described by that schema."""
    silent = [
        name
        for name, field in FIELDS.items()
        if not field.get("description")
        and not SCHEMAS.get(field.get("$ref", "").rpartition("/")[2], {}).get("description")
    ]
    assert len(FIELDS) > 200
    assert silent == []


def test_schemas_have_words() -> None:
    assert [name for name, schema in SCHEMAS.items() if not schema.get("description")] == []


def test_fields_have_examples() -> None:
    assert [name for name, field in FIELDS.items() if not has_example(field)] == []


def test_examples_of_fields_are_valid() -> None:
    wrong = [
        name
        for name, field in FIELDS.items()
        for example in field.get("examples", ())
        if not validator(field).is_valid(example)
    ]
    assert wrong == []


def test_examples_of_requests_are_taken() -> None:
    """The models themselves take them, with the rules that JSON Schema cannot say."""
    taken = 0
    for model in request_models():
        for operation in OPERATIONS.values():
            for body in operation.get("requestBody", {}).get("content", {}).values():
                if body["schema"].get("$ref", "").endswith(f"/{model.__name__}"):
                    model.model_validate(body["example"])
                    taken += 1
    assert taken > 10


def test_times_and_decimals_have_formats() -> None:
    """So that generators make them times, and nobody makes a float of money."""
    times = {name: field for name, field in FIELDS.items() if re.search(r"(_at|\.since)$", name)}
    assert times
    assert [name for name, field in times.items() if "date-time" not in json.dumps(field)] == []
    decimals = [n for n, f in FIELDS.items() if re.search(r"\.(amount|quantity|used|cost)$", n)]
    assert decimals
    assert [n for n in decimals if '"decimal"' not in json.dumps(FIELDS[n])] == []


def test_states_and_codes_are_listed() -> None:
    free = ("WrongField.code", "Problem.status")
    named = [n for n in FIELDS if re.search(r"\.(status|state|kind|code)$", n) and n not in free]
    of_catalogue = {
        *("PlanFeatureReply.code", "PlanReply.code", "FeatureChangeReply.code"),
        "PlanEstimate.code",
    }
    assert [n for n in named if '"enum"' not in json.dumps(FIELDS[n])] == sorted(
        of_catalogue, key=named.index
    )


def test_problems_are_all_there() -> None:
    """Every code of the API is on a route, and none that no request gets."""
    listed = {
        code
        for operation in OPERATIONS.values()
        for answer in operation["responses"].values()
        for code in answer.get("content", {})
        .get("application/problem+json", {})
        .get("examples", ())
    }
    assert listed == GUIDES.keys() - NOT_OF_THE_API
    assert listed == DOCUMENT["components"]["examples"].keys()


def test_the_problems_examples_are_problems() -> None:
    check = validator({"$ref": "#/components/schemas/Problem"})
    examples = DOCUMENT["components"]["examples"]
    assert examples
    for code, example in examples.items():
        check.validate(example["value"])
        assert example["value"]["code"] == code
        assert example["value"]["type"].endswith(f"#{code}")


def test_servers() -> None:
    assert DOCUMENT["servers"][0]["url"] == "http://127.0.0.1:3000"
    assert all(server["description"] for server in DOCUMENT["servers"])


def test_items_of_a_batch_are_events() -> None:
    """Generated clients knew nothing of them."""
    items = SCHEMAS["UsageBatch"]["properties"]["events"]["items"]
    assert items == {"$ref": "#/components/schemas/UsageEvent"}
