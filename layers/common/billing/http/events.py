"""Reads the event that AWS passes to a function that answers HTTP: payload format 2.0.

A function may be invoked with anything: the event of a load balancer or of a schedule, null, text.
Uses the standard library only, because the webhook function imports this module and must start
fast.
"""

from typing import Any

from billing.errors import UnknownEvent


def request_of(event: object) -> dict[str, Any]:
    """Returns the event as a request whose parts have the types of payload format 2.0.

    Missing and null parts become empty, and headers that are no text are left out. The names of
    headers are in lower case, as AWS writes them; SAM CLI writes them as the client did. Raises
    UnknownEvent for an event without method or path, and for a body that is no text.
    """
    if not isinstance(event, dict):
        raise UnknownEvent
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None
    if not isinstance(context, dict) or not isinstance(http, dict):
        raise UnknownEvent
    path = event.get("rawPath")
    method = http.get("method")
    body = event.get("body")
    if not (isinstance(path, str) and isinstance(method, str)):
        raise UnknownEvent
    if not isinstance(body, str | None):
        raise UnknownEvent
    query = event.get("queryStringParameters")
    cookies = event.get("cookies")
    raw_query = event.get("rawQueryString")
    return event | {
        "headers": {k.lower(): v for k, v in _texts(event.get("headers")).items()},
        "cookies": [c for c in cookies if isinstance(c, str)] if isinstance(cookies, list) else [],
        "queryStringParameters": _texts(query) or None,
        "rawQueryString": raw_query if isinstance(raw_query, str) else "",
        "body": body,
        "isBase64Encoded": event.get("isBase64Encoded") is True,
        "requestContext": context
        | {
            "requestId": request_id(event),
            "routeKey": _text(context.get("routeKey")),
            "http": http | {"path": _text(http.get("path")) or path},
        },
    }


def request_id(event: object) -> str:
    """Returns the id that AWS gave to the request; "" if there is none."""
    context = event.get("requestContext") if isinstance(event, dict) else None
    return _text(context.get("requestId")) if isinstance(context, dict) else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(values: object) -> dict[str, str]:
    if not isinstance(values, dict):
        return {}
    return {k: v for k, v in values.items() if isinstance(k, str) and isinstance(v, str)}
