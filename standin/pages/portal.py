"""The hosted portal: subscription, usage and invoices of one customer, and cancelling."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from standin import cards, links, pauses, plan_changes, recovery, subscriptions
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.entitlements import Entitlement, entitlements
from standin.errors import ApiError, invalid
from standin.invoices import overage_amount
from standin.models import Customer, Invoice, PortalSession, Subscription
from standin.pages import view
from standin.portal import use_session
from standin.tax import with_tax
from standin.world import World

_NOTICES = {
    "canceled": "Your subscription has ended.",
    "cancel_scheduled": "Your subscription will end with the current period.",
    "uncanceled": "Your subscription continues.",
    "saved": "Your card has been saved.",
    "paid": "Your card has been saved and the open invoice is paid.",
    "retried": "The open invoice is paid and your subscription is active again.",
    "reactivated": "Welcome back. Your subscription has begun anew.",
    "changed": "Your plan has been changed.",
    "change_scheduled": "Your plan will change with the next period.",
    "resumed": "Your subscription is active again.",
    "pause_updated": "Your pause has been changed.",
    "pause_revoked": "Your subscription will not be paused.",
}
_ALERTS = {
    "still_owed": "Your card has been saved, but the open invoice could not be charged to it.",
    "declined": "The charge was declined, so nothing has changed. Try another card.",
    "tried_too_often": "Your card has been saved. The open invoice was tried often enough today:"
    " it is charged with the next automatic try, or when you try again tomorrow.",
}


_CHANGE_OUTCOMES = {
    "completed": "changed",
    "scheduled": "change_scheduled",
    "declined": "declined",
}
_MAX_PAUSE_DAYS = 3650


class PortalPages:
    """GET /portal/{token} and the forms on it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """Everything on one page."""
        session = self._session(request)
        if session is None:
            return _expired()
        done = request.query.get("done", "")
        return self._page(session, notice=_NOTICES.get(done), alert=_ALERTS.get(done))

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
        """Undo a scheduled cancellation."""

        def act(sub: Subscription) -> str:
            subscriptions.uncancel(self._world, sub)
            return "uncanceled"

        return self._change(request, act)

    async def confirm_change(self, request: web.Request) -> web.Response:
        """Show the effects and costs of a plan change, before anything happens;
        `?plan=&interval=`.
        """
        session = self._session(request)
        if session is None:
            return _expired()
        sub = self._world.current_subscription(self._world.customer(session.customer_id))
        if sub is None:
            return self._page(session, alert="There is no subscription to change.", status=409)
        plan, interval = request.query.get("plan"), request.query.get("interval") or None
        try:
            target = plan_changes.resolve(self._world, sub, plan, interval)
        except ApiError as error:
            return self._page(session, alert=error.message, status=error.status)
        return view.page(
            "portal_change.html",
            action=f"/portal/{session.id}",
            sub=sub,
            plan=self._world.plan(sub),
            target=target,
            when=plan_changes.when(self._world, sub, target),
            quote=plan_changes.quote(self._world, sub, target),
            today=self._world.now(),
            card=self._world.owner(sub).card,
            currency=self._world.settings.currency,
        )

    async def change_plan(self, request: web.Request) -> web.Response:
        """Fields `plan` and `interval` (none for a free plan), as on the page before."""
        posted = await request.post()
        plan, interval = str(posted.get("plan", "")), str(posted.get("interval", "")) or None
        back = f"{self._world.public_url}/portal/{request.match_info['token']}?done=changed"

        def act(sub: Subscription) -> str:
            changed = plan_changes.change(self._world, sub, plan, interval, success_url=back)
            if changed.outcome == "requires_checkout":
                return self._world.checkout_page(changed.sub)
            return _CHANGE_OUTCOMES[changed.outcome]

        return self._change(request, act)

    async def resume(self, request: web.Request) -> web.Response:
        """End a pause."""

        def act(sub: Subscription) -> str:
            _, resumed = pauses.resume(self._world, sub)
            return "resumed" if resumed else "declined"

        return self._change(request, act)

    async def update_pause(self, request: web.Request) -> web.Response:
        """Field `days`: how long the pause lasts. Empty for a pause without an end."""
        posted = await request.post()
        days = str(posted.get("days", "")).strip()
        valid = not days or (days.isdecimal() and 0 < int(days) <= _MAX_PAUSE_DAYS)

        def act(sub: Subscription) -> str:
            if not valid:
                raise invalid("days", f"Give a number of days from 1 to {_MAX_PAUSE_DAYS}.")
            pauses.update(self._world, sub, int(days) if days else None)
            return "pause_updated"

        return self._change(request, act)

    async def revoke_pause(self, request: web.Request) -> web.Response:
        """Undo a scheduled pause."""

        def act(sub: Subscription) -> str:
            pauses.revoke(self._world, sub)
            return "pause_revoked"

        return self._change(request, act)

    async def reactivate(self, request: web.Request) -> web.Response:
        """Start an ended subscription again, with the saved card."""

        def act(sub: Subscription) -> str:
            _, paid = recovery.reactivate(self._world, sub)
            return "reactivated" if paid else "declined"

        return self._change(request, act, find=self._ended)

    async def retry(self, request: web.Request) -> web.Response:
        """Charge the saved card again for an overdue invoice."""

        def act(sub: Subscription) -> str:
            _, paid = recovery.retry(self._world, sub)
            return "retried" if paid else "declined"

        return self._change(request, act)

    async def save_card(self, request: web.Request) -> web.Response:
        """Save a card. Fields are those of the checkout's card form; `keep_default` leaves the
        default card.
        """
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
            done = recovery.replace_card_in_portal(
                self._world, customer, card, as_default=not posted.get("keep_default")
            )
        return self._back(session, done)

    def _session(self, request: web.Request) -> PortalSession | None:
        return use_session(self._world, request.match_info["token"])

    def _ended(self, customer: Customer) -> Subscription | None:
        """Returns the newest subscription that was paid for and has ended, if it can be started
        again.
        """
        if self._world.current_subscription(customer) or customer.card is None:
            return None
        of_customer = "customer_id = ? AND status = 'canceled'"
        ended = self._world.store.subscriptions.find(of_customer, customer.id)
        return next((s for s in ended if s.price_id and s.period_start), None)

    def _change(
        self,
        request: web.Request,
        act: Callable[[Subscription], str],
        *,
        find: Callable[[Customer], Subscription | None] | None = None,
    ) -> web.Response:
        """Carry out a form's action, then redirect to the page, or to the address that `act`
        returns.
        """
        session = self._session(request)
        if session is None:
            return _expired()
        find = find or self._world.current_subscription
        sub = find(self._world.customer(session.customer_id))
        if sub is None:
            return self._page(session, alert="There is no subscription to change.", status=409)
        try:
            with self._world.transaction():
                done = act(sub)
        except ApiError as error:
            return self._page(session, alert=error.message, status=error.status)
        return view.see_other(done) if "://" in done else self._back(session, done)

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
            invoices=self._invoices(customer),
            **self._subscription(customer),
        )

    def _resume_cost(self, sub: Subscription) -> int:
        """Returns the amount that resuming would charge now."""
        if sub.pause is None or sub.pause.mode == "immediate":
            return 0
        owed = recovery.owed(self._world, sub)
        return owed.total if owed else with_tax(self._world, self._world.price(sub))

    def _invoices(self, customer: Customer) -> list[tuple[Invoice, str]]:
        found = self._world.store.invoices.find("customer_id = ?", customer.id, limit=24)
        return [(invoice, links.invoice_url(self._world, invoice)[0]) for invoice in found]

    def _subscription(self, customer: Customer) -> dict[str, Any]:
        sub = self._world.current_subscription(customer)
        if sub is None:
            ended = self._ended(customer)
            empty: dict[str, Any] = {
                "sub": None,
                "price": None,
                "usage": [],
                "owed": None,
                "offers": [],
            }
            return empty | {
                "ended": ended,
                "plan": self._world.plan(ended) if ended else None,
                "renewal": with_tax(self._world, self._world.price(ended)) if ended else 0,
            }
        plan = self._world.plan(sub)
        booked = sub.scheduled_change
        return {
            "sub": sub,
            "ended": None,
            "plan": plan,
            "offers": [
                (target, plan_changes.when(self._world, sub, target))
                for target in plan_changes.offers(self._world, sub)
            ],
            "next_plan": self._world.catalogue.plan(booked.plan_id) if booked else None,
            "resume_cost": self._resume_cost(sub),
            "owed": recovery.owed(self._world, sub) if sub.status == "past_due" else None,
            "price": next((p for p in plan.prices if p.id == sub.price_id), None),
            "usage": [
                _gauge(i)
                for i in entitlements(self._world, sub)
                if i.allowance and i.feature.type == "usage"
            ],
        }


def _gauge(item: Entitlement) -> dict[str, Any]:
    """Returns `share`, the used percentage of the included units, and the width of that part of
    the bar.
    """
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
    app.router.add_get("/portal/{token}/change-plan", pages.confirm_change)
    app.router.add_post("/portal/{token}/change-plan", pages.change_plan)
    app.router.add_post("/portal/{token}/resume", pages.resume)
    app.router.add_post("/portal/{token}/pause", pages.update_pause)
    app.router.add_post("/portal/{token}/pause/revoke", pages.revoke_pause)
    app.router.add_post("/portal/{token}/reactivate", pages.reactivate)
    app.router.add_post("/portal/{token}/retry", pages.retry)
