"""Endpoints below /_standin about money: refunds, disputes, unpaid invoices, payment links."""

from dataclasses import dataclass

from aiohttp import web
from pydantic import Field

from standin import announcing, invoices, payments, recovery, transactions
from standin.announcing import Outcome
from standin.cards import CardForm, CardFormError, CardRefusedError
from standin.control import StrictBody, as_json, dump, plain, read_body
from standin.errors import ApiError
from standin.models import Invoice, Payment, Record
from standin.transactions import RefundReason
from standin.world import World


class RefundRequest(StrictBody):
    """POST /_standin/transactions/{id}/refund. Without an amount, the whole rest is refunded."""

    amount: int | None = Field(default=None, gt=0, strict=True)
    reason: RefundReason = "requested_by_customer"


class DisputeRequest(StrictBody):
    """POST /_standin/transactions/{id}/dispute. Without an amount, the whole rest is disputed."""

    amount: int | None = Field(default=None, gt=0, strict=True)
    reason: str | None = "fraudulent"


class ResolveRequest(StrictBody):
    """POST /_standin/transactions/{id}/resolve: how a dispute ends."""

    outcome: Outcome


class PayLinkRequest(StrictBody):
    """POST /_standin/payments/{id}/pay: the form of a payment link's page, without the page."""

    card_number: str = "4242424242424242"
    email: str = "buyer@example.com"
    """The buyer's email, for a link that names no customer."""


class AnnounceRequest(StrictBody):
    """POST /_standin/events: an event to send about a transaction or an invoice."""

    event: str
    about: str
    outcome: Outcome = "won"


@dataclass(frozen=True, slots=True)
class PaymentControl:
    """The objects that the endpoints use."""

    world: World

    async def list(self, _: web.Request) -> web.Response:
        """Transactions, refunds, payment links and unpaid invoices, newest first."""
        store = self.world.store
        return as_json(
            {
                "transactions": dump(store.transactions.find()),
                "refunds": dump(store.refunds.find()),
                "payments": dump(store.payments.find()),
                "unpaid_invoices": dump(store.invoices.find("status = 'outstanding'")),
            }
        )

    async def refund(self, request: web.Request) -> web.Response:
        """Give money back, all or a part."""
        asked = RefundRequest.model_validate(await read_body(request))
        with self.world.transaction():
            found = transactions.find(self.world, request.match_info["id"])
            done = transactions.refund(self.world, found, asked.amount, asked.reason)
        return _shown(done)

    async def dispute(self, request: web.Request) -> web.Response:
        """Open a dispute."""
        asked = DisputeRequest.model_validate(await read_body(request))
        with self.world.transaction():
            found = transactions.find(self.world, request.match_info["id"])
            done = transactions.dispute(self.world, found, asked.amount, asked.reason)
        return _shown(done)

    async def resolve(self, request: web.Request) -> web.Response:
        """Close a dispute."""
        asked = ResolveRequest.model_validate(await read_body(request))
        with self.world.transaction():
            found = transactions.find(self.world, request.match_info["id"])
            done = transactions.resolve(self.world, found, asked.outcome)
        return _shown(done)

    async def overdue(self, request: web.Request) -> web.Response:
        """Make an unpaid invoice overdue now, instead of a day after its due date."""
        with self.world.transaction():
            invoice = make_overdue(self.world, request.match_info["id"])
        return _shown(invoice)

    async def void(self, request: web.Request) -> web.Response:
        """Nullify an unpaid invoice."""
        with self.world.transaction():
            invoice = find_invoice(self.world, request.match_info["id"])
            recovery.void(self.world, invoice)
        return _shown(invoice)

    async def pay(self, request: web.Request) -> web.Response:
        """Pay a link as its page would; 402 when the card is declined."""
        asked = PayLinkRequest.model_validate(await read_body(request))
        payment = payments.find(self.world, request.match_info["id"])
        if not payments.is_open(self.world, payment):
            return as_json({"error": f"the {payment.kind} is {payment.status}"}, status=409)
        try:
            paid = pay_link(self.world, payment, asked.card_number, asked.email)
        except CardRefusedError as refusal:
            return as_json({"error": refusal.message, "code": refusal.code}, status=402)
        except CardFormError as wrong:
            return as_json({"error": str(wrong)}, status=400)
        return _shown(paid)

    async def announce(self, request: web.Request) -> web.Response:
        """Send an event. Nothing else changes."""
        asked = AnnounceRequest.model_validate(await read_body(request))
        with self.world.transaction():
            announcing.announce(self.world, asked.event, asked.about, asked.outcome)
        return as_json({"event": asked.event, "about": asked.about}, status=201)


def _shown(record: Record) -> web.Response:
    return as_json(plain(record))


def find_invoice(world: World, invoice_id: str) -> Invoice:
    """The invoice with that id. Raises ApiError: invoice_not_found."""
    invoice = world.store.invoices.get(invoice_id)
    if invoice is None:
        raise ApiError("invoice_not_found", "Invoice not found", param="id")
    return invoice


def make_overdue(world: World, invoice_id: str) -> Invoice:
    """Send invoice.overdue of an unpaid invoice. It is sent only once per invoice.

    Raises ApiError: invoice_not_found, no_outstanding_invoice.
    """
    invoice = find_invoice(world, invoice_id)
    if invoice.overdue_at is None:
        state = "overdue already" if invoice.status == "outstanding" else invoice.status
        raise ApiError("no_outstanding_invoice", f"The invoice is {state}")
    invoices.note_overdue(world, invoice)
    return invoice


def pay_link(world: World, payment: Payment, card_number: str, email: str) -> Payment:
    """Pay an open link. A decline is recorded.

    Raises CardRefusedError, CardFormError.
    """
    form = CardForm(card_number, "12/34", "123")
    try:
        with world.transaction():
            return payments.pay(world, payment, form, email)
    except CardRefusedError as refusal:
        with world.transaction():
            payments.note_declined(world, payment, form, refusal.failure)
        raise


def routes(world: World) -> list[web.RouteDef]:
    """Returns the routes below /_standin."""
    control = PaymentControl(world)
    return [
        web.get("/payments", control.list),
        web.post("/payments/{id}/pay", control.pay),
        web.post("/transactions/{id}/refund", control.refund),
        web.post("/transactions/{id}/dispute", control.dispute),
        web.post("/transactions/{id}/resolve", control.resolve),
        web.post("/invoices/{id}/overdue", control.overdue),
        web.post("/invoices/{id}/void", control.void),
        web.post("/events", control.announce),
    ]
