"""The hosted checkout: what is bought, a card form, and what became of it."""

from typing import Any

from aiohttp import web

from local.commet import subscriptions
from local.commet.cards import CardForm, CardFormError, CardRefusedError
from local.commet.models import Subscription
from local.commet.pages import view
from local.commet.world import World

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
        if sub.status != "pending_payment":
            return self._done(sub)
        return self._form(sub)

    async def pay(self, request: web.Request) -> web.Response:
        """Charge the card; on success go on to where the seller wants the buyer."""
        posted = await request.post()
        values = {name: str(posted.get(name, "")) for name in _FIELDS}
        sub = self._find(request)
        if sub is None or sub.status == "canceled":
            return _dead_link()
        if sub.status != "pending_payment":
            # A second click on Pay: the first one has paid, nothing is charged again.
            return self._leave(sub)
        try:
            with self._world.transaction():
                subscriptions.pay_checkout(self._world, sub, CardForm(**values))
        except CardFormError as wrong:
            return self._form(sub, values, problems=wrong.problems, status=422)
        except CardRefusedError as refusal:
            return self._declined(request, values, refusal)
        return self._leave(sub)

    def _find(self, request: web.Request) -> Subscription | None:
        return self._world.store.subscriptions.first(
            "checkout_token = ?", request.match_info["token"]
        )

    def _declined(
        self, request: web.Request, values: dict[str, str], refusal: CardRefusedError
    ) -> web.Response:
        # Read again: the attempt has changed the copy in hand, and its transaction is undone.
        sub = self._find(request)
        if sub is None:
            return _dead_link()
        with self._world.transaction():
            subscriptions.note_declined_checkout(self._world, sub, refusal.failure)
        return self._form(sub, values, alert=refusal.message, status=402)

    def _leave(self, sub: Subscription) -> web.Response:
        where = sub.success_url or f"{self._world.public_url}/checkout/{sub.checkout_token}"
        return view.see_other(where)

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
            **self._order(sub),
        )

    def _order(self, sub: Subscription) -> dict[str, Any]:
        world = self._world
        plan = world.plan(sub)
        price = next(p for p in plan.prices if p.id == sub.price_id)
        granted = [(world.catalogue.feature(grant.code), grant) for grant in plan.features]
        return {
            "plan": plan,
            "price": price,
            "currency": world.settings.currency,
            "trial_days": sub.trial_days,
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
