"""The dashboard, users that a backend registers, health, the API's reference, unknown routes."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing import wiring
from billing.accounts import accounts, erasing, identities, people  # noqa: F401 - INIT
from billing.accounts.accounts import User
from billing.audit import trail
from billing.database import health
from billing.deadline import LambdaContext
from billing.errors import NotFound
from billing.field_types import (
    FEATURE_PATTERN,
    GROUP_BY_PATTERN,
    TEXT_PATTERN,
    USER_ID_PATTERN,
    Day,
    OccurredAt,
)
from billing.http import (
    api,
    api_reference,
    dashboard_answers,
    export_answers,
    own_limits,
    projection_answers,
    threshold_answers,
    usage_export,
    usage_sums,
)
from billing.http.shapes.accounts import (
    AuditEntry,
    AuditPage,
    ErasureReply,
    Export,
    PatchUser,
    PutUser,
    UserPut,
)
from billing.http.shapes.dashboard import Dashboard
from billing.http.shapes.health import Health
from billing.http.shapes.ledger import LedgerPage, UsageSums
from billing.http.shapes.limits import (
    ChangeThreshold,
    CreateThreshold,
    SpendLimit,
    SpendLimitReply,
    ThresholdList,
    ThresholdReply,
)
from billing.http.shapes.projections import Projection
from billing.http.shapes.signing_in import UserReply
from billing.usage import ledger

# Powertools reads the rules of a path parameter from `Path`, so this cannot be the type UserId.
UserIdInPath = Annotated[
    str,
    PathParameter(
        pattern=USER_ID_PATTERN,
        description="The user: your own id of a registered user, or one of ours.",
        examples=["customer-42"],
    ),
]
ThresholdId = Annotated[
    str,
    PathParameter(
        pattern=r"^thr_[0-9a-f]{32}$",
        description="The threshold's id.",
        examples=["thr_6d1e80f2c41d09ab37e65f1c0d2b4a7c"],
    ),
]
MAX_CURSOR = 2000
MAX_PAGE = 1000
Cursor = Annotated[
    str | None,
    Query(
        max_length=MAX_CURSOR,
        description="`next_cursor` of the page before. Left out: the first page.",
        examples=["eyJhZnRlciI6IDQyfQ"],
    ),
]
PageSize = Annotated[
    int | None,
    Query(
        ge=1,
        le=MAX_PAGE,
        description="The most entries on the page. Left out: 100.",
        examples=[100],
    ),
]
Form = Annotated[
    Literal["json", "csv"] | None,
    Query(
        alias="format",
        description="The form of the answer. Left out: as the header `Accept` says.",
        examples=["json"],
    ),
]
Feature = Annotated[
    str | None,
    Query(pattern=FEATURE_PATTERN, description="Only usage of this feature.", examples=["storage"]),
]
GroupBy = Annotated[
    str | None,
    Query(
        pattern=GROUP_BY_PATTERN,
        description="One sum for each `day`, for each value of a property (`property.region`), or"
        " for both (`day,property.region`). Left out: `day`.",
        examples=["day,property.region"],
    ),
]
FirstDay = Annotated[
    Day | None,
    Query(alias="from", description="The first day (UTC).", examples=["2026-03-01"]),
]
EndDay = Annotated[
    Day | None,
    Query(
        alias="to",
        description="The day (UTC) after the last one.",
        examples=["2026-04-01"],
    ),
]

_REFERENCE = Path(__file__).with_name("reference")
_TEXT: Any = {"schema": {"type": "string", "examples": ["<!doctype html>"]}}
_PAGE: Any = {200: {"description": "A page", "content": {"text/html": _TEXT}}}
_FILE: Any = {"schema": {"type": "string", "examples": ["/* text */"]}}
_ASSET: Any = {
    200: {
        "description": "A page, a script or a style sheet",
        "content": {"text/html": _TEXT, "text/css": _FILE, "text/javascript": _FILE},
    }
}
_DOCUMENT: Any = {
    200: {
        "description": "An OpenAPI 3.1 document",
        "content": {
            "application/json": {"schema": {"type": "object", "examples": [{"openapi": "3.1.0"}]}}
        },
    }
}

app = api.resolver()


@app.get("/dashboard", security=api.BY_USER, responses=api.answers(Dashboard, 200))
def get_dashboard() -> Response[Dashboard]:
    """Read your subscription, your usage, and what the usage costs so far."""
    return api.json_response(dashboard_answers.dashboard(app, api.user(app)))


@app.get(
    "/users/<user_id>/dashboard",
    security=api.by_service("read"),
    responses=api.answers(Dashboard, 200),
)
@api.may_answer("unknown_user")
def get_user_dashboard(user_id: UserIdInPath) -> Response[Dashboard]:
    """Read the dashboard of one user, for a product's backend."""
    user = accounts.user_by_id(wiring.database(), user_id)
    return api.json_response(dashboard_answers.dashboard(app, user))


