"""From a plan to access: the checkout, a change of plan, and "thank you"."""

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.errors import BillingError, Conflict, DebtOpen
from billing.http import checkout_answers, plan_answers
from billing.http.estimate import price_of
from billing.http.plan_answers import plan_of
from billing.http.shapes.checkout import CONFIRMATION_PATTERN, Checkout
from billing.http.shapes.plans import PlanReply
from billing.pages import forms, outlook, site
from billing.pages.site import app, word
from billing.subscriptions import mirror
from billing.subscriptions.mirror import Subscription

_CHECKOUT = "/app/checkout"
_CHANGE = "/app/checkout/change"
_THANKS = "/app/thanks"


@app.get(_CHECKOUT)
@site.members
def show_checkout() -> Response[Any]:
    """Shows what a plan costs and includes, before the payment on Commet's page.

    If a payment is waiting, it continues with the interval for which it was begun.
    """
    found = plan_answers.plans(site.user(), site.deadline())
    code, interval = site.chosen_plan()
    plan = plan_of(found, code)
    current = mirror.current(wiring.database(), site.user().id)
    if not interval and current is not None and current.plan_id == plan.id:
        interval = current.billing_interval or ""
    return _checkout_page(plan, interval)


@app.post(_CHECKOUT)
@site.members
def check_out() -> Response[Any]:
    """Redirects to the payment. For a subscriber, to the change of plan, or performs it."""
    values = site.form()
    code, interval = values.get("plan_code", ""), values.get("billing_interval", "")
    try:
        body = forms.checked(Checkout, {**values, "success_url": _success_url(code)})
        _, reply = checkout_answers.checkout(app, site.user(), body)
    except BillingError as error:
        if error.status >= 500 and error.code not in site.COMMET_FAILED:
            raise
        plan = plan_of(plan_answers.plans(site.user(), site.deadline()), code)
        return _checkout_page(plan, interval, error)
    forget = [site.plan_cookie("")]
    if reply.checkout_url is not None:
        return site.see_other(reply.checkout_url, cookies=forget)
    if reply.change is None:
        return site.see_other(f"{_THANKS}?plan={quote(code)}", cookies=forget)
    if reply.change.state == "preview":
        shown = {"plan": code, "interval": interval, "confirmation": reply.change.confirmation}
        return site.see_other(f"{_CHANGE}?{urlencode(shown)}")
    done = "plan_changed" if reply.change.state == "completed" else "change_scheduled"
    return site.see_other("/app/billing", done=done, cookies=forget)


@app.get(_CHANGE)
@site.members
def show_change() -> Response[Any]:
    """Shows the costs of a change of plan now and later, and what the user gains and loses.

    The change has an address, so to load the page again shows the same offer and asks for none.
    """
    code, interval = site.chosen_plan()
    confirmation = re.match(CONFIRMATION_PATTERN, site.query("confirmation"))
    known = confirmation[0] if confirmation else ""
    try:
        code, change = checkout_answers.shown(site.user(), known, site.deadline())
    except Conflict as error:
        plan = plan_of(plan_answers.plans(site.user(), site.deadline()), code)
        return _checkout_page(plan, interval, error)
    plan = plan_of(plan_answers.plans(site.user(), site.deadline()), code)
    return site.page(
        "change.html",
        title=word("change.heading", plan=plan.name),
        hosted=True,
        plan=plan,
        change=change,
        interval=change.then_interval or "",
        now=wiring.now(),
    )


def _checkout_page(
    plan: PlanReply, interval: str, error: BillingError | None = None
) -> Response[Any]:
    current = mirror.current(wiring.database(), site.user().id)
    return site.page(
        "checkout.html",
        status=error.status if error else 200,
        title=word("checkout.title", plan=plan.name),
        banner=None if error else outlook.trouble(),
        hosted=True,
        plan=plan,
        price=price_of(plan, interval),
        currency=wiring.settings().currency,
        is_change=current is not None and current.status in mirror.LIVE,
        problem="" if error is None or isinstance(error, DebtOpen) else site.explained(error),
        needs_address=error is not None and error.code == "email_unverified",
        debt=error if isinstance(error, DebtOpen) else None,
    )


def _success_url(code: str) -> str:
    return f"{site.origin()}{_THANKS}?{urlencode({'plan': code})}"


@app.get(_THANKS)
@site.members
def show_thanks() -> Response[Any]:
    """Waits for access after a payment.

    This page and each "Look again" may ask Commet. The script's requests only read our own copy.
    """
    wanted = site.query("plan")
    current, access = wiring.access().standing(site.user().id, site.deadline())
    if access and _is_on(current, wanted):
        return site.see_other(site.HOME, done="welcome")
    return site.page("thanks.html", title=word("thanks.heading"), plan=wanted)


@app.get("/app/thanks/look")
@site.members
def look_for_access() -> Response[Any]:
    """Returns whether the user has access, for the script of the page that waits."""
    current = mirror.current(wiring.database(), site.user().id)
    live = wiring.settings().live_statuses
    access = current is not None and current.gives_access(live)
    body = json.dumps({"access": access and _is_on(current, site.query("plan"))})
    return Response(
        200, content_type="application/json", body=body, headers={"Cache-Control": "no-store"}
    )


def _is_on(current: Subscription | None, code: str) -> bool:
    """Whether the subscription is of the plan with this code; true for a code that is not sold."""
    sold = plan_answers.plans(site.user(), site.deadline()).plans
    plan = next((plan for plan in sold if plan.code == code), None)
    return plan is None or (current is not None and current.plan_id == plan.id)
