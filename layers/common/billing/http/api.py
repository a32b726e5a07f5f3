"""The code that every HTTP function except the webhook shares: routing, validation, callers,
problems.

The parameter `security=[...]` of a route names its callers. The OpenAPI document shows them, and
`_admit` checks them. The caller is checked before the body is read, so a stranger learns nothing
about the form of a valid body.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

import psycopg
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
from billing.accounts import accounts, identities
from billing.accounts.accounts import User
from billing.audit.trail import Actor
from billing.config import origin_of
from billing.credentials.service_keys import PREFIX as SERVICE_KEY_PREFIX
from billing.credentials.service_keys import Service
from billing.database.connection import place_of
from billing.deadline import Deadline, LambdaContext
from billing.errors import (
    BillingError,
    DatabaseUnavailable,
    FieldError,
    Forbidden,
    IdentityProviderUnavailable,
    InvalidRequest,
    NotFound,
    Unauthenticated,
    UnknownEvent,
)
from billing.http import bodies, events, problems, security_headers
from billing.metric import Metric

SESSION = "session"
IDENTITY_TOKEN = "identityToken"  # noqa: S105 - the name of a kind of credential, not a secret
SERVICE_KEY = "serviceKey"

Security = list[dict[str, list[str]]]
BY_SESSION: Security = [{SESSION: []}]
BY_USER: Security = [*BY_SESSION, {IDENTITY_TOKEN: []}]
BY_ANYBODY: Security = [{}, *BY_SESSION]  # a session is used if the request has one

logger = Logger()

Body = TypeVar("Body")
Route = TypeVar("Route", bound=Callable[..., Any])

# How old a token may be on routes on which a person with an own account has to type the password.
_RECENT = timedelta(minutes=10)

# Errors also name unknown fields. A body may have very many of them, with very long names.
_MOST_ERRORS = 20
_LONGEST_NAME = 50

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_COOKIE = "__Host-session"
# Browsers refuse `__Host-` and Secure over plain http, which the local stack uses.
_LOOPBACK_COOKIE = "session"


def by_service(scope: str) -> Security:
    """Returns the `security` of a route for service keys with this scope."""
    return [{SERVICE_KEY: [scope]}]


def by_user_or_service(scope: str) -> Security:
    """Returns the `security` of a route for people, and for service keys with this scope."""
    return [*BY_USER, *by_service(scope)]


def own_account(route: Route) -> Route:
    """Marks a route for people who sign up here. It answers 404 in a stack without own accounts."""
    route.own_account = True  # type: ignore[attr-defined]
    return route


def is_for_own_accounts(route: Callable[..., Any]) -> bool:
    """Whether the route is marked by `own_account`."""
    return bool(getattr(route, "own_account", False))


def resolver(*, max_body_bytes: int = 64 * 1024) -> APIGatewayHttpResolver:
    """Returns a function's router, which answers every exception as a problem document."""
    wiring.load_identity_tokens()
    app = APIGatewayHttpResolver(json_body_deserializer=bodies.parse)

    def check_request(app: APIGatewayHttpResolver, call_next: NextMiddleware) -> Response[Any]:
        _admit(app)
        _check_query(app)
        if takes_any_sender(app.context["_route"].func):
            app.current_event.raw_event["body"] = None
        else:
            _check_body(app, max_body_bytes)
        # Powertools reads the content type again, even if there is no body, and only in lower case.
        headers(app)["content-type"] = "application/json"
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
        return problem(app, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(error: RequestValidationError) -> Response[Any]:
        return problem(app, _invalid_request(error))

    @app.exception_handler(NotFoundError)
    def _unknown_route(_: NotFoundError) -> Response[Any]:
        return problem(app, NotFound())

    @app.exception_handler([QueryCanceled, LockNotAvailable, DeadlockDetected])
    def _held_up(error: Exception) -> Response[Any]:
        return problem(app, DatabaseUnavailable(), cause=error)

    @app.exception_handler(Exception)
    def _unexpected(error: Exception) -> Response[Any]:
        return problem(app, BillingError(), cause=error)

    return app


def handle(
    app: APIGatewayHttpResolver, event: dict[str, Any], context: LambdaContext
) -> dict[str, Any]:
    """Answers one request in payload format 2.0. A function's `handler` only calls this."""
    logger.remove_keys(["caller"])  # the logger keeps its keys from the previous invocation
    logger.append_keys(request_id=events.request_id(event))
    try:
        event = events.request_of(event)
    except UnknownEvent as error:
        logger.warning("event.unknown")
        refused = problems.response(error, events.request_id(event))
        security_headers.add_to(refused["headers"])
        return refused
    app.append_context(deadline=Deadline.of_invocation(context))
    answer = app.resolve(event, context)  # type: ignore[arg-type]  # our type has what we use
    security_headers.add_to(answer["headers"])
    return answer


def headers(app: APIGatewayHttpResolver) -> dict[str, str]:
    """Returns the request's headers, by their names in lower case.

    Powertools makes a copy of the headers each time that its event is asked for them.
    """
    found: dict[str, str] = app.current_event.raw_event["headers"]
    return found


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


def user_if_known(app: APIGatewayHttpResolver) -> User | None:
    """Returns the signed-in caller of a route of BY_ANYBODY; None if nobody is signed in."""
    found = app.context.get("caller")
    return found if isinstance(found, User) else None


def user_if_signed_in(app: APIGatewayHttpResolver) -> User | None:
    """Returns the signed-in caller of a public route; None if nobody is known to be signed in."""
    try:
        token, from_cookie = _credentials(app)
        return _signed_in(app, token, from_cookie=from_cookie)
    except (Unauthenticated, IdentityProviderUnavailable):
        return None


def caller(app: APIGatewayHttpResolver) -> User | Service:
    """The caller of a route for sessions and service keys."""
    found: User | Service = app.context["caller"]
    return found


def actor(app: APIGatewayHttpResolver) -> Actor:
    """Returns who sends this request, for the audit trail. On a public route, the id is None."""
    found = app.context.get("caller")
    request_id = events.request_id(app.current_event.raw_event)
    if isinstance(found, Service):
        return Actor("service", found.name, request_id)
    return Actor("user", found.id if isinstance(found, User) else None, request_id)


def subject(app: APIGatewayHttpResolver, user_id: str | None) -> User:
    """Returns the user that a request is about, on a route of `by_user_or_service`.

    With a session, this is the session's own user, and `user_id` may be left out. With a service
    key, `user_id` names the user. Raises Forbidden if a session names another user, InvalidRequest
    for a service without `user_id`, and NotFound for an unknown user.
    """
    found = caller(app)
    if isinstance(found, User):
        if user_id not in (None, found.id):
            raise Forbidden("A session acts for its own user only.")
        return found
    if user_id is None:
        raise InvalidRequest(
            errors=[FieldError("user_id", "missing", "A service key names the user.")]
        )
    return accounts.user_by_id(wiring.database(), user_id)


def json_response(body: Body, status: int = 200, **kwargs: Any) -> Response[Body]:
    """Returns an answer whose JSON body is a model, or a dictionary of JSON's own types.

    This function writes the body as text. Powertools would validate the body again, which took a
    tenth of the time of a batch. The return type still names the model, for the OpenAPI document.
    """
    if isinstance(body, BaseModel):
        text = body.model_dump_json()
    else:
        text = json.dumps(body, separators=(",", ":"))
    return Response(status, content_type="application/json", body=cast("Body", text), **kwargs)


def require_own_account(app: APIGatewayHttpResolver) -> None:
    """Raises Forbidden `own_account_required` for a caller whom an identity provider signed in.

    Such a caller has no session and no password here. Routes of `BY_SESSION` check this themselves.
    """
    if "identity" in app.context:
        raise Forbidden(
            "The identity provider signs this user in. There is no session or password here.",
            code="own_account_required",
        )


def recently_authenticated(app: APIGatewayHttpResolver) -> bool:
    """Returns whether a token shows that the caller signed in within the last ten minutes.

    Returns False for a caller with a session, who has to type the password instead. Raises
    Forbidden `recent_sign_in_required` if an identity provider signed the caller in longer ago.
    """
    identity = app.context.get("identity")
    if identity is None:
        return False
    # Wall time, because the token's times are wall time too.
    if datetime.now(UTC) - identity.authenticated_at > _RECENT:
        raise Forbidden(
            "Sign in at the identity provider again, and send the new token within ten minutes.",
            code="recent_sign_in_required",
        )
    return True


def session_token(app: APIGatewayHttpResolver) -> str:
    """Returns the session's token that the caller sent.

    Raises Unauthenticated if there is none, and Forbidden for the token of an identity provider.
    """
    require_own_account(app)
    token, _ = _credentials(app)
    return token


def session_token_if_sent(app: APIGatewayHttpResolver) -> str | None:
    """Returns the token in the request, which may belong to no session; None if there is none."""
    try:
        token, _ = _credentials(app)
    except Unauthenticated:
        return None
    return token if token.startswith(accounts.TOKEN_PREFIX) else None


def cookie_name() -> str:
    """The name of the session's cookie."""
    return _COOKIE if cookie_is_secure() else _LOOPBACK_COOKIE


def cookie_is_secure() -> bool:
    """Returns whether the cookie is for https only. False if the app uses plain http (local
    stack).
    """
    return not wiring.settings().app_url.startswith("http://")


def own_origin(app: APIGatewayHttpResolver) -> str:
    """Returns the address at which this request reached API Gateway; "" if that is not known."""
    context = app.current_event.raw_event.get("requestContext") or {}
    return origin_of(f"https://{context.get('domainName') or ''}")


def is_ours(origin: str) -> bool:
    """Returns whether pages of this origin (an `Origin` header) may send writes with the cookie."""
    return origin_of(origin) == origin and origin in wiring.settings().allowed_origins


def answers(model: type | None, status: int, when: str | None = None) -> dict[int, OpenAPIResponse]:
    """Returns the answer of a route with this status, for the OpenAPI document. `when` describes
    it.

    Problems are named with `may_answer`.
    """
    success: OpenAPIResponse = {"description": when or HTTPStatus(status).phrase}
    if model is not None:
        success["content"] = {"application/json": {"model": model}}
    return {status: success}


def may_answer(*codes: str) -> Callable[[Route], Route]:
    """Names the problems of a route, by code, for the OpenAPI document.

    `local.openapi` adds the problems that follow from the route's callers, body and parameters. A
    handler test that gets another code fails (tests/integration/functions).
    """

    def mark(route: Route) -> Route:
        route.problem_codes = codes  # type: ignore[attr-defined]
        return route

    return mark


def problem_codes(route: Callable[..., Any]) -> tuple[str, ...]:
    """The codes that the route was marked with by `may_answer`."""
    return getattr(route, "problem_codes", ())


def greets(route: Route) -> Route:
    """Marks a public route that reads who is signed in (`user_if_signed_in`)."""
    route.greets = True  # type: ignore[attr-defined]
    return route


def is_greeting(route: Callable[..., Any]) -> bool:
    """Whether the route is marked by `greets`."""
    return bool(getattr(route, "greets", False))


def any_sender(route: Route) -> Route:
    """Marks a route to which pages of every origin may send writes. Its body is not read.

    Only for a route whose address proves what the caller may do, such as one for mail programs.
    """
    route.any_sender = True  # type: ignore[attr-defined]
    return route


def takes_any_sender(route: Callable[..., Any]) -> bool:
    """Whether the route is marked by `any_sender`."""
    return bool(getattr(route, "any_sender", False))


def page(route: Route) -> Route:
    """Marks a route that only reads files, and needs neither the database nor secrets."""
    route.page = True  # type: ignore[attr-defined]
    return route


def is_page(route: Callable[..., Any]) -> bool:
    """Whether the route is marked by `page`."""
    return bool(getattr(route, "page", False))


def field_error(found: Mapping[str, Any], where: Sequence[object]) -> FieldError:
    """Converts one of pydantic's errors. `where` is the path to the field in the caller's body."""
    return FieldError(
        field=".".join(map(str, where))[:_LONGEST_NAME] or "body",
        code=str(found["type"]),
        message=str(found.get("msg", "")).removeprefix("Value error, "),
    )


# --- admission ------------------------------------------------------------------------------


def _check_query(app: APIGatewayHttpResolver) -> None:
    """Refuses unknown and repeated parameters, on a route that takes parameters.

    Otherwise a misspelt filter would be ignored, and nothing would be filtered.
    """
    known = {each.alias for each in app.context["_route"].dependant.query_params}
    if not known:
        return
    query = str(app.current_event.raw_event.get("rawQueryString") or "")
    counted = Counter(name for name, _ in parse_qsl(query, keep_blank_values=True))
    wrong = [
        FieldError(name[:_LONGEST_NAME], "extra_forbidden", "There is no such parameter")
        if name not in known
        else FieldError(name, "given_twice", "Send this parameter once")
        for name, times in counted.items()
        if name not in known or times > 1
    ]
    if wrong:
        raise InvalidRequest(errors=wrong[:_MOST_ERRORS])


def _check_body(app: APIGatewayHttpResolver, max_body_bytes: int) -> None:
    event = app.current_event
    if event.http_method in _WRITES and event.body:
        bodies.check(event, max_body_bytes)


def _admit(app: APIGatewayHttpResolver) -> None:
    """Checks the caller of a route that requires one, and refuses writes from other sites.

    Raises Unauthenticated or Forbidden.
    """
    event = app.current_event
    route = app.context["_route"]
    requirements: Security = getattr(route, "security", None) or []
    if is_for_own_accounts(route.func) and not wiring.settings().own_accounts:
        raise NotFound
    origin = headers(app).get("origin")
    is_write = event.http_method in _WRITES and not takes_any_sender(route.func)
    if is_write and origin is not None and not is_ours(origin):
        raise Forbidden("Requests from this origin are not accepted.", code="origin_not_allowed")
    if not requirements:
        return
    try:
        token, from_cookie = _credentials(app)
        if from_cookie and is_write and origin is None:
            raise Forbidden(
                "A write with a session cookie needs an Origin header.", code="origin_not_allowed"
            )
        found = _authenticate(app, token, requirements, from_cookie=from_cookie)
    except Unauthenticated:
        if {} not in requirements:
            raise
        return
    app.append_context(caller=found)
    if isinstance(found, Service):
        _note_use(app, found, requirements)
    logger.append_keys(caller=found.id if isinstance(found, User) else f"service:{found.name}")


def _credentials(app: APIGatewayHttpResolver) -> tuple[str, bool]:
    """Returns the request's token, and whether it was in the cookie. Raises Unauthenticated."""
    scheme, _, token = headers(app).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), False
    token = app.current_event.resolved_cookies_field.get(cookie_name(), "")
    if token:
        return token, True
    raise Unauthenticated


