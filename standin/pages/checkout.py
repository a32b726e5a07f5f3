"""The hosted checkout: the order, a card form, and the outcome."""

from typing import Any

from aiohttp import web

from standin import checkout
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.checkout import Order
from standin.models import Subscription
from standin.pages import view
from standin.world import World

_FIELDS = ("card_number", "expiry", "cvc", "name")


class CheckoutPages:
    """GET and POST /checkout/{token}."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """The card form, or why there is none."""
        sub = self._find(request)
        if sub is None or sub.status == "canceled":
            return _dead_link()
        order = checkout.order(self._world, sub)
        return self._form(sub, order) if order else self._done(sub)

    async def pay(self, request: web.Request) -> web.Response:
        """Charge the card. After success, redirect to the address that the seller chose."""
        posted = await request.post()
        values = {name: str(posted.get(name, "")) for name in _FIELDS}
        sub = self._find(request)
        if sub is None or sub.status == "canceled":
            return _dead_link()
        order, success_url = checkout.order(self._world, sub), checkout.success_url(sub)
        if order is None:
            # A second click on Pay. The first click has paid, so nothing is charged again.
            return self._leave(sub, success_url)
        try:
            with self._world.transaction():
                checkout.pay(self._world, sub, CardForm(**values))
        except CardFormError as wrong:
            return self._form(sub, order, values, problems=wrong.problems, status=422)
        except CardRefusedError as refusal:
            return self._declined(request, order, values, refusal)
        return self._leave(sub, success_url)

    def _find(self, request: web.Request) -> Subscription | None:
        return self._world.store.subscriptions.first(
            "checkout_token = ?", request.match_info["token"]
        )

    def _declined(
        self, request: web.Request, order: Order, values: dict[str, str], refusal: CardRefusedError
    ) -> web.Response:
        # Read again, because the attempt has changed this copy, and its transaction was undone.
        sub = self._find(request)
        if sub is None:
            return _dead_link()
        with self._world.transaction():
            checkout.note_declined(self._world, sub, CardForm(**values), refusal.failure)
        return self._form(sub, order, values, alert=refusal.message, status=402)

    def _leave(self, sub: Subscription, success_url: str | None) -> web.Response:
        return view.see_other(success_url or self._world.checkout_page(sub))

    def _done(self, sub: Subscription) -> web.Response:
        plan = self._world.plan(sub).name
        return view.page(
            "notice.html",
            title="Payment received" if sub.status != "trialing" else "Your trial has begun",
            message=f"You are subscribed to {plan}. You can close this page.",
            good=True,
            link=sub.success_url and {"href": sub.success_url, "text": "Continue"},
        )

    def _form(
        self,
        sub: Subscription,
        order: Order,
        values: dict[str, str] | None = None,
        *,
        problems: dict[str, str] | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        kept = {"name": (values or {}).get("name", "")}
        return view.page(
            "checkout.html",
            status=status,
            values=kept,
            problems=problems or {},
            alert=alert,
            **self._order(sub, order),
        )

    def _order(self, sub: Subscription, order: Order) -> dict[str, Any]:
        world = self._world
        granted = [(world.catalogue.feature(grant.code), grant) for grant in order.plan.features]
        return {
            "plan": order.plan,
            "price": order.price,
            "due": order.due,
            "tax_percent": world.settings.tax_percent,
            "currency": world.settings.currency,
            "trial_days": order.trial_days,
            "features": [(feature, grant) for feature, grant in granted if feature],
            "customer": world.owner(sub),
        }


def _dead_link() -> web.Response:
    return view.gone(
        "This link is no longer valid",
        "It may have been replaced by a newer one. Go back to where you came from and start again.",
    )


def add_routes(app: web.Application, world: World) -> None:
    """Mount the checkout."""
    pages = CheckoutPages(world)
    app.router.add_get("/checkout/{token}", pages.show)
    app.router.add_post("/checkout/{token}", pages.pay)
