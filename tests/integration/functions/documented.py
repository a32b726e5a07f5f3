"""Holds each answer of a handler against docs/openapi.json: status, problem code and shape."""

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema_rs

from local.openapi.problem_guide import GUIDES, NOT_OF_THE_API
from tests.unit.cloudformation import ROOT

PROBLEM = "application/problem+json"


def check(event: object, answer: Any) -> None:
    """Fails where a function gives an answer that the document does not have for the route."""
    if not isinstance(event, dict) or not isinstance(answer, dict) or "statusCode" not in answer:
        return
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    method = http.get("method") if isinstance(http, dict) else None
    found = operation(str(method), str(event.get("rawPath")))
    headers = {name.lower(): value for name, value in (answer.get("headers") or {}).items()}
    body, status = answer.get("body") or "", str(answer["statusCode"])
    code = json.loads(body)["code"] if headers.get("content-type") == PROBLEM else None
    if found is None or code in NOT_OF_THE_API:
        assert code is not None, f"{http} {status}: there is no such route"
        assert GUIDES[code].status == answer["statusCode"]
        return
    name, responses = found
    assert status in responses, f"{name} answered {status} {code or ''}, which is not documented"
    content = responses[status].get("content", {})
    if code is not None:
        listed = content.get(PROBLEM, {}).get("examples", {})
        assert code in listed, f"{name} answered {status} {code}: name it in api.may_answer"
    elif headers.get("content-type") == "application/json" and not answer.get("isBase64Encoded"):
        _validator(json.dumps(content["application/json"]["schema"])).validate(json.loads(body))


def operation(method: str, path: str) -> tuple[str, Mapping[str, Any]] | None:
    """The responses of the documented route of a request, and the route's name.

    The webhook function's own URL has no path.
    """
    path = "/webhooks/commet" if (method, path) == ("POST", "/") else path
    for template, pattern, operations in _routes():
        if pattern.fullmatch(path) and method.lower() in operations:
            return f"{method} {template}", operations[method.lower()]["responses"]
    return None


@cache
def _document() -> dict[str, Any]:
    text = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def _routes() -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
    """Paths without variables come first, as API Gateway decides."""
    paths = sorted(_document()["paths"].items(), key=lambda item: "{" in item[0])
    return [(path, _pattern(path), each) for path, each in paths]


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{\w+\}", path)
    return re.compile("[^/]+".join(map(re.escape, parts)))


@cache
def _validator(schema: str) -> Any:
    whole = {"components": {"schemas": _document()["components"]["schemas"]}, **json.loads(schema)}
    # An address is what the other side takes for one, which no format says exactly.
    return jsonschema_rs.validator_for(
        whole, validate_formats=True, formats={"idn-email": lambda text: "@" in text}
    )