def _authenticate(
    app: APIGatewayHttpResolver, token: str, requirements: Security, *, from_cookie: bool
) -> User | Service:
    accepted = {name: set(scopes) for each in requirements for name, scopes in each.items()}
    if token.startswith(SERVICE_KEY_PREFIX) and SERVICE_KEY in accepted:
        service = wiring.service_keys().authenticate(token)
        if not accepted[SERVICE_KEY] <= service.scopes:
            missing = ", ".join(sorted(accepted[SERVICE_KEY] - service.scopes))
            raise Forbidden(f"The service key lacks the scope {missing}.", code="missing_scope")
        return service
    is_session = token.startswith(accounts.TOKEN_PREFIX)
    if is_session or _is_identity_token(token, from_cookie=from_cookie):
        signed_in = _signed_in(app, token, from_cookie=from_cookie)
        if (SESSION if is_session else IDENTITY_TOKEN) in accepted:
            return signed_in
        if SESSION in accepted:
            require_own_account(app)
        raise Forbidden(
            "This address accepts a service key and no session.", code="service_key_required"
        )
    raise Unauthenticated("This address does not accept credentials of this kind.")


def _note_use(app: APIGatewayHttpResolver, service: Service, requirements: Security) -> None:
    """Records the key's first use today. If that fails, the request continues."""
    scope = next(scopes[0] for each in requirements for scopes in each.values() if scopes)
    request_id = events.request_id(app.current_event.raw_event)
    try:
        wiring.key_uses().note(service.name, scope, request_id, wiring.now())
    except psycopg.Error as error:
        logger.exception("audit.not_written", exc_info=error, extra=place_of(error))


