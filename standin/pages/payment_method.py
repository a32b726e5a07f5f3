"""The page of payment-method/update: saves another card for all later charges."""

from aiohttp import web

from standin import cards, links, recovery
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.models import Subscription
from standin.pages import view
from standin.world import World


class PaymentMethodPages:
    """GET and POST /payment-method/{token}."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """The card form."""
        opened = self._open(request)
        return self._form(opened[0]) if opened else _dead_link()

    async def save(self, request: web.Request) -> web.Response:
        """Save the card, and charge it for an unpaid renewal."""
        posted = await request.post()
        form = CardForm(*(str(posted.get(n, "")) for n in ("card_number", "expiry", "cvc")))
        opened = self._open(request)
        if opened is None:
            return _dead_link()
        sub, success_url = opened
        try:
            card = cards.accept(form, self._world.now())
        except CardFormError as wrong:
            return self._form(sub, problems=wrong.problems, status=422)
        except CardRefusedError as refusal:
            return self._form(sub, alert=refusal.message, status=402)
        with self._world.transaction():
            outcome = recovery.replace_card(self._world, self._world.owner(sub), card)
        if outcome == "still_owed":
            alert = "Your card has been saved, but the open invoice could not be charged to it."
            return self._form(sub, alert=alert, status=402)
        return view.see_other(success_url) if success_url else _saved()

    def _open(self, request: web.Request) -> tuple[Subscription, str | None] | None:
        claims = links.read(self._world, "payment-method", request.match_info["token"])
        sub = self._world.store.subscriptions.get(claims["subscription"]) if claims else None
        if claims is None or sub is None or not sub.has_access:
            return None
        return sub, claims["successUrl"]

    def _form(
        self,
        sub: Subscription,
        *,
        problems: dict[str, str] | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        # Read again, because the renewal may have been paid by now.
        current = self._world.store.subscriptions.get(sub.id) or sub
        return view.page(
            "payment_method.html",
            status=status,
            plan=self._world.plan(current),
            card=self._world.owner(current).card,
            owed=recovery.owed(self._world, current),
            problems=problems or {},
            alert=alert,
        )


def _saved() -> web.Response:
    return view.page(
        "notice.html",
        title="Card saved",
        message="It is used from now on. You can close this page.",
        good=True,
        link=None,
    )


def _dead_link() -> web.Response:
    return view.gone(
        "This link is no longer valid",
        "The subscription it belongs to has ended, or the address is not complete.",
    )


def add_routes(app: web.Application, world: World) -> None:
    """Mount the page."""
    pages = PaymentMethodPages(world)
    app.router.add_get("/payment-method/{token}", pages.show)
    app.router.add_post("/payment-method/{token}", pages.save)
