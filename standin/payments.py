"""One-time payments: links that somebody pays on a page, and charges of a saved card.

Neither needs a plan. An invoice is created only once the payment has succeeded.
"""

import re
from datetime import timedelta

from standin import customers, events, invoices, recovery
from standin.cards import CardForm, CardFormError, CardRefusedError, accept
from standin.charges import failure_of
from standin.errors import ApiError
from standin.ids import new_id, new_secret
from standin.models import ACCESS_STATUSES, Card, Customer, Invoice, Payment
from standin.schemas import ChargePayment, CreateCustomer, CreatePayment
from standin.tax import tax_on
from standin.transactions import Failure, of_invoice, of_payment, payment_context
from standin.world import World


def create(world: World, request: CreatePayment) -> Payment:
    """A link that waits for its payment. Raises ApiError: customer_not_found."""
    customer = world.customer(request.customer_id) if request.customer_id else None
    now, days = world.now(), world.settings.payment_link_days
    payment = world.store.payments.put(
        Payment(
            id=new_id("pay"),
            kind="link",
            customer_id=customer.id if customer else None,
            status="pending",
            amount=request.amount,
            tax_amount=tax_on(world, request.amount),
            currency=request.currency,
            description=request.description,
            metadata=request.metadata,
            token=new_secret("tok"),
            success_url=request.success_url,
            expires_at=now + timedelta(days=days) if days else None,
            created_at=now,
            updated_at=now,
        )
    )
    events.payment_link(world, "payment_link.created", payment)
    return payment


def find(world: World, payment_id: str) -> Payment:
    """The payment with that id. Raises ApiError: payment_not_found."""
    payment = world.store.payments.get(payment_id)
    if payment is None:
        raise ApiError("payment_not_found", "Payment not found", param="id")
    return payment


def cancel(world: World, payment: Payment) -> Payment:
    """Close a link that nobody has tried to pay. A canceled link does not change.

    Raises ApiError: payment_not_cancelable.
    """
    if payment.status == "canceled":
        return payment
    if payment.kind == "charge" or payment.status != "pending":
        raise ApiError("payment_not_cancelable", f"The {payment.kind} is {payment.status}")
    payment.status, payment.updated_at = "canceled", world.now()
    world.store.payments.put(payment)
    events.payment_link(world, "payment_link.canceled", payment)
    return payment


def is_open(world: World, payment: Payment) -> bool:
    """Returns whether a link can be paid. It can after a declined card, but not after its
    expiry.
    """
    expired = payment.expires_at is not None and payment.expires_at <= world.now()
    return payment.kind == "link" and payment.status in {"pending", "failed"} and not expired


def pay(world: World, payment: Payment, form: CardForm, email: str) -> Payment:
    """Pay an open link. `email` is the buyer's, for a link without a customer.

    Raises CardFormError, and CardRefusedError if the card is declined. Nothing has changed then.
    The decline has to be recorded in a database transaction of its own (`note_declined`).
    """
    _check_email(payment, email)
    card = accept(form, world.now())
    if card.charge_failure:
        raise CardRefusedError(card.charge_failure)
    customer = _buyer(world, payment, email)
    invoice = _collected(world, payment, customer, card)
    if payment.customer_id:
        recovery.add_card(world, customer, card)
    transaction = world.store.transactions.get(invoice.transaction_id or "")
    if transaction is None:
        raise LookupError(f"invoice {invoice.id} has no transaction")
    events.payment_link_completed(world, payment, invoice, transaction)
    return payment


def note_declined(world: World, payment: Payment, form: CardForm, failure: Failure) -> None:
    """Record that a link's payment was declined, and send payment_link.failed."""
    customer = world.store.customers.get(payment.customer_id or "")
    context = payment_context("one_time_payment", payment_link_id=payment.id)
    card = form.read(world.now())[1]
    transaction = of_payment(world, payment, customer, context, card=card, failure=failure)
    payment.status, payment.updated_at = "failed", world.now()
    world.store.payments.put(payment)
    events.payment_link_failed(world, payment, transaction)


def _check_email(payment: Payment, email: str) -> None:
    if payment.customer_id is None and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        raise CardFormError({"email": "Use an email address."})


def _buyer(world: World, payment: Payment, email: str) -> Customer:
    """Returns the customer of the invoice. For a link without one: the one with the email, or a
    new one.
    """
    if payment.customer_id:
        return world.customer(payment.customer_id)
    known = world.store.customers.first("email = ?", email, newest=False)
    return known or customers.create(world, CreateCustomer(email=email))[0]


def charge(world: World, request: ChargePayment) -> tuple[Payment, bool]:
    """Charge a subscriber's default card. Returns the payment, and whether it succeeded.

    A declined charge leaves a failed payment and a failed transaction, without an invoice. Raises
    ApiError: customer_not_found, subscription_required, payment_method_not_found.
    """
    customer = world.customer(request.customer_id)
    sub = world.current_subscription(customer)
    if sub is None or sub.status not in ACCESS_STATUSES:
        raise ApiError(
            "subscription_required",
            "The customer has no subscription that is active, trialing or past due",
            param="customerId",
        )
    card = customer.card
    if card is None:
        raise ApiError("payment_method_not_found", "Customer has no payment method on file")
    now = world.now()
    payment = Payment(
        id=new_id("pay"),
        kind="charge",
        customer_id=customer.id,
        status="failed",
        amount=request.amount,
        tax_amount=tax_on(world, request.amount),
        currency=request.currency,
        description=request.description,
        metadata=request.metadata,
        token=None,
        success_url=None,
        expires_at=None,
        created_at=now,
        updated_at=now,
    )
    failure = failure_of(card)
    if failure is None:
        _collected(world, payment, customer, card)
        return payment, True
    context = payment_context("one_time_payment")
    of_payment(world, payment, customer, context, card=card, failure=failure)
    world.store.payments.put(payment)
    return payment, False


def _collected(world: World, payment: Payment, customer: Customer, card: Card) -> Invoice:
    """Record a successful payment: invoice, transaction and payment.received."""
    link_id = payment.id if payment.kind == "link" else None
    context = payment_context("one_time_payment", payment_link_id=link_id)
    invoice = invoices.draw_up_payment(world, payment, customer)
    transaction = of_invoice(
        world, invoice, customer, context, card=card, failure=None, payment=payment
    )
    invoices.settle(world, invoice, transaction)
    payment.status, payment.invoice_id = "succeeded", invoice.id
    payment.updated_at = world.now()
    world.store.payments.put(payment)
    events.payment_received(world, invoice, customer, transaction)
    return invoice
