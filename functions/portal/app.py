"""Commet's customer portal, and what a user may do without it: cancel, keep, pay, read invoices."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing.commet import metered  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.deadline import LambdaContext
from billing.field_types import USER_ID_PATTERN
from billing.http import api, portal_answers
from billing.http.shapes.invoices import InvoiceDetail, InvoicePage
from billing.http.shapes.portal import Cancel, Canceled, OfUser, Portal, PortalReply, RecoveryReply

BY_WHOM = api.by_user_or_service("billing:manage")

# Powertools reads the rules of a query or path parameter from the parameter's own class.
UserIdInQuery = Annotated[
    str | None,
    Query(
        pattern=USER_ID_PATTERN,
        description="The user, for a service key. A session leaves it out.",
        examples=["customer-42"],
    ),
]

app = api.resolver()


@app.get(
    "/portal",
    status_code=303,
    security=api.BY_USER,
    responses=api.answers(None, 303, "The browser goes on to the portal"),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "no_billing_account",
    "too_many_requests",
)
def redirect_to_portal() -> Response[None]:
    """Redirect to the billing portal. A link in a page can point here."""
    url = portal_answers.portal_url(app, api.user(app), None)
    return Response(303, headers={"Location": url})


@app.post(
    "/portal",
    status_code=201,
    security=BY_WHOM,
    responses=api.answers(PortalReply, 201),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "forbidden",
    "no_billing_account",
    "too_many_requests",
    "unknown_user",
)
def create_portal_session(
    body: Annotated[Portal | None, Body()] = None,
) -> Response[PortalReply]:
    """Open a portal session, and get its address. It expires after 30 minutes."""
    user = api.subject(app, body.user_id if body else None)
    url = portal_answers.portal_url(app, user, body.return_url if body else None)
    return api.json_response(PortalReply(portal_url=url), 201)


@app.post(
    "/subscription/cancel",
    security=BY_WHOM,
    responses=api.answers(Canceled, 200),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "cancellation_not_possible",
    "forbidden",
    "no_billing_account",
    "too_many_requests",
    "unknown_user",
    "usage_pending",
)
def cancel_subscription(body: Annotated[Cancel | None, Body()] = None) -> Response[Canceled]:
    """Cancel at the end of the period that is paid, or now.

    A free plan, and a subscription whose payment is overdue, end at once. Asking again changes
    nothing.
    """
    asked = body or Cancel(user_id=None)
    user = api.subject(app, asked.user_id)
    return api.json_response(portal_answers.cancel(app, user, immediate=asked.immediate))


@app.post(
    "/subscription/keep",
    security=BY_WHOM,
    responses=api.answers(Canceled, 200),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "cancellation_not_possible",
    "forbidden",
    "no_billing_account",
    "too_many_requests",
    "unknown_user",
)
def keep_subscription(body: Annotated[OfUser | None, Body()] = None) -> Response[Canceled]:
    """Take back a cancellation at the end of the period, before that end. May be repeated."""
    user = api.subject(app, body.user_id if body else None)
    return api.json_response(portal_answers.keep(app, user))


@app.post(
    "/recovery",
    status_code=201,
    security=BY_WHOM,
    responses=api.answers(RecoveryReply, 201),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "forbidden",
    "no_billing_account",
    "nothing_to_recover",
    "too_many_requests",
    "unknown_user",
)
def create_recovery_link(body: Annotated[OfUser | None, Body()] = None) -> Response[RecoveryReply]:
    """Get the page on which an overdue payment of the subscription can be paid.

    Only the user may see the address: whoever has it can pay there.
    """
    user = api.subject(app, body.user_id if body else None)
    return api.json_response(portal_answers.recovery(app, user), 201)


@app.get(
    "/invoices",
    security=BY_WHOM,
    responses=api.answers(InvoicePage, 200),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "forbidden",
    "too_many_requests",
    "unknown_user",
)
def list_invoices(
    user_id: UserIdInQuery = None,
    cursor: Annotated[
        str | None,
        Query(
            max_length=500,
            description="`next_cursor` of the page before. Left out: the first page.",
            examples=["inv_b2"],
        ),
    ] = None,
) -> Response[InvoicePage]:
    """List a user's invoices, newest first."""
    user = api.subject(app, user_id)
    return api.json_response(portal_answers.invoices(app, user, cursor))


@app.get(
    "/invoices/<invoice_id>",
    security=BY_WHOM,
    responses=api.answers(InvoiceDetail, 200),
)
@api.may_answer(
    "billing_provider_error",
    "billing_provider_unavailable",
    "forbidden",
    "invoice_not_found",
    "too_many_requests",
    "unknown_user",
)
def get_invoice(
    invoice_id: Annotated[
        str,
        PathParameter(
            pattern=r"^[A-Za-z0-9_-]{1,100}$",
            description="The invoice's id, from `GET /invoices`.",
            examples=["inv_b2"],
        ),
    ],
    user_id: UserIdInQuery = None,
) -> Response[InvoiceDetail]:
    """Read one invoice, with its lines and the address of its PDF."""
    user = api.subject(app, user_id)
    return api.json_response(portal_answers.invoice(app, user, invoice_id))


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
