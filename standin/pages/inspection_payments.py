"""The payments on the inspection page: charges and debts, and the possible actions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from standin import announcing, payment_control, payments, recovery, transactions
from standin.cards import SAVED_BUT_DECLINED, CardFormError, CardRefusedError
from standin.control import plain
from standin.errors import ApiError
from standin.models import Invoice, Payment, Transaction
from standin.schemas import CreatePayment, read
from standin.world import World

PAYS = "4242424242424242"


@dataclass(frozen=True, slots=True)
class Row:
    """A transaction, an unpaid invoice or a payment link, with its possible actions."""

    id: str
    at: datetime
    words: str
    who: str
    amount: int
    currency: str
    status: str
    record: dict[str, Any]
    actions: dict[str, str] = field(default_factory=dict)
    """The button's text, by the name of the action (see `act`)."""
    events: tuple[str, ...] = ()
    """The events that can be announced about it."""
    takes_amount: bool = False


def count(world: World) -> int:
    """How many rows there are."""
    store = world.store
    unpaid = store.invoices.count("status = 'outstanding'")
    return store.transactions.count() + store.payments.count() + unpaid


def rows(world: World, limit: int) -> list[Row]:
    """The newest rows first."""
    store = world.store
    found = [_transaction(world, record) for record in store.transactions.find(limit=limit)]
    found += [_payment(world, record) for record in store.payments.find(limit=limit)]
    unpaid = store.invoices.find("status = 'outstanding'", limit=limit)
    found += [_invoice(world, record) for record in unpaid]
    return sorted(found, key=lambda row: row.at, reverse=True)[:limit]


def _transaction(world: World, record: Transaction) -> Row:
    invoice = world.store.invoices.get(record.invoice_id or "")
    actions = {}
    if record.status == "succeeded":
        actions = {"refund": "Refund"} | ({} if record.dispute else {"dispute": "Dispute"})
    elif record.has_open_dispute:
        actions = {"win": "Resolve: won", "lose": "Resolve: lost"}
    return Row(
        id=record.id,
        at=record.created_at,
        words=f"Payment of {invoice.number}" if invoice else "Payment without an invoice",
        who=record.customer_email or "",
        amount=record.total,
        currency=record.currency,
        status=record.status,
        record=plain(record),
        actions=actions,
        events=announcing.EVENTS if invoice else announcing.OF_TRANSACTIONS,
        takes_amount=record.status == "succeeded",
    )


def _invoice(world: World, record: Invoice) -> Row:
    actions = {"void": "Void"}
    if record.overdue_at:
        actions = {"overdue": "Overdue now"} | actions
    return Row(
        id=record.id,
        at=record.created_at,
        words=f"Invoice {record.number}",
        who=world.customer(record.customer_id).email,
        amount=record.total,
        currency=record.currency,
        status="overdue" if record.overdue_noted else "unpaid",
        record=plain(record),
        actions=actions,
        events=tuple(announcing.OF_INVOICES),
    )


def _payment(world: World, record: Payment) -> Row:
    owner = world.store.customers.get(record.customer_id or "")
    actions = {}
    if payments.is_open(world, record):
        actions = {"pay": "Pay", "decline": "Pay with a declined card"}
        if record.status == "pending":
            actions |= {"cancel": "Cancel"}
    return Row(
        id=record.id,
        at=record.created_at,
        words=f"{'Link' if record.kind == 'link' else 'Charge'}: {record.description}",
        who=owner.email if owner else "",
        amount=record.total,
        currency=record.currency,
        status=record.status,
        record=plain(record),
        actions=actions,
    )


def create_link(world: World, posted: Mapping[str, Any]) -> None:
    """Make a payment link as the API would. Raises ApiError."""
    amount = str(posted.get("amount", ""))
    body = {
        "amount": int(amount) if amount.isascii() and amount.isdecimal() else amount,
        "currency": world.settings.currency,
        "description": str(posted.get("description", "")),
        "customerId": str(posted.get("customer", "")).strip() or None,
    }
    with world.transaction():
        payments.create(world, read(CreatePayment, body))


def act(world: World, record_id: str, action: str, posted: Mapping[str, Any]) -> None:
    """Carry out a button's action, or send the chosen event. Raises ApiError."""
    if action in {"pay", "decline"}:
        _pay(world, record_id, PAYS if action == "pay" else SAVED_BUT_DECLINED)
        return
    acts: dict[str, Callable[[], object]] = {
        "refund": lambda: transactions.refund(
            world, transactions.find(world, record_id), _amount(posted)
        ),
        "dispute": lambda: transactions.dispute(
            world, transactions.find(world, record_id), _amount(posted)
        ),
        "win": lambda: transactions.resolve(world, transactions.find(world, record_id), "won"),
        "lose": lambda: transactions.resolve(world, transactions.find(world, record_id), "lost"),
        "overdue": lambda: payment_control.make_overdue(world, record_id),
        "void": lambda: recovery.void(world, payment_control.find_invoice(world, record_id)),
        "cancel": lambda: payments.cancel(world, payments.find(world, record_id)),
        "announce": lambda: announcing.announce(world, str(posted.get("event", "")), record_id),
    }
    if action not in acts:
        raise ApiError("not_found", "There is no such action")
    with world.transaction():
        acts[action]()


def _amount(posted: Mapping[str, Any]) -> int | None:
    """Returns the amount of a form in the minor unit; None if the field is empty, which means
    all of it.
    """
    text = str(posted.get("amount", "")).strip()
    if not text:
        return None
    return int(text) if text.isascii() and text.isdecimal() else 0


def _pay(world: World, payment_id: str, card_number: str) -> None:
    payment = payments.find(world, payment_id)
    if not payments.is_open(world, payment):
        raise ApiError("payment_failed", f"The {payment.kind} is {payment.status}")
    try:
        payment_control.pay_link(world, payment, card_number, "buyer@example.com")
    except CardRefusedError:
        return
    except CardFormError as wrong:
        raise ApiError("payment_failed", str(wrong)) from None
