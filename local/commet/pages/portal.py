"""The hosted portal: subscription, usage and invoices of one customer, and cancelling."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from local.commet import cards, recovery, subscriptions
from local.commet.cards import CardForm, CardFormError, CardRefusedError
from local.commet.entitlements import Entitlement, entitlements
from local.commet.errors import ApiError
from local.commet.invoices import overage_amount
from local.commet.models import Customer, PortalSession, Subscription
from local.commet.pages import view
from local.commet.portal import use_session
from local.commet.world import World

_NOTICES = {
    "canceled": "Your subscription has ended.",
    "cancel_scheduled": "Your subscription will end with the current period.",
    "uncanceled": "Your subscription continues.",
    "saved": "Your card has been saved.",
    "paid": "Your card has been saved and the open invoice is paid.",
    "still_owed": "Your card has been saved, but the open invoice could not be charged to it.",
}


class PortalPages:
    """GET /portal/{token} and the forms on it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """Everything on one page."""
        session = self._session(request)
        if session is None:
            return _expired()
        notice = _NOTICES.get(request.query.get("done", ""))
        return self._page(session, notice=notice)

    async def cancel(self, request: web.Request) -> web.Response:
        """Field `when` (`period_end` or `now`), field `reason` if there is one."""
        posted = await request.post()
        immediate = posted.get("when") == "now"
        reason = str(posted.get("reason", "")).strip() or None

        def act(sub: Subscription) -> str:
            subscriptions.cancel(self._world, sub, reason=reason, immediate=immediate)
            return "canceled" if sub.status == "canceled" else "cancel_scheduled"

        return self._change(request, act)

    async def uncancel(self, request: web.Request) -> web.Response:
        """Take back a scheduled cancellation."""

        def act(sub: Subscription) -> str:
            subscriptions.uncancel(self._world, sub)
            return "uncanceled"

        return self._change(request, act)

    async def save_card(self, request: web.Request) -> web.Response:
        """Replace the card on file; same fields as the checkout's card form."""
        posted = await request.post()
        form = CardForm(*(str(posted.get(n, "")) for n in ("card_number", "expiry", "cvc")))
        session = self._session(request)
        if session is None:
            return _expired()
        try:
            card = cards.accept(form, self._world.now())
        except CardFormError as wrong:
            return self._page(session, alert=" ".join(wrong.problems.values()), status=422)
        except CardRefusedError as refusal:
            return self._page(session, alert=refusal.message, status=402)
        with self._world.transaction():
            customer = self._world.customer(session.customer_id)
            done = recovery.replace_card(self._world, customer, card)
        return self._back(session, done)

    def _session(self, request: web.Request) -> PortalSession | None:
        return use_session(self._world, request.match_info["token"])

    def _change(self, request: web.Request, act: Callable[[Subscription], str]) -> web.Response:
        session = self._session(request)
        if session is None:
            return _expired()
        sub = self._world.current_subscription(self._world.customer(session.customer_id))
        if sub is None:
            return self._page(session, alert="There is no subscription to change.", status=409)
        try:
            with self._world.transaction():
                done = act(sub)
        except ApiError as error:
            return self._page(session, alert=error.message, status=error.status)
        return self._back(session, done)

    def _back(self, session: PortalSession, done: str) -> web.Response:
        return view.see_other(f"{self._world.public_url}/portal/{session.id}?done={done}")

    def _page(
        self,
        session: PortalSession,
        *,
        notice: str | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        customer = self._world.customer(session.customer_id)
        return view.page(
            "portal.html",
            status=status,
            notice=notice,
            alert=alert,
            action=f"/portal/{session.id}",
            return_url=session.return_url,
            customer=customer,
            currency=self._world.settings.currency,
            invoices=self._world.store.invoices.find("customer_id = ?", customer.id, limit=24),
            **self._subscription(customer),
        )

    def _subscription(self, customer: Customer) -> dict[str, Any]:
        sub = self._world.current_subscription(customer)
        if sub is None:
            return {"sub": None, "plan": None, "price": None, "usage": [], "owed": None}
        plan = self._world.plan(sub)
        return {
            "sub": sub,
            "plan": plan,
            "owed": recovery.owed(self._world, sub) if sub.status == "past_due" else None,
            "price": next((p for p in plan.prices if p.id == sub.price_id), None),
            "usage": [
                _gauge(i)
                for i in entitlements(self._world, sub)
                if i.allowance and i.feature.type == "usage"
            ],
        }


def _gauge(item: Entitlement) -> dict[str, Any]:
    """`share` of the included units used, in percent, and how wide that part of the bar is."""
    share = min(100, int(item.used * 100 / item.included)) if item.included else 100
    over = item.overage_units > 0
    width = int(item.included * 100 / item.used) if over else share
    cost = overage_amount(item.overage_units, item.grant.overage.unit_price or 0)
    return {
        "item": item,
        "share": share,
        "width": width,
        "cost": cost if item.overage_enabled else 0,
    }


def _expired() -> web.Response:
    return view.gone(
        "This session has expired",
        "Billing pages close after a while, for safety. Open them again from the product.",
        status=410,
    )


def add_routes(app: web.Application, world: World) -> None:
    """Mount the portal."""
    pages = PortalPages(world)
    app.router.add_get("/portal/{token}", pages.show)
    app.router.add_post("/portal/{token}/cancel", pages.cancel)
    app.router.add_post("/portal/{token}/uncancel", pages.uncancel)
    app.router.add_post("/portal/{token}/payment-method", pages.save_card)
