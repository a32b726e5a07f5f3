"""What every HTTP function but the webhook shares: routing, validation, callers, problem documents.

A route says who may call it with `security=[...]`, once: the OpenAPI document shows it and
`_admit` enforces it. Callers are admitted before the body is read, so a stranger learns nothing
about what a valid body looks like.
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

# Fields that nobody knows are named in errors too, and a body has room for very many, very long.
_MOST_ERRORS = 20
_LONGEST_NAME = 50

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_COOKIE = "__Host-session"
_LOOPBACK_COOKIE = "session"  # plain http on loopback: a browser refuses the prefix and Secure


def by_service(scope: str) -> Security:
    """Callers with a service key that has this scope."""
    return [{SERVICE_KEY: [scope]}]


def resolver(*, max_body_bytes: int = 64 * 1024) -> APIGatewayHttpResolver:
    """A function's router. Every error of ours, and every other one, ends as a problem document."""
    app = APIGatewayHttpResolver(json_body_deserializer=_parse_json)

    def check_request(app: APIGatewayHttpResolver, call_next: NextMiddleware) -> Response[Any]:
        _admit(app)
        _check_body(app, max_body_bytes)
        # Powertools looks at the type too, even of no body, and knows it in lower case only.
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
    """Answers one request. The only thing a function's `handler` calls."""
    logger.remove_keys(["caller"])  # keys outlive an invocation
    logger.append_keys(request_id=_request_id(event))
    app.append_context(deadline=Deadline.of_invocation(context))
    answer = app.resolve(event, context)  # type: ignore[arg-type]  # we name what we use of it
    security_headers.add_to(answer["headers"])
    return answer


def deadline(app: APIGatewayHttpResolver) -> Deadline:
    """When this request must be answered."""
    found: Deadline = app.context["deadline"]
    return found


def user(app: APIGatewayHttpResolver) -> User:
    """The signed-in caller of a route that asks for a session."""
    caller = app.context["caller"]
    if not isinstance(caller, User):
        raise Unauthenticated
    return caller


def caller(app: APIGatewayHttpResolver) -> User | Service:
    """The caller of a route that admits sessions and service keys."""
    found: User | Service = app.context["caller"]
    return found


def json_response(body: Body, status: int = 200, **kwargs: Any) -> Response[Body]:
    """An answer with a JSON body: a model, or a dictionary of what JSON knows.

    Written out here: Powertools would validate it once more, which took a tenth of the time of a
    batch. What it is stays in the type, for the OpenAPI document.
    """
    if isinstance(body, BaseModel):
        text = body.model_dump_json()
    else:
        text = json.dumps(body, separators=(",", ":"))
    return Response(status, content_type="application/json", body=cast("Body", text), **kwargs)


def session_token(app: APIGatewayHttpResolver) -> str:
    """The session token the caller sent; raises Unauthenticated where there is none."""
    token, _ = _credentials(app)
    return token


def cookie_name() -> str:
    """What the session's cookie is called."""
    return _COOKIE if cookie_is_secure() else _LOOPBACK_COOKIE


def cookie_is_secure() -> bool:
    """False only where the whole site is plain http, which is the local stack."""
    return not wiring.settings().app_url.startswith("http://")


def answers(model: type | None, status: int, *problem_statuses: int) -> dict[int, OpenAPIResponse]:
    """What a route can answer, for the OpenAPI document. What every route can is added there."""
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
    """RFC 9110's words for a status, on every Python: before 3.13 it has older ones for these."""
    newer = {413: "Content Too Large", 422: "Unprocessable Content"}
    return newer.get(status) or HTTPStatus(status).phrase


def field_error(found: Mapping[str, Any], where: Sequence[object]) -> FieldError:
    """One of pydantic's errors, told of the field that lies there in what the caller sent."""
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
    except ValueError as error:  # bad base64, not UTF-8, lone surrogates
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
        # json's message names a place, not the text, but the exception holds the whole body.
        detail = "The body is not valid JSON."
        if isinstance(error, json.JSONDecodeError):
            detail = f"The body is not valid JSON (line {error.lineno}, column {error.colno})."
        raise InvalidRequest(detail, code="invalid_json") from None
    if not isinstance(body, dict):
        # Powertools would take the first of a list for the whole.
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _decimal(text: str) -> Decimal:
    # A huge exponent would make every later step slow; no amount of ours needs one.
    if len(text) > 400 or re.search(r"[eE][+-]?\d{4,}", text):
        raise ValueError("number out of range")
    return Decimal(text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _admit(app: APIGatewayHttpResolver) -> None:
    """Finds out who calls, where the route asks for somebody; refuses cross-site writes."""
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
        raise Forbidden("A write with a cookie needs an Origin.", code="origin_not_allowed")
    found = _authenticate(token, requirements)
    app.append_context(caller=found)
    logger.append_keys(caller=found.id if isinstance(found, User) else f"service:{found.name}")


def _is_ours(origin: str) -> bool:
    return origin_of(origin) == origin and origin in wiring.settings().allowed_origins


def _credentials(app: APIGatewayHttpResolver) -> tuple[str, bool]:
    """The token that came with the request, and whether a cookie brought it."""
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
            raise Forbidden(f"This key lacks the scope {missing}.", code="missing_scope")
        return service
    if token.startswith(accounts.TOKEN_PREFIX):
        signed_in = accounts.user_of_session(wiring.database(), token, wiring.now())
        if SESSION in accepted:
            return signed_in
        raise Forbidden(
            "This address takes a service key, not a session.", code="service_key_required"
        )
    raise Unauthenticated("These credentials are of the wrong kind for this address.")


# --- problems -------------------------------------------------------------------------------


def _problem(
    app: APIGatewayHttpResolver, error: BillingError, cause: Exception | None = None
) -> Response[Any]:
    if error.code == AccessUnconfirmed.code:
        logger.info(error.code)  # "ask again in a moment": nothing is broken, nobody is woken up
    elif error.status >= 500:
        metric.count(Metric.SERVER_ERRORS, service="api")
        raised = cause or error
        logger.error(error.code, exc_info=raised, extra=place_of(raised))
    document = problems.document(error, _request_id(app.current_event.raw_event))
    return Response(error.status, headers=problems.headers(error), body=json.dumps(document))


def _invalid_request(error: RequestValidationError) -> InvalidRequest:
    # Where begins with body, query or path.
    return InvalidRequest(
        errors=[field_error(each, each["loc"][1:]) for each in error.errors()[:_MOST_ERRORS]]
    )


def _request_id(event: Mapping[str, Any]) -> str:
    return str(event.get("requestContext", {}).get("requestId", ""))
