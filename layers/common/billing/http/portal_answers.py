"""A user's actions on a subscription: Commet's portal, cancel, keep, pay, read invoices."""

from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import amounts, metric, wiring
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.commet.answers import IssuedInvoice, IssuedLine
from billing.delivery import flushing  # noqa: F401 - wiring imports it late; here it loads in INIT
from billing.http import api, auditing, redirects
from billing.http.shapes.base import UsagePeriodReply
from billing.http.shapes.invoices import InvoiceDetail, InvoiceLineReply, InvoicePage, InvoiceReply
from billing.http.shapes.portal import Canceled, RecoveryReply, SubscriptionState
from billing.metric import Metric
from billing.subscriptions import invoices as issued
from billing.subscriptions import managing, mirror, portal  # noqa: F401 - managing loads in INIT


def portal_url(app: APIGatewayHttpResolver, user: User, return_url: str | None) -> str:
    """Returns the address of a new portal session, after which people come back to `return_url`.

    Raises InvalidRequest if the origin of `return_url` is not allowed, and the errors of
    `portal.portal_url`.
    """
    target = redirects.allowed_target(
        wiring.settings(), return_url, "return_url", own=api.own_origin(app)
    )
    with auditing.audited(app, Action.PORTAL, user.id):
        url = portal.portal_url(
            wiring.database(),
            wiring.metered_commet(),
            user,
            return_url=target,
            # The user may leave in the portal, so all usage is delivered first.
            before=lambda: wiring.flush(user.id, api.deadline(app)),
            now=wiring.now(),
            deadline=api.deadline(app),
        )
    metric.count(Metric.PORTAL_VISITS, service="portal")
    return url


def cancel(app: APIGatewayHttpResolver, user: User, *, immediate: bool) -> Canceled:
    """Cancels at the end of the paid period, or now. Raises the errors of `Management.cancel`."""
    with auditing.audited(app, Action.CANCELED, user.id, immediate=immediate) as about:
        canceled = wiring.management().cancel(user, immediate=immediate, deadline=api.deadline(app))
        about["subscription"] = canceled.id
    return _state(canceled)


def keep(app: APIGatewayHttpResolver, user: User) -> Canceled:
    """Undoes a cancellation at the end of the period. Raises the errors of `Management.keep`."""
    with auditing.audited(app, Action.KEPT, user.id) as about:
        kept = wiring.management().keep(user, deadline=api.deadline(app))
        about["subscription"] = kept.id
    return _state(kept)


def recovery(app: APIGatewayHttpResolver, user: User) -> RecoveryReply:
    """Returns the page on which the overdue payment of the subscription can be paid.

    Raises the errors of `Management.recovery_url`.
    """
    with auditing.audited(app, Action.RECOVERY, user.id):
        url = wiring.management().recovery_url(user, deadline=api.deadline(app))
    return RecoveryReply(recovery_url=url)


def invoices(app: APIGatewayHttpResolver, user: User, cursor: str | None) -> InvoicePage:
    """Returns a page of a user's invoices, newest first. Raises the errors of `invoices.page`."""
    found = issued.page(
        wiring.database(),
        wiring.metered_commet(),
        user,
        cursor=cursor,
        now=wiring.now(),
        deadline=api.deadline(app),
    )
    listed = [InvoiceReply(**_invoice(each)) for each in found.invoices]
    return InvoicePage(invoices=listed, next_cursor=found.next_cursor)


def invoice(app: APIGatewayHttpResolver, user: User, invoice_id: str) -> InvoiceDetail:
    """Returns one invoice of the user, with its lines. Raises the errors of `invoices.detail`."""
    found, pdf_url = issued.detail(
        wiring.database(),
        wiring.metered_commet(),
        user,
        invoice_id,
        now=wiring.now(),
        deadline=api.deadline(app),
    )
    lines = [_line(line, found.currency) for line in found.line_items]
    return InvoiceDetail(**_invoice(found), lines=lines, pdf_url=pdf_url)


def _state(subscription: mirror.Subscription) -> Canceled:
    ends_at = subscription.period_end if subscription.cancel_at_period_end else None
    if subscription.status == "canceled":  # it may have ended before the end of the period
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
