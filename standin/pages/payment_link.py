"""The page of a payment link: the purpose, a card form, and the outcome."""

from typing import Any

from aiohttp import web

from standin import payments
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.models import Payment
from standin.pages import view
from standin.world import World

_CARD_FIELDS = ("card_number", "expiry", "cvc")


class PaymentLinkPages:
    """GET and POST /pay/{token}."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """The card form, or why there is none."""
        payment = self._find(request)
        if payment is None:
            return _dead_link()
        if payment.status == "succeeded":
            return _paid(payment)
        return self._form(payment) if payments.is_open(self._world, payment) else _dead_link()

    async def pay(self, request: web.Request) -> web.Response:
        """Charge the card. After success, redirect to the address that the seller chose."""
        posted = await request.post()
        form = CardForm(*(str(posted.get(name, "")) for name in _CARD_FIELDS))
        email = str(posted.get("email", "")).strip()
        payment = self._find(request)
        if payment is None:
            return _dead_link()
        if payment.status == "succeeded":
            # A second click on Pay. The first click has paid, so nothing is charged again.
            return self._leave(payment)
        if not payments.is_open(self._world, payment):
            return _dead_link()
        try:
            with self._world.transaction():
                payments.pay(self._world, payment, form, email)
        except CardFormError as wrong:
            return self._form(payment, email=email, problems=wrong.problems, status=422)
        except CardRefusedError as refusal:
            with self._world.transaction():
                payments.note_declined(self._world, payment, form, refusal.failure)
            return self._form(payment, email=email, alert=refusal.message, status=402)
        return self._leave(payment)

    def _find(self, request: web.Request) -> Payment | None:
        return self._world.store.payments.first("token = ?", request.match_info["token"])

    def _leave(self, payment: Payment) -> web.Response:
        page = f"{self._world.public_url}/pay/{payment.token}"
        return view.see_other(payment.success_url or page)

    def _form(
        self,
        payment: Payment,
        *,
        email: str = "",
        problems: dict[str, str] | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        customer = self._world.store.customers.get(payment.customer_id or "")
        return view.page(
            "payment_link.html",
            status=status,
            payment=payment,
            customer=customer,
            email=email,
            problems=problems or {},
            alert=alert,
        )


def _paid(payment: Payment) -> web.Response:
    link: Any = payment.success_url and {"href": payment.success_url, "text": "Continue"}
    return view.page(
        "notice.html",
        title="Payment received",
        message=f"You have paid for: {payment.description}. You can close this page.",
        good=True,
        link=link,
    )


def _dead_link() -> web.Response:
    return view.gone(
        "This link is no longer valid",
        "It was canceled or has expired. Ask for a new one where you got it.",
    )


def add_routes(app: web.Application, world: World) -> None:
    """Mount the page."""
    pages = PaymentLinkPages(world)
    app.router.add_get("/pay/{token}", pages.show)
    app.router.add_post("/pay/{token}", pages.pay)
