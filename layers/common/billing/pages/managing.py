"""The page about billing: the plan, its end, payments that failed, invoices, Commet's portal."""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.errors import BillingError, DebtOpen
from billing.http import dashboard_answers, portal_answers, projection
from billing.http.shapes.invoices import InvoicePage
from billing.pages import outlook, site
from billing.pages.banners import Banner
from billing.pages.site import app, word
from billing.subscriptions import managing, mirror

BILLING = "/app/billing"
_CANCEL = "/app/billing/cancel"


@app.get(BILLING)
@site.members
def show_billing() -> Response[Any]:
    """Shows the plan, its future, and the invoices."""
    return _billing_page()


def _billing_page(error: BillingError | None = None) -> Response[Any]:
    dashboard = dashboard_answers.dashboard(app, site.user())
    now = wiring.now()
    found = outlook.of(dashboard, now)
    invoices, unreadable = _invoices()
    return site.page(
        "billing.html",
        status=error.status if error else 200,
        title=word("billing.title"),
        hosted=True,
        now=now,
        dashboard=dashboard,
        banner=None if error or _is_without_plan(found.banner) else found.banner,
        badges=found.badges,
        price=found.outlook.price,
        cost=found.outlook.cost,
        invoiced_at=found.outlook.invoiced_at,
        next_invoice=found.outlook.next_invoice,
        invoices=invoices.invoices if invoices else [],
        next_cursor=invoices.next_cursor if invoices else None,
        unreadable=unreadable,
        is_first_page=not site.query("cursor"),
        problem=site.explained(error) if error else "",
    )


def _is_without_plan(banner: Banner | None) -> bool:
    """Whether it is the notice that there is no plan. The page's first card says that."""
    return banner is not None and banner.name == "no_plan"


def _invoices() -> tuple[InvoicePage | None, str]:
    """Returns the invoices; if Commet does not answer, the text to show instead."""
    try:
        return portal_answers.invoices(app, site.user(), site.query("cursor") or None), ""
    except BillingError as error:
        if error.code not in site.COMMET_FAILED and error.status != 429:
            raise
        return None, site.explained(error)


@app.get("/app/billing/invoices/<invoice_id>")
@site.members
def show_invoice(invoice_id: str) -> Response[Any]:
    """One invoice with its lines, and where its PDF is."""
    found = portal_answers.invoice(app, site.user(), invoice_id)
    title = word("billing.invoice_title", number=found.number or found.id)
    return site.page(
        "invoice.html", title=title, banner=outlook.trouble(), invoice=found, now=wiring.now()
    )


@app.get(_CANCEL)
@site.members
def show_cancel() -> Response[Any]:
    """Asks whether the plan should really end."""
    dashboard = dashboard_answers.dashboard(app, site.user())
    current = mirror.current(wiring.database(), site.user().id)
    if current is None or dashboard.subscription is None:
        return site.see_other(BILLING)
    if current.status not in mirror.LIVE or current.cancel_at_period_end:
        return site.see_other(BILLING)
    return site.page(
        "cancel.html",
        title=word("cancel.title", plan=dashboard.subscription.plan.name or ""),
        banner=outlook.trouble(),
        dashboard=dashboard,
        cost=projection.cost_so_far(dashboard.usage),
        waits=managing.is_deferred(current.status, current.billing_interval),
        now=wiring.now(),
    )


@app.post(_CANCEL)
@site.members
def cancel() -> Response[Any]:
    """Cancels at the end of the period that is paid. Without such a period the plan ends now."""
    try:
        canceled = portal_answers.cancel(app, site.user(), immediate=False).subscription
    except BillingError as error:
        return _refused(error)
    if canceled.cancel_at_period_end:
        return site.see_other(BILLING, done="canceled")
    return site.see_other(BILLING, done="canceled_now" if canceled.status == "canceled" else "")


@app.post("/app/billing/keep")
@site.members
def keep() -> Response[Any]:
    """Undoes a cancellation."""
    try:
        portal_answers.keep(app, site.user())
    except BillingError as error:
        return _refused(error)
    return site.see_other(BILLING, done="kept")


@app.post("/app/billing/recovery")
@site.members
def recover() -> Response[Any]:
    """Goes on to Commet's page on which an overdue payment is paid."""
    return _left(lambda: portal_answers.recovery(app, site.user()).recovery_url)


@app.post("/app/billing/debt")
@site.members
def pay_debt() -> Response[Any]:
    """Goes on to the page on which the user pays what they owe, if they still do."""
    try:
        wiring.debtors().check(site.user().id, site.deadline())
    except DebtOpen as owed:
        if owed.pay_url is None:
            return _refused(owed)
        return site.see_other(owed.pay_url)
    except BillingError as error:
        return _refused(error)
    return site.see_other(BILLING, done="debt_paid")


@app.post("/app/billing/portal")
@site.members
def open_portal() -> Response[Any]:
    """Goes on to Commet's portal, which has the payment method. It leads back to this page."""
    return _left(lambda: portal_answers.portal_url(app, site.user(), f"{site.origin()}{BILLING}"))


def _left(target: Callable[[], str]) -> Response[Any]:
    try:
        url = target()
    except BillingError as error:
        return _refused(error)
    return site.see_other(url)


def _refused(error: BillingError) -> Response[Any]:
    """Shows the page again, with the error above it."""
    if error.status >= 500 and error.code not in site.COMMET_FAILED:
        raise error
    return _billing_page(error)
