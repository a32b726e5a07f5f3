"""What every HTTP function except the webhook shares: routing, validation, callers, problems.

A route says who may call it with `security=[...]`. The OpenAPI document shows this, and `_admit`
enforces it. The caller is checked before the body is read, so a stranger learns nothing about the
form of a valid body.
"""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar, cast

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware
from aws_lambda_powertools.event_handler.middlewares.openapi_validation import (
    OpenAPIRequestValidationMiddleware,
)
from aws_lambda_powertools.event_handler.openapi.exceptions import RequestValidationError
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled
from pydantic import BaseModel

from billing import metric, wiring
from billing.accounts import accounts
from billing.accounts.accounts import User
from billing.config import origin_of
from billing.credentials.service_keys import PREFIX as SERVICE_KEY_PREFIX
from billing.credentials.service_keys import Service
from billing.database.connection import place_of
from billing.deadline import Deadline, LambdaContext
from billing.errors import (
    AccessUnconfirmed,
    BillingError,
    DatabaseUnavailable,
    FieldError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from billing.http import problems, security_headers
from billing.http.shapes import Problem
from billing.metric import Metric

SESSION = "session"
SERVICE_KEY = "serviceKey"

Security = list[dict[str, list[str]]]
BY_USER: Security = [{SESSION: []}]

logger = Logger()

Body = TypeVar("Body")

# Errors name unknown fields too. A body can hold very many of them, with very long names.
_MOST_ERRORS = 20
_LONGEST_NAME = 50

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_COOKIE = "__Host-session"
# Over plain http, which the local stack uses, browsers refuse `__Host-` and Secure.
_LOOPBACK_COOKIE = "session"


def by_service(scope: str) -> Security:
    """The `security` of a route for service keys with this scope."""
    return [{SERVICE_KEY: [scope]}]


def resolver(*, max_body_bytes: int = 64 * 1024) -> APIGatewayHttpResolver:
    """A function's router. Every exception, ours or not, is answered as a problem document."""
    app = APIGatewayHttpResolver(json_body_deserializer=_parse_json)

    def check_request(app: APIGatewayHttpResolver, call_next: NextMiddleware) -> Response[Any]:
        _admit(app)
        _check_body(app, max_body_bytes)
        # Powertools reads the content type again, even without a body, and only in lower case.
        app.current_event.raw_event["headers"]["content-type"] = "application/json"
        response: Response[Any] = call_next(app)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    app.use(
        middlewares=[
            check_request,
            OpenAPIRequestValidationMiddleware(),
        ]
    )

    @app.exception_handler(BillingError)
    def _ours(error: BillingError) -> Response[Any]:
        return _problem(app, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(error: RequestValidationError) -> Response[Any]:
        return _problem(app, _invalid_request(error))

    @app.exception_handler(NotFoundError)
    def _unknown_route(_: NotFoundError) -> Response[Any]:
        return _problem(app, NotFound())

    @app.exception_handler([QueryCanceled, LockNotAvailable, DeadlockDetected])
    def _held_up(error: Exception) -> Response[Any]:
        return _problem(app, DatabaseUnavailable(), cause=error)

    @app.exception_handler(Exception)
    def _unexpected(error: Exception) -> Response[Any]:
        return _problem(app, BillingError(), cause=error)

    return app


def handle(
    app: APIGatewayHttpResolver, event: dict[str, Any], context: LambdaContext
) -> dict[str, Any]:
    """Answers one request in payload format 2.0. A function's `handler` calls nothing else."""
    logger.remove_keys(["caller"])  # the logger keeps its keys from the last invocation
    logger.append_keys(request_id=_request_id(event))
    app.append_context(deadline=Deadline.of_invocation(context))
    answer = app.resolve(event, context)  # type: ignore[arg-type]  # our type has what we use
    security_headers.add_to(answer["headers"])
    return answer


def deadline(app: APIGatewayHttpResolver) -> Deadline:
    """The time by which this request must be answered."""
    found: Deadline = app.context["deadline"]
    return found


def user(app: APIGatewayHttpResolver) -> User:
    """The signed-in caller of a route for sessions. Raises Unauthenticated for a service."""
    caller = app.context["caller"]
    if not isinstance(caller, User):
        raise Unauthenticated
    return caller


def caller(app: APIGatewayHttpResolver) -> User | Service:
    """The caller of a route for sessions and service keys."""
    found: User | Service = app.context["caller"]
    return found


def json_response(body: Body, status: int = 200, **kwargs: Any) -> Response[Body]:
    """An answer whose JSON body is a model, or a dictionary of JSON's own types.

    The body is written as text here. Powertools would otherwise validate it again, which took a
    tenth of the time of a batch. The return type still names the model, for the OpenAPI document.
    """
    if isinstance(body, BaseModel):
        text = body.model_dump_json()
    else:
        text = json.dumps(body, separators=(",", ":"))
    return Response(status, content_type="application/json", body=cast("Body", text), **kwargs)


def session_token(app: APIGatewayHttpResolver) -> str:
    """The token that the caller sent. Raises Unauthenticated without one."""
    token, _ = _credentials(app)
    return token


def cookie_name() -> str:
    """The name of the session's cookie."""
    return _COOKIE if cookie_is_secure() else _LOOPBACK_COOKIE


def cookie_is_secure() -> bool:
    """Whether the cookie is sent over https only. False where the app is plain http (local)."""
    return not wiring.settings().app_url.startswith("http://")


def answers(model: type | None, status: int, *problem_statuses: int) -> dict[int, OpenAPIResponse]:
    """What a route can answer, by status, for the OpenAPI document.

    `local.openapi` adds the problems that every route can answer.
    """
    success: OpenAPIResponse = {"description": _phrase(status)}
    if model is not None:
        success["content"] = {"application/json": {"model": model}}
    found = {status: success}
    for each in problem_statuses:
        found[each] = {
            "description": _phrase(each),
            "content": {problems.CONTENT_TYPE: {"model": Problem}},
        }
    return found


def _phrase(status: int) -> str:
    """RFC 9110's phrase for a status. Python before 3.13 has older phrases for 413 and 422."""
    newer = {413: "Content Too Large", 422: "Unprocessable Content"}
    return newer.get(status) or HTTPStatus(status).phrase


def field_error(found: Mapping[str, Any], where: Sequence[object]) -> FieldError:
    """One of pydantic's errors as ours. `where` is the path to the field in the caller's body."""
    return FieldError(
        field=".".join(map(str, where))[:_LONGEST_NAME] or "body",
        code=str(found["type"]),
        message=str(found.get("msg", "")).removeprefix("Value error, "),
    )


# --- admission ------------------------------------------------------------------------------


def _check_body(app: APIGatewayHttpResolver, max_body_bytes: int) -> None:
    event = app.current_event
    if event.http_method not in _WRITES or not event.body:
        return
    try:
        body = event.decoded_body or ""
        size = len(body.encode())
    except ValueError as error:  # invalid base64, invalid UTF-8, or half of a surrogate pair
        raise InvalidRequest("The body is not UTF-8 text.", code="invalid_encoding") from error
    if size > max_body_bytes:
        raise PayloadTooLarge(f"The body is larger than {max_body_bytes} bytes.")
    content_type = event.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise UnsupportedMediaType


def _parse_json(text: str) -> Any:
    """A JSON object with exact decimals; raises InvalidRequest for anything else, NaN included."""
    try:
        body = json.loads(text, parse_float=_decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # Not chained: the exception holds the whole body, although its message does not.
        detail = "The body is not valid JSON."
        if isinstance(error, json.JSONDecodeError):
            detail = f"The body is not valid JSON (line {error.lineno}, column {error.colno})."
        raise InvalidRequest(detail, code="invalid_json") from None
    if not isinstance(body, dict):
        # Of a list, Powertools would use the first item as the body.
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _decimal(text: str) -> Decimal:
    # A huge exponent would make every later step slow, and no amount needs one.
    if len(text) > 400 or re.search(r"[eE][+-]?\d{4,}", text):
        raise ValueError("number out of range")
    return Decimal(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _admit(app: APIGatewayHttpResolver) -> None:
    """Checks the caller of a route that requires one, and refuses writes from other sites.

    Raises Unauthenticated or Forbidden.
    """
    event = app.current_event
    requirements: Security = getattr(app.context["_route"], "security", None) or []
    origin = event.headers.get("origin")
    is_write = event.http_method in _WRITES
    if is_write and origin is not None and not _is_ours(origin):
        raise Forbidden("Requests from this origin are not accepted.", code="origin_not_allowed")
    if not requirements:
        return
    token, from_cookie = _credentials(app)
    if from_cookie and is_write and origin is None:
        raise Forbidden(
            "A write with a session cookie needs an Origin header.", code="origin_not_allowed"
        )
    found = _authenticate(token, requirements)
    app.append_context(caller=found)
    logger.append_keys(caller=found.id if isinstance(found, User) else f"service:{found.name}")


def _is_ours(origin: str) -> bool:
    return origin_of(origin) == origin and origin in wiring.settings().allowed_origins


def _credentials(app: APIGatewayHttpResolver) -> tuple[str, bool]:
    """The request's token, and whether it came in the cookie. Raises Unauthenticated."""
    scheme, _, token = app.current_event.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), False
    token = app.current_event.resolved_cookies_field.get(cookie_name(), "")
    if token:
        return token, True
    raise Unauthenticated


def _authenticate(token: str, requirements: Security) -> User | Service:
    accepted = {name: set(scopes) for each in requirements for name, scopes in each.items()}
    if token.startswith(SERVICE_KEY_PREFIX) and SERVICE_KEY in accepted:
        service = wiring.service_keys().authenticate(token)
        if not accepted[SERVICE_KEY] <= service.scopes:
            missing = ", ".join(sorted(accepted[SERVICE_KEY] - service.scopes))
            raise Forbidden(f"The service key lacks the scope {missing}.", code="missing_scope")
        return service
    if token.startswith(accounts.TOKEN_PREFIX):
        signed_in = accounts.user_of_session(wiring.database(), token, wiring.now())
        if SESSION in accepted:
            return signed_in
        raise Forbidden(
            "This address accepts a service key and no session.", code="service_key_required"
        )
    raise Unauthenticated("This address does not accept credentials of this kind.")


# --- problems -------------------------------------------------------------------------------


def _problem(
    app: APIGatewayHttpResolver, error: BillingError, cause: Exception | None = None
) -> Response[Any]:
    if error.code == AccessUnconfirmed.code:
        logger.info(error.code)  # the caller tries again soon; nothing is broken, so no alarm
    elif error.status >= 500:
        metric.count(Metric.SERVER_ERRORS, service="api")
        raised = cause or error
        logger.error(error.code, exc_info=raised, extra=place_of(raised))
    document = problems.document(error, _request_id(app.current_event.raw_event))
    return Response(error.status, headers=problems.headers(error), body=json.dumps(document))


def _invalid_request(error: RequestValidationError) -> InvalidRequest:
    # The first part of `loc` is "body", "query" or "path"; the field's path follows.
    return InvalidRequest(
        errors=[field_error(each, each["loc"][1:]) for each in error.errors()[:_MOST_ERRORS]]
    )


def _request_id(event: Mapping[str, Any]) -> str:
    return str(event.get("requestContext", {}).get("requestId", ""))
