"""Commet's customer portal, and what a user may do without it: cancel, keep, pay, read invoices."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing import amounts, metric, wiring
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.commet.answers import IssuedInvoice, IssuedLine
from billing.deadline import LambdaContext
from billing.delivery import flushing  # noqa: F401 - loaded during INIT
from billing.field_types import USER_ID_PATTERN
from billing.http import api, auditing, redirects
from billing.http.shapes import (
    Cancel,
    Canceled,
    InvoiceDetail,
    InvoiceLineReply,
    InvoicePage,
    InvoiceReply,
    OfUser,
    Portal,
    PortalReply,
    RecoveryReply,
    SubscriptionState,
    UsagePeriodReply,
)
from billing.metric import Metric
from billing.subscriptions import invoices, managing, mirror  # noqa: F401 - loaded during INIT
from billing.subscriptions.portal import portal_url

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
    return Response(303, headers={"Location": _portal_url(api.user(app), None)})


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
    return api.json_response(
        PortalReply(portal_url=_portal_url(user, body.return_url if body else None)), 201
    )


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
    with auditing.audited(app, Action.CANCELED, user.id, immediate=asked.immediate) as about:
        canceled = wiring.management().cancel(
            user, immediate=asked.immediate, deadline=api.deadline(app)
        )
        about["subscription"] = canceled.id
    return api.json_response(_state(canceled))


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
    with auditing.audited(app, Action.KEPT, user.id) as about:
        kept = wiring.management().keep(user, deadline=api.deadline(app))
        about["subscription"] = kept.id
    return api.json_response(_state(kept))


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
    with auditing.audited(app, Action.RECOVERY, user.id):
        url = wiring.management().recovery_url(user, deadline=api.deadline(app))
    return api.json_response(RecoveryReply(recovery_url=url), 201)


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
    found = invoices.page(
        wiring.database(),
        wiring.metered_commet(),
        api.subject(app, user_id),
        cursor=cursor,
        now=wiring.now(),
        deadline=api.deadline(app),
    )
    listed = [InvoiceReply(**_invoice(each)) for each in found.invoices]
    return api.json_response(InvoicePage(invoices=listed, next_cursor=found.next_cursor))


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
    found, pdf_url = invoices.detail(
        wiring.database(),
        wiring.metered_commet(),
        api.subject(app, user_id),
        invoice_id,
        now=wiring.now(),
        deadline=api.deadline(app),
    )
    lines = [_line(line, found.currency) for line in found.line_items]
    return api.json_response(InvoiceDetail(**_invoice(found), lines=lines, pdf_url=pdf_url))


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _portal_url(user: User, return_url: str | None) -> str:
    target = redirects.allowed_target(wiring.settings(), return_url, "return_url")
    with auditing.audited(app, Action.PORTAL, user.id):
        url = portal_url(
            wiring.database(),
            wiring.metered_commet(),
            user,
            return_url=target,
            # In the portal the user may leave, so what was used is delivered first.
            before=lambda: wiring.flush(user.id, api.deadline(app)),
            now=wiring.now(),
            deadline=api.deadline(app),
        )
    metric.count(Metric.PORTAL_VISITS)
    return url


def _state(subscription: mirror.Subscription) -> Canceled:
    ends_at = subscription.period_end if subscription.cancel_at_period_end else None
    if subscription.status == "canceled":  # which may be before the end of the period
        ends_at = min(subscription.period_end or subscription.as_of, subscription.as_of)
    return Canceled(
        subscription=SubscriptionState(
            id=subscription.id,
            status=subscription.status,
            cancel_at_period_end=subscription.cancel_at_period_end,
            ends_at=ends_at,
        )
    )


def _invoice(found: IssuedInvoice) -> dict[str, Any]:
    def money(amount: int) -> str:
        return amounts.format_minor_units(amount, found.currency)

    period = None
    if found.period_start and found.period_end:
        period = UsagePeriodReply(start=found.period_start, end=found.period_end)
    return {
        "id": found.id,
        "number": found.invoice_number,
        "status": found.status,
        "type": found.invoice_type,
        "currency": found.currency,
        "subtotal": money(found.subtotal),
        "tax": money(found.tax_amount),
        "total": money(found.total),
        "period": period,
        "issued_at": found.issue_date,
        "due_at": found.due_date,
    }


def _line(line: IssuedLine, currency: str) -> InvoiceLineReply:
    used, included, overage = (
        None if quantity is None else amounts.format_decimal(quantity)
        for quantity in (line.used_amount, line.included_amount, line.overage_amount)
    )
    return InvoiceLineReply(
        type=line.line_type,
        description=line.description,
        feature=line.feature_name,
        used=used,
        included=included,
        overage=overage,
        amount=amounts.format_minor_units(line.amount, currency),
    )