@app.get("/projection", security=api.BY_USER, responses=api.answers(Projection, 200))
@api.may_answer("billing_provider_error", "billing_provider_unavailable")
def get_projection() -> Response[Projection]:
    """Read what your running period is likely to end with: usage, cost, and the next invoice.

    An estimate. The pace is that of the last seven complete days (UTC), and it goes on to change
    as it did since the seven days before. The range is a fifth below and above. Until the period
    has seven complete days, there is none.
    """
    return api.json_response(projection_answers.answer(app, api.user(app)))


@app.get(
    "/users/<user_id>/projection",
    security=api.by_service("read"),
    responses=api.answers(Projection, 200),
)
@api.may_answer("billing_provider_error", "billing_provider_unavailable", "unknown_user")
def get_user_projection(user_id: UserIdInPath) -> Response[Projection]:
    """Read what a user's running period is likely to end with, as of `GET /projection`."""
    user = accounts.user_by_id(wiring.database(), user_id)
    return api.json_response(projection_answers.answer(app, user))


@app.put(
    "/users/<user_id>",
    security=api.by_service("users:manage"),
    responses=api.answers(UserPut, 200, "The user was registered before, and is updated")
    | api.answers(UserPut, 201, "The user is new"),
)
@api.may_answer("being_erased")
def put_user(user_id: UserIdInPath, body: Annotated[PutUser, Body()]) -> Response[UserPut]:
    """Register or update a user of your product, who has no password here.

    A user who signed up here keeps their own email and name, and the answer contains these.
    """
    user, created = accounts.put_user(
        wiring.database(),
        user_id=user_id,
        email=body.email,
        name=body.name,
        now=wiring.now(),
        deadline=api.deadline(app),
        by=api.actor(app),
        person=wiring.people().of_product_id(user_id),
    )
    return api.json_response(UserPut(user=_user(user)), 201 if created else 200)


@app.delete(
    "/users/<user_id>",
    status_code=202,
    security=api.by_service("users:manage"),
    responses=api.answers(ErasureReply, 202),
)
@api.may_answer("unknown_user")
def erase_user(user_id: UserIdInPath) -> Response[ErasureReply]:
    """Erase a user. Never refused, and may be repeated.

    Sessions, name and address go at once. A running subscription is canceled after its usage was
    reported; what the provider still bills is kept without personal data until it is closed.
    """
    erasing.erase(wiring.database(), user_id, by=api.actor(app))
    return api.json_response(ErasureReply(user_id=user_id), 202)


@app.patch(
    "/users/<user_id>",
    security=api.by_service("users:manage"),
    responses=api.answers(UserPut, 200),
)
@api.may_answer("unknown_user", "own_account")
def update_user(user_id: UserIdInPath, body: Annotated[PatchUser, Body()]) -> Response[UserPut]:
    """Change the address or the name of a user of your product.

    A user who signed up here changes them alone (409 `own_account`).
    """
    user = accounts.patch_user(
        wiring.database(),
        user_id,
        email=body.email,
        name=body.name,
        clear_name="name" in body.model_fields_set and body.name is None,
        by=api.actor(app),
    )
    return api.json_response(UserPut(user=_user(user)))


