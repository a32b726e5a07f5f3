"""Completes one operation: texts from the handler's docstring, problems from the route's form."""

import copy
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from billing.errors import TITLES
from billing.http import api, problems
from local.openapi.examples import Schema, example_of
from local.openapi.problem_guide import GUIDES, NOT_OF_THE_API

Operation = dict[str, Any]

_PROBLEM = "#/components/schemas/Problem"
_GATEWAY = {"application/json": {"schema": {"$ref": "#/components/schemas/GatewayError"}}}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "After how many seconds to try again.",
        "schema": {"type": "integer", "examples": [5]},
    }
}
# Statuses that API Gateway itself answers: 429 and 503 if there is too much to do, 500 if a
# function crashes or takes too long.
_GATEWAYS_OWN = (429, 500, 503)


def complete(
    operation: Operation,
    method: str,
    handler: Callable[..., Any],
    schemas: Mapping[str, Schema],
) -> None:
    """Adds the parts of an operation that Powertools does not know."""
    operation["summary"], operation["description"] = words_of(handler)
    operation.setdefault("security", [{}, *api.BY_USER] if api.is_greeting(handler) else [])
    _name(operation, handler)
    codes = {*api.problem_codes(handler), *_codes_of_form(operation, method, handler)}
    operation["responses"].pop("422", None)  # Powertools' own form of a 422
    for answer in operation["responses"].values():
        _complete_answer(answer, schemas)
    operation["responses"] |= problem_answers(codes)
    for status in map(str, _GATEWAYS_OWN):
        answer = operation["responses"].setdefault(status, gateways_own(int(status)))
        answer["content"] |= copy.deepcopy(_GATEWAY)
    operation["responses"] = dict(sorted(operation["responses"].items()))
    for body in operation.get("requestBody", {}).get("content", {}).values():
        body["schema"].pop("title", None)
        body.setdefault("example", example_of(body["schema"], schemas))
    for parameter in operation.get("parameters", ()):
        _complete_parameter(parameter)


def words_of(handler: Callable[..., Any]) -> tuple[str, str]:
    """Returns the handler's docstring as summary (its first sentence) and description (all of
    it).
    """
    text = inspect.getdoc(handler) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    first = re.split(r"(?<=[.?!])\s", paragraphs[0], maxsplit=1)[0]
    return first.removesuffix("."), "\n\n".join(paragraphs)


def problem_answers(codes: Iterable[str]) -> dict[str, Operation]:
    """Returns the answers for problems with these codes, by status."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in sorted(codes):
        by_status[GUIDES[code].status].append(code)
    return {str(status): _problems(status, found) for status, found in by_status.items()}


def problem_examples() -> dict[str, Schema]:
    """Returns an example of each problem, by code. All routes refer to these."""
    codes = sorted(GUIDES.keys() - NOT_OF_THE_API)
    return {code: {"summary": TITLES[code], "value": _problem(code)} for code in codes}


def phrase(status: int) -> str:
    """Returns RFC 9110's phrase for a status. Python before 3.13 has older phrases for 413 and
    422.
    """
    newer = {413: "Content Too Large", 422: "Unprocessable Content"}
    return newer.get(status) or HTTPStatus(status).phrase


def gateways_own(status: int) -> Operation:
    """Returns an answer with a status that only API Gateway sends."""
    return {
        "description": f"API Gateway's own answer: {HTTPStatus(status).phrase}.",
        "content": {},
    }


def _codes_of_form(operation: Operation, method: str, handler: Callable[..., Any]) -> set[str]:
    """Returns the problems that follow from a route's callers and from what the route reads."""
    if api.is_page(handler):
        reads = {"not_found", "invalid_request"} if operation.get("parameters") else set()
        return {"internal_error"} | reads
    codes = {"internal_error", "database_unavailable", "unavailable"}
    security = operation["security"]
    by_service = any(api.SERVICE_KEY in each for each in security)
    by_session = any(api.SESSION in each for each in security)
    by_token = any(api.IDENTITY_TOKEN in each for each in security)
    if security and {} not in security:
        codes.add("unauthenticated")
    if {} not in security and (by_token or by_session):
        # A token of the provider is verified before the request is refused.
        codes.add("identity_provider_unavailable")
    if by_service:
        codes.add("missing_scope")
        if not by_token:
            codes |= {"service_key_required", "identity_provider_unavailable"}
    elif by_session and not by_token and {} not in security:
        codes.add("own_account_required")
    if api.is_for_own_accounts(handler):
        codes.add("not_found")  # own accounts can be switched off
    if "requestBody" in operation:
        codes |= {"invalid_json", "invalid_encoding", "payload_too_large"}
        codes |= {"unsupported_media_type", "unsupported_encoding", "invalid_request"}
    if operation.get("parameters"):
        codes.add("invalid_request")
        codes.add("not_found")  # a name with characters that the route does not allow
    if method != "get":
        codes.add("origin_not_allowed")
    return codes


def _name(operation: Operation, handler: Callable[..., Any]) -> None:
    """Sets the operation's id: the route's own, else the handler's name (`report_usage`:
    `reportUsage`).
    """
    given = operation["operationId"]
    if given.startswith(f"{handler.__name__}_"):  # Powertools' own: name, path and method
        first, *others = handler.__name__.split("_")
        operation["operationId"] = first + "".join(each.capitalize() for each in others)


def _complete_answer(answer: Operation, schemas: Mapping[str, Schema]) -> None:
    content = answer.get("content", {})
    if content and all(each["schema"].get("type") == "null" for each in content.values()):
        del answer["content"]  # an answer without a body
        return
    for body in content.values():
        body.setdefault("example", example_of(body["schema"], schemas))


def _complete_parameter(parameter: Operation) -> None:
    """Removes null from the types of an optional parameter, because a query cannot express null."""
    schema = parameter["schema"]
    schema.pop("title", None)
    branches = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(branches) == 1:
        del schema["anyOf"]
        schema |= branches[0]
    examples = schema.pop("examples", None) or parameter.pop("examples", None)
    if examples:
        parameter["example"] = examples[0]
    parameter.setdefault("description", schema.pop("description", ""))
    schema.pop("description", None)


def _problems(status: int, codes: list[str]) -> Operation:
    listed = "\n".join(f"- `{code}`: {TITLES[code]}" for code in codes)
    found: Operation = {
        "description": f"{phrase(status)}\n\n{listed}",
        "content": {
            problems.CONTENT_TYPE: {
                "schema": {"$ref": _PROBLEM},
                "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
            }
        },
    }
    if any(GUIDES[code].retry for code in codes):
        found["headers"] = _RETRY_AFTER
    return found


def _problem(code: str) -> Schema:
    value: Schema = {
        "type": problems.type_of(code),
        "title": TITLES[code],
        "status": GUIDES[code].status,
        "detail": TITLES[code] + ".",
        "code": code,
        "request_id": "JKJaXmPLvHcESHA=",
    }
    if code == "invalid_request":
        message = "Input should be greater than 0"
        value["errors"] = [{"field": "quantity", "code": "greater_than", "message": message}]
    if code == "debt_open":
        pay = "https://commet.co/pay/plink_7Qd2"
        value |= {"amount": "12.40", "currency": "usd", "pay_url": pay}
    if code == "access_unconfirmed":
        value["as_of"] = "2026-03-01T09:30:00+00:00"
    return value