def _signed_in(app: APIGatewayHttpResolver, token: str, *, from_cookie: bool) -> User:
    """Returns the user of a session's or an identity provider's token. Raises Unauthenticated."""
    if not _is_identity_token(token, from_cookie=from_cookie):
        if not wiring.settings().own_accounts:
            raise Unauthenticated("This address does not accept credentials of this kind.")
        return accounts.user_of_session(wiring.database(), token, wiring.now())
    identity = wiring.identity_tokens().verify(token, deadline(app))
    app.append_context(identity=identity)
    by = Actor("user", request_id=events.request_id(app.current_event.raw_event))
    return identities.user_of(wiring.database(), identity, wiring.now(), by=by)


def _is_identity_token(token: str, *, from_cookie: bool) -> bool:
    """Returns whether the text has the form of a JWT. In the cookie, only sessions are accepted."""
    has_provider = bool(wiring.settings().oidc_issuer)
    return has_provider and not from_cookie and token.count(".") == 2


# --- problems -------------------------------------------------------------------------------


def problem(
    app: APIGatewayHttpResolver, error: BillingError, cause: Exception | None = None
) -> Response[Any]:
    """Returns the problem document of an error. `cause` is the exception that the log shows."""
    if error.is_expected:
        logger.info(error.code)
    elif error.status >= 500:
        metric.count(Metric.SERVER_ERRORS, service="api")
        metric.count_for_watched_build(Metric.NEW_BUILD_ERRORS)
        raised = cause or error
        logger.error(error.code, exc_info=raised, extra=place_of(raised))
    document = problems.document(error, events.request_id(app.current_event.raw_event))
    return Response(error.status, headers=problems.headers(error), body=json.dumps(document))


def _invalid_request(error: RequestValidationError) -> InvalidRequest:
    # The first part of `loc` is "body", "query" or "path". The rest is the path of the field.
    return InvalidRequest(
        errors=[field_error(each, each["loc"][1:]) for each in error.errors()[:_MOST_ERRORS]]
    )