@app.get(
    "/users/<user_id>",
    security=api.by_service("read"),
    responses=api.answers(UserPut, 200),
)
@api.may_answer("unknown_user")
def get_user(user_id: UserIdInPath) -> Response[UserPut]:
    """Read a user's address and name."""
    return api.json_response(UserPut(user=_user(accounts.user_by_id(wiring.database(), user_id))))


@app.get("/account/export", security=api.BY_USER, responses=api.answers(Export, 200))
@api.may_answer("too_many_requests")
def export_account(
    cursor: Cursor = None,
) -> Response[Export]:
    """Export everything recorded about you, page by page."""
    return api.json_response(export_answers.part(app, api.user(app).id, cursor))


@app.get(
    "/users/<user_id>/export",
    security=api.by_service("users:manage"),
    responses=api.answers(Export, 200),
)
@api.may_answer("unknown_user", "too_many_requests")
def export_user(
    user_id: UserIdInPath,
    cursor: Cursor = None,
) -> Response[Export]:
    """Export everything recorded about a user, page by page."""
    user = accounts.user_by_id(wiring.database(), user_id)
    return api.json_response(export_answers.part(app, user.id, cursor))


@app.get("/account/audit", security=api.BY_USER, responses=api.answers(AuditPage, 200))
def list_account_audit(
    cursor: Cursor = None,
    limit: PageSize = None,
) -> Response[AuditPage]:
    """List what was done to your account, and by whom, newest first."""
    return _audit(api.user(app).id, cursor, limit)


@app.get(
    "/users/<user_id>/audit",
    security=api.by_service("read"),
    responses=api.answers(AuditPage, 200),
)
@api.may_answer("unknown_user")
def list_user_audit(
    user_id: UserIdInPath,
    cursor: Cursor = None,
    limit: PageSize = None,
) -> Response[AuditPage]:
    """List what was done to a user's account, and by whom, newest first."""
    return _audit(accounts.user_by_id(wiring.database(), user_id).id, cursor, limit)


@app.get(
    "/account/usage",
    security=api.BY_USER,
    responses=usage_export.or_csv(api.answers(UsageSums, 200), usage_export.COLUMNS_OF_SUMS),
)
@api.may_answer("too_many_requests")
def list_account_usage(
    *,
    group_by: GroupBy = None,
    feature: Feature = None,
    since: FirstDay = None,
    until: EndDay = None,
    cursor: Cursor = None,
    limit: PageSize = None,
    form: Form = None,
) -> Response[UsageSums | str]:
    """List what you used, by day, by the values of a property, or by both.

    Each sum is of one period, oldest first. The sums of the running period add up to the
    dashboard's `used` less its `carried`. Follow `next_cursor`, or the `Link` header, until there
    is none. `format=csv` or `Accept: text/csv` gives a spreadsheet.
    """
    asked = usage_sums.Asked(group_by, feature, since, until, cursor, limit, form)
    return usage_sums.answer(app, api.user(app).id, asked)


@app.get(
    "/users/<user_id>/usage",
    security=api.by_service("read"),
    responses=usage_export.or_csv(api.answers(UsageSums, 200), usage_export.COLUMNS_OF_SUMS),
)
@api.may_answer("too_many_requests", "unknown_user")
def list_user_usage(
    *,
    user_id: UserIdInPath,
    group_by: GroupBy = None,
    feature: Feature = None,
    since: FirstDay = None,
    until: EndDay = None,
    cursor: Cursor = None,
    limit: PageSize = None,
    form: Form = None,
) -> Response[UsageSums | str]:
    """List what a user used, by day, by the values of a property, or by both.

    Pages and CSV are as of `GET /account/usage`.
    """
    asked = usage_sums.Asked(group_by, feature, since, until, cursor, limit, form)
    user = accounts.user_by_id(wiring.database(), user_id)
    return usage_sums.answer(app, user.id, asked)


