"""The running API keeps what docs/openapi.json promises."""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from local.openapi.__main__ import main
from local.stack import LocalStack
from tests.proof.scale import scaled

if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import APIOperation

DOCUMENT = json.loads(
    (Path(__file__).parents[3] / "docs" / "openapi.json").read_text(encoding="utf-8")
)
OPERATIONS = [
    f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item
]

# These end the session that the request has.
_ENDING = {"/logout", "/login", "/login/link", "/signup"}


def test_the_files_are_what_the_code_says() -> None:
    """`make openapi` would change nothing."""
    assert main(["--check"]) == 0


@pytest.fixture(scope="module")
def session(stack: LocalStack) -> str:
    answer = httpx.post(
        f"{stack.api}/signup",
        json={"email": "fuzz@example.com", "password": "a long walk home"},
        timeout=40,
        trust_env=False,
    )
    return str(answer.json()["session"]["token"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_a_documented_one(name: str, stack: LocalStack, session: str) -> None:
    """Whatever is sent: a documented status, content type and shape, and never a 500.

    Schemathesis makes dozens of requests for an operation, each with one field at a limit, and
    random ones. `make test` sends a quarter of them, `make prove` all.

    Schemathesis has a decorator for this. It makes the requests of all operations when tests are
    collected, which every worker does, and takes as long as all the rest of collecting.
    """
    from schemathesis.generation.feedback import FeedbackSources
    from schemathesis.pytest._test_builder import build_operation_test

    operation = _operations()[name]
    test: Any = build_operation_test(
        config=operation.schema.config,
        operation=operation,
        test_func=_is_documented,
        given_kwargs={},
        feedback=FeedbackSources(),
    )
    at_limits = test.hypothesis_explicit_examples
    assert at_limits
    test.hypothesis_explicit_examples = at_limits[:: scaled(1, 4)]
    test(stack=stack, session=session)
    if name == "POST /events/endpoints":
        _remove_endpoints(stack)


def _remove_endpoints(stack: LocalStack) -> None:
    """There are ten at most, and other tests of this stack make some."""
    headers = {"Authorization": f"Bearer {stack.service_key}"}
    with httpx.Client(base_url=stack.api, headers=headers, timeout=40, trust_env=False) as http:
        endpoints = http.get("/events/endpoints").json()["endpoints"]
        assert endpoints
        for endpoint in endpoints:
            assert http.delete(f"/events/endpoints/{endpoint['id']}").is_success


@settings(
    max_examples=scaled(15, 4),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def _is_documented(case: "Case[Any]", stack: LocalStack, session: str) -> None:
    from schemathesis.checks import (
        content_type_conformance,
        not_a_server_error,
        response_schema_conformance,
        status_code_conformance,
    )

    if case.operation.path in _ENDING:
        session = "ses_of_somebody_else"  # ending ours would leave nothing to test the others with
    by_service = any(
        "serviceKey" in each for each in case.operation.definition.raw.get("security", [])
    )
    token = stack.service_key if by_service else session
    case.call_and_validate(
        base_url=stack.api,
        headers={"Authorization": f"Bearer {token}"},
        timeout=40,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )


@cache
def _operations() -> "dict[str, APIOperation[Any, Any, Any, Any]]":
    """The operations of the document by their names."""
    import schemathesis
    from schemathesis.core.result import Ok

    schema = schemathesis.openapi.from_dict(DOCUMENT)
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    return {each.label: each for each in operations}
