"""The page of a recovery link, on which an overdue renewal is paid with another card."""

from datetime import datetime

from aiohttp import web

from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.deadlines import next_deadline
from standin.models import Invoice, Subscription
from standin.pages import view
from standin.recovery import note_declined, pay_with, payable
from standin.world import World


class RecoveryPages:
    """GET and POST /recover/{token}."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """The card form, or a notice that nothing is owed."""
        owed = payable(self._world, request.match_info["token"])
        return self._form(*owed) if owed else _nothing_owed()

    async def pay(self, request: web.Request) -> web.Response:
        """Save the card and charge it; same fields as the checkout's card form."""
        posted = await request.post()
        form = CardForm(*(str(posted.get(n, "")) for n in ("card_number", "expiry", "cvc")))
        owed = payable(self._world, request.match_info["token"])
        if owed is None:
            return _nothing_owed()
        invoice, sub = owed
        try:
            with self._world.transaction():
                pay_with(self._world, invoice, sub, form)
        except CardFormError as wrong:
            return self._form(invoice, sub, problems=wrong.problems, status=422)
        except CardRefusedError as refusal:
            return self._declined(invoice, sub, form, refusal)
        return _paid()

    def _declined(
        self, invoice: Invoice, sub: Subscription, form: CardForm, refusal: CardRefusedError
    ) -> web.Response:
        with self._world.transaction():
            note_declined(self._world, invoice, sub, form, refusal.failure)
        return self._form(invoice, sub, alert=refusal.message, status=402)

    def _form(
        self,
        invoice: Invoice,
        sub: Subscription,
        *,
        problems: dict[str, str] | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        return view.page(
            "recovery.html",
            status=status,
            invoice=invoice,
            plan=self._world.plan(sub),
            paused=sub.status == "paused",
            next_try=_next_try(sub),
            problems=problems or {},
            alert=alert,
        )


def _next_try(sub: Subscription) -> datetime | None:
    deadline = next_deadline(sub)
    return deadline.at if deadline and deadline.kind == "dunning_retry" else None


def _paid() -> web.Response:
    return view.page(
        "notice.html",
        title="Payment received",
        message="Your subscription is active again. You can close this page.",
        good=True,
        link=None,
    )


def _nothing_owed() -> web.Response:
    return view.gone("Nothing to pay", "This invoice has been settled, or is no longer collected.")


def add_routes(app: web.Application, world: World) -> None:
    """Mount the recovery page."""
    pages = RecoveryPages(world)
    app.router.add_get("/recover/{token}", pages.show)
    app.router.add_post("/recover/{token}", pages.pay)