@app.get(
    "/account/usage/events",
    security=api.BY_USER,
    responses=usage_export.or_csv(api.answers(LedgerPage, 200), usage_export.COLUMNS),
)
def list_account_usage_events(
    *,
    feature: Feature = None,
    since: Annotated[
        OccurredAt | None,
        Query(
            alias="from",
            description="Only entries booked at this time or later.",
            examples=["2026-03-01T00:00:00Z"],
        ),
    ] = None,
    until: Annotated[
        OccurredAt | None,
        Query(
            alias="to",
            description="Only entries booked before this time.",
            examples=["2026-04-01T00:00:00Z"],
        ),
    ] = None,
    cursor: Cursor = None,
    limit: PageSize = None,
    form: Form = None,
) -> Response[LedgerPage | str]:
    """List your single entries of the ledger, in the order of booking.

    Pages and CSV are as of `GET /usage/events`.
    """
    query = ledger.Query(user_id=api.user(app).id, feature=feature, since=since, until=until)
    now = wiring.now()
    page = ledger.page(wiring.database(), query, cursor=cursor, limit=limit or 100, now=now)
    return usage_export.ledger_answer(app, page, form=form)


@app.get("/users", security=api.by_service("read"), responses=api.answers(UserPut, 200))
@api.may_answer("unknown_user")
def find_user(
    iss: Annotated[
        str,
        Query(
            min_length=1,
            max_length=2000,
            pattern=TEXT_PATTERN,
            description="The issuer: the claim `iss` of the user's tokens.",
            examples=["https://id.example.com/"],
        ),
    ],
    sub: Annotated[
        str,
        Query(
            min_length=1,
            max_length=255,
            pattern=TEXT_PATTERN,
            description="The subject: the claim `sub` of the user's tokens.",
            examples=["auth0|5f7c8ec7c33c6c004bbafe82"],
        ),
    ],
) -> Response[UserPut]:
    """Find the user of a subject of your identity provider.

    A user is made when the first token of theirs comes.
    """
    return api.json_response(UserPut(user=_user(identities.find(wiring.database(), iss, sub))))


@app.put("/spend-limit", security=api.BY_USER, responses=api.answers(SpendLimitReply, 200))
@api.may_answer("too_many_requests", "unknown_user")
def set_spend_limit(body: Annotated[SpendLimit, Body()]) -> Response[SpendLimitReply]:
    """Limit what your usage beyond the included quantities may cost in a period.

    It may be as high as the limit that applies without it. Null removes it.
    """
    user = api.user(app)
    own_limits.count_change(user.id)
    return api.json_response(dashboard_answers.set_limit(app, user.id, body.amount, by="user"))


@app.put(
    "/users/<user_id>/spend-limit",
    security=api.by_service("billing:manage"),
    responses=api.answers(SpendLimitReply, 200),
)
@api.may_answer("unknown_user")
def set_user_spend_limit(
    user_id: UserIdInPath, body: Annotated[SpendLimit, Body()]
) -> Response[SpendLimitReply]:
    """Limit what a user's overage may cost in a period, above or below the default.

    Null brings the default back.
    """
    limited = dashboard_answers.set_limit(app, user_id, body.amount, by="product")
    return api.json_response(limited)


@app.post(
    "/thresholds",
    status_code=201,
    security=api.BY_USER,
    responses=api.answers(ThresholdReply, 201, "Added")
    | api.answers(ThresholdReply, 200, "There is an equal one already"),
)
@api.may_answer("too_many_requests", "too_many_thresholds", "unknown_user")
def create_threshold(body: Annotated[CreateThreshold, Body()]) -> Response[ThresholdReply]:
    """Have an event say that you used or spent so much, beside what is told anyway."""
    user = api.user(app)
    own_limits.count_change(user.id)
    return threshold_answers.add(user.id, body, by="user")


@app.get("/thresholds", security=api.BY_USER, responses=api.answers(ThresholdList, 200))
def list_thresholds() -> Response[ThresholdList]:
    """List the thresholds that apply to you: your own, and what is set for you or by default."""
    return api.json_response(threshold_answers.applying_to(api.user(app).id))


