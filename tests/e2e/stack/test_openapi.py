"""The running API keeps what docs/openapi.json promises."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from local.openapi.__main__ import main
from local.stack import LocalStack

# Switched off in pyproject.toml for all others, which start sooner without it.
pytest_plugins = ["schemathesis.pytest.plugin"]

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.json"

# These end the session that the request has.
_ENDING = {"/logout", "/login", "/login/link", "/signup"}

schema = schemathesis.openapi.from_dict(json.loads(DOCUMENT.read_text(encoding="utf-8")))


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


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_a_documented_one(
    case: schemathesis.Case[Any], stack: LocalStack, session: str
) -> None:
    """Whatever is sent: a documented status, content type and shape, and never a 500."""
    if case.operation.path in _ENDING:
        session = "ses_of_somebody_else"  # ending ours would leave nothing to test the others with
    by_service = any(
        "serviceKey" in each for each in case.operation.definition.raw.get("security", [])
    )
    token = stack.service_key if by_service else session
    case.call_and_validate(
        base_url=stack.api,
        headers={"Authorization": f"Bearer {token}"},
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
