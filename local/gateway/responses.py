"""Turns a function's answer into an HTTP response, as API Gateway does."""

import base64
import binascii
import json
from typing import Any

from werkzeug.wrappers import Request, Response

from local.gateway.template import Cors

# The server sets these headers itself, from the body that it sends.
_OWN_HEADERS = {"content-length", "connection", "transfer-encoding", "date"}


class MalformedResponseError(Exception):
    """The function's answer cannot be turned into an HTTP response."""


def problem(status: int, message: str) -> Response:
    """Returns an answer of API Gateway itself, and not of a function."""
    return Response(json.dumps({"message": message}), status, mimetype="application/json")


def not_found() -> Response:
    return problem(404, "Not Found")


def internal_server_error() -> Response:
    return problem(500, "Internal Server Error")


def service_unavailable() -> Response:
    return problem(503, "Service Unavailable")


def too_large() -> Response:
    return problem(413, "Request Entity Too Large")


def from_function(payload: bytes) -> Response:
    """Returns the response for an answer in payload format 2.0.

    The answer is an object with `statusCode`, or any other JSON, which becomes the body. Raises
    MalformedResponseError if API Gateway would answer 500.
    """
    try:
        answer = json.loads(payload)
    except ValueError as error:
        raise MalformedResponseError("not JSON") from error
    if not isinstance(answer, dict) or "statusCode" not in answer:
        body = answer if isinstance(answer, str) else json.dumps(answer)
        return Response(body, 200, content_type="application/json")
    response = Response(
        _body(answer), _status(answer["statusCode"]), content_type="text/plain;charset=UTF-8"
    )
    for name, value in _mapping(answer.get("headers")).items():
        if name.lower() not in _OWN_HEADERS and value is not None:
            response.headers[name] = _header_text(value)
    for cookie in answer.get("cookies") or ():
        response.headers.add("Set-Cookie", _header_text(cookie))
    return response


def _status(value: object) -> int:
    try:
        status = int(str(value))
    except ValueError:
        status = 0
    if not 100 <= status <= 599:
        raise MalformedResponseError(f"statusCode {value!r}")
    return status


def _body(answer: dict[str, Any]) -> bytes:
    body = answer.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise MalformedResponseError(f"body is {type(body).__name__}, not text")
    if answer.get("isBase64Encoded"):
        try:
            return base64.b64decode(body, validate=True)
        except binascii.Error as error:
            raise MalformedResponseError("body is not base64") from error
    return body.encode("utf-8", errors="replace")


def _mapping(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MalformedResponseError("headers is not an object")
    return value


def _header_text(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if "\r" in text or "\n" in text:
        raise MalformedResponseError("a header contains a line break")
    return text


def is_preflight(request: Request) -> bool:
    """Returns whether the request is a browser's question before the real request (CORS)."""
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
    )


def preflight(request: Request, cors: Cors) -> Response:
    """Returns API Gateway's own answer to a preflight. No function is invoked."""
    response = Response(status=204)
    response.headers.remove("Content-Type")
    if origin := _allowed_origin(request, cors):
        _allow(response, origin, cors)
        for name, values in (("Methods", cors.allow_methods), ("Headers", cors.allow_headers)):
            if values:
                response.headers[f"Access-Control-Allow-{name}"] = ",".join(values)
        if cors.max_age_seconds is not None:
            response.headers["Access-Control-Max-Age"] = str(cors.max_age_seconds)
    return response


def apply_cors(request: Request, response: Response, cors: Cors) -> None:
    """Replaces the function's CORS headers by those from the API's settings."""
    for name in [n for n, _ in response.headers if n.lower().startswith("access-control-")]:
        del response.headers[name]
    if origin := _allowed_origin(request, cors):
        _allow(response, origin, cors)
        if cors.expose_headers:
            response.headers["Access-Control-Expose-Headers"] = ",".join(cors.expose_headers)


def _allowed_origin(request: Request, cors: Cors) -> str | None:
    origin = request.headers.get("Origin")
    if origin is None:
        return None
    if "*" in cors.allow_origins:
        return "*"
    return origin if origin in cors.allow_origins else None


def _allow(response: Response, origin: str, cors: Cors) -> None:
    response.headers["Access-Control-Allow-Origin"] = origin
    if cors.allow_credentials:
        response.headers["Access-Control-Allow-Credentials"] = "true"