@app.get(
    "/thresholds/<threshold_id>",
    security=api.BY_USER,
    responses=api.answers(ThresholdReply, 200),
)
@api.may_answer("threshold_not_found")
def get_threshold(threshold_id: ThresholdId) -> Response[ThresholdReply]:
    """Read one threshold: your own, or one that is set for you or for all users."""
    return api.json_response(threshold_answers.one(threshold_id, user_id=api.user(app).id))


@app.patch(
    "/thresholds/<threshold_id>",
    security=api.BY_USER,
    responses=api.answers(ThresholdReply, 200),
)
@api.may_answer("threshold_exists", "threshold_not_found", "too_many_requests")
def change_threshold(
    threshold_id: ThresholdId, body: Annotated[ChangeThreshold, Body()]
) -> Response[ThresholdReply]:
    """Change the percentage or amount of a threshold of your own.

    What is reached already is told at once.
    """
    user = api.user(app)
    own_limits.count_change(user.id)
    return api.json_response(threshold_answers.change(threshold_id, body, user_id=user.id))


@app.delete(
    "/thresholds/<threshold_id>",
    status_code=204,
    security=api.BY_USER,
    responses=api.answers(None, 204),
)
@api.may_answer("threshold_not_found", "too_many_requests")
def delete_threshold(threshold_id: ThresholdId) -> Response[None]:
    """Remove a threshold of your own."""
    user = api.user(app)
    own_limits.count_change(user.id)
    threshold_answers.remove(threshold_id, user_id=user.id)
    return Response(204)


@app.get("/health", responses=api.answers(Health, 200))
def get_health() -> Response[Health]:
    """Say whether the stack works.

    200 while the database answers, takes writes and has its tables, else 503.
    """
    health.check(wiring.database())
    return api.json_response(Health(status="ok"))


@app.get("/openapi.json", responses=_DOCUMENT, compress=True)
@api.page
@api.may_answer("not_found")
def get_openapi_document() -> Response[str]:
    """Get the OpenAPI document of this stack.

    It has the routes that this stack has. 404 where the stack does not describe itself
    (`ApiReference`).
    """
    settings = wiring.settings()
    if not settings.api_reference:
        raise NotFound
    text = api_reference.served_document(
        _REFERENCE, own_accounts=settings.own_accounts, issuer=settings.oidc_issuer
    )
    headers = {"Cache-Control": "public, max-age=60", "Vary": "Accept-Encoding"}
    return Response(200, content_type="application/json", body=text, headers=headers)


@app.get("/docs", responses=_PAGE)
@api.page
@api.may_answer("not_found")
def get_reference_page() -> Response[bytes]:
    """Show the reference page of this API.

    Its scripts and styles come from this stack. 404 where the stack does not describe itself
    (`ApiReference`).
    """
    return _asset("index.html")


@app.get("/docs/<asset>", responses=_ASSET)
@api.page
def get_reference_file(
    asset: Annotated[
        str,
        PathParameter(
            pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$",
            description="`problems` is the page to which the `type` of problems links; the others"
            " are scripts and styles.",
            examples=["problems"],
        ),
    ],
) -> Response[bytes]:
    """Show the page about problems, or send a file that the reference page needs."""
    return _asset("problems.html" if asset == "problems" else asset)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _asset(name: str) -> Response[bytes]:
    """Returns a file, compressed if the client accepts that, because the largest has two
    megabytes.
    """
    if not wiring.settings().api_reference:
        raise NotFound
    text, kind, headers = api_reference.asset(_REFERENCE, name)
    body = text.encode()
    if "gzip" in api.headers(app).get("accept-encoding", ""):
        body, headers = api_reference.compressed(text), headers | {"Content-Encoding": "gzip"}
    return Response(200, content_type=kind, body=body, headers=headers)


def _audit(user_id: str, cursor: str | None, limit: int | None) -> Response[AuditPage]:
    found = trail.page(wiring.database(), user_id, cursor=cursor, limit=limit or 100)
    entries = [AuditEntry(**asdict(each)) for each in found.entries]
    return api.json_response(AuditPage(entries=entries, next_cursor=found.next_cursor))


def _user(user: User) -> UserReply:
    return UserReply(id=user.id, email=user.email, name=user.name)
