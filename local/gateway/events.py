"""Makes the events that functions receive: payload format 2.0, function URLs, schedules.

The events follow AWS's documentation of the payloads. SAM CLI's events are not used, because they
differ in header case, absent fields, binary bodies, times and request ids.
"""

import base64
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from werkzeug.wrappers import Request

from local.gateway.template import ACCOUNT_ID, DEFAULT_ROUTE, REGION, Schedule

Event = dict[str, Any]

_TEXT_TYPES = {"application/json", "application/xml", "application/javascript"}


def http_api_event(
    request: Request,
    *,
    route_key: str,
    path_parameters: Mapping[str, str],
    request_id: str,
    api_id: str = "local",
) -> Event:
    """Returns the event of one request to an HTTP API route, payload format 2.0."""
    domain = request.host.partition(":")[0]
    event = _event(
        request, route_key=route_key, request_id=request_id, api_id=api_id, domain=domain
    )
    event["requestContext"]["accountId"] = ACCOUNT_ID
    if path_parameters:
        event["pathParameters"] = dict(path_parameters)
    return event


def function_url_event(request: Request, *, function: str, request_id: str) -> Event:
    """Returns the event of one request to a function's own URL."""
    url_id = function.lower()
    event = _event(
        request,
        route_key=DEFAULT_ROUTE,
        request_id=request_id,
        api_id=url_id,
        domain=f"{url_id}.lambda-url.{REGION}.on.aws",
    )
    event["requestContext"]["accountId"] = "anonymous"
    return event


def api_request_id() -> str:
    """Returns a new request id in the form of HTTP APIs: 16 characters."""
    return base64.urlsafe_b64encode(secrets.token_bytes(11)).decode()


def _event(request: Request, *, route_key: str, request_id: str, api_id: str, domain: str) -> Event:
    now = datetime.now(UTC)
    path = request.path
    event: Event = {
        "version": "2.0",
        "routeKey": route_key,
        "rawPath": path,
        "rawQueryString": request.query_string.decode("latin-1"),
        "headers": _headers(request),
        "requestContext": {
            "apiId": api_id,
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": request.method,
                "path": path,
                "protocol": request.environ.get("SERVER_PROTOCOL", "HTTP/1.1"),
                "sourceIp": request.remote_addr or "",
                "userAgent": request.headers.get("User-Agent", ""),
            },
            "requestId": request_id,
            "routeKey": route_key,
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now.timestamp() * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies := request.headers.get("Cookie"):
        event["cookies"] = [cookie.strip() for cookie in cookies.split(";") if cookie.strip()]
    if query := {name: ",".join(values) for name, values in request.args.lists()}:
        event["queryStringParameters"] = query
    if body := request.get_data():
        if _arrives_as_text(request.mimetype):
            event["body"] = body.decode("utf-8", errors="replace")
        else:
            event["body"] = base64.b64encode(body).decode()
            event["isBase64Encoded"] = True
    return event


def _headers(request: Request) -> dict[str, str]:
    """Returns the request's headers, with names in lower case, and the headers that a proxy adds.

    Cookies are left out, because they have their own field in the event.
    """
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers.pop("cookie", None)
    before = headers.get("x-forwarded-for")
    address = request.remote_addr or ""
    headers["x-forwarded-for"] = f"{before}, {address}" if before else address
    headers["x-forwarded-proto"] = request.scheme
    headers["x-forwarded-port"] = str(request.environ.get("SERVER_PORT", ""))
    headers.setdefault("x-amzn-trace-id", trace_id())
    return headers


def trace_id() -> str:
    """A new X-Ray trace id, in the header's format."""
    epoch = int(datetime.now(UTC).timestamp())
    return f"Root=1-{epoch:08x}-{secrets.token_hex(12)}"


def _arrives_as_text(mimetype: str) -> bool:
    """Returns whether a body of this type is text in the event. All other bodies are in base64."""
    return mimetype.startswith("text/") or mimetype in _TEXT_TYPES


def schedule_event(schedule: Schedule) -> Event:
    """The event that EventBridge sends for a schedule without its own input."""
    scheduler = schedule.source == "aws.scheduler"
    resource = (
        f"arn:aws:scheduler:{REGION}:{ACCOUNT_ID}:schedule/default/{schedule.name}"
        if scheduler
        else f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/{schedule.name}"
    )
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": schedule.source,
        "account": ACCOUNT_ID,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [resource],
        # EventBridge Scheduler sends its detail as text, a rule as an object.
        "detail": "{}" if scheduler else {},
    }
