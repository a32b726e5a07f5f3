"""Errors as RFC 9457 problem documents.

Uses the standard library only, because the webhook function imports it and must start fast.
"""

import json
from typing import Any

from billing.errors import (
    AccessUnconfirmed,
    BillingError,
    DebtOpen,
    MethodNotAllowed,
    UnsupportedEncoding,
)

CONTENT_TYPE = "application/problem+json"


def type_of(code: str) -> str:
    """Returns the address of a problem's explanation, relative to the API (docs/problems.md)."""
    return f"/docs/problems#{code}"


def document(error: BillingError, request_id: str) -> dict[str, Any]:
    """Returns the problem document of an error. `code` is for programs, `type` explains it to
    people.
    """
    problem: dict[str, Any] = {
        "type": type_of(error.code),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        problem["errors"] = [
            {"field": e.field, "code": e.code, "message": e.message} for e in error.errors
        ]
    if isinstance(error, AccessUnconfirmed) and error.as_of is not None:
        problem["as_of"] = error.as_of.isoformat()
    if isinstance(error, DebtOpen):
        problem |= {
            "amount": error.amount,
            "currency": error.currency,
            "pay_url": error.pay_url,
        }
    return problem


def headers(error: BillingError) -> dict[str, str]:
    """The headers of an error's answer, by name."""
    values = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
    if error.retry_after is not None:
        values["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        values["WWW-Authenticate"] = "Bearer"  # RFC 9110 requires this header, and Allow below
    if isinstance(error, MethodNotAllowed):
        values["Allow"] = error.allow
    if isinstance(error, UnsupportedEncoding):
        values["Accept-Encoding"] = "identity"
    return values


def response(error: BillingError, request_id: str) -> dict[str, Any]:
    """Returns the whole answer for an error, in API Gateway's payload format 2.0."""
    return {
        "statusCode": error.status,
        "headers": headers(error),
        "body": json.dumps(document(error, request_id)),
        "isBase64Encoded": False,
    }
