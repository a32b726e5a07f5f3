"""Transactions: every attempt to take money, and refunds and disputes of payments.

None of them changes a subscription, so a refunded customer still has access.
"""

from typing import Any, Literal

from standin import events
from standin.errors import ApiError, invalid
from standin.events import ChargeReason, Recovery
from standin.ids import new_id
from standin.models import (
    Card,
    Customer,
    Dispute,
    Invoice,
    Payment,
    Refund,
    Subscription,
    Transaction,
)
from standin.world import World

Failure = tuple[str, str]
RefundReason = Literal["duplicate", "fraudulent", "requested_by_customer"]


def payment_context(
    reason: ChargeReason, recovery: Recovery | None = None, *, payment_link_id: str | None = None
) -> dict[str, Any]:
    """Returns Commet's `paymentContext`: the purpose of a charge, and why it was tried."""
    return {
        "reason": reason,
        "paymentLinkId": payment_link_id,
        "recovery": recovery.shown() if recovery else None,
    }


def of_invoice(
    world: World,
    invoice: Invoice,
    customer: Customer,
    context: dict[str, Any],
    *,
    card: Card | None,
    failure: Failure | None,
    payment: Payment | None = None,
) -> Transaction:
    """Record an attempt to collect an invoice. `failure` is None if it succeeded.

    `payment` is the one-time payment of the invoice, if there is one.
    """
    return world.store.transactions.put(
        Transaction(
            id=new_id("txn"),
            invoice_id=invoice.id,
            subscription_id=invoice.subscription_id,
            payment_id=payment.id if payment else None,
            customer_id=customer.id,
            customer_email=customer.email,
            customer_name=customer.full_name,
            subtotal=invoice.subtotal,
            tax_amount=invoice.tax_amount,
            currency=invoice.currency,
            **_outcome(world, context, card, failure),
        )
    )


def of_payment(
    world: World,
    payment: Payment,
    customer: Customer | None,
    context: dict[str, Any],
    *,
    card: Card | None,
    failure: Failure,
) -> Transaction:
    """Record a declined attempt to collect a one-time payment, which has no invoice yet."""
    return world.store.transactions.put(
        Transaction(
            id=new_id("txn"),
            invoice_id=None,
            payment_id=payment.id,
            customer_id=customer.id if customer else None,
            customer_email=customer.email if customer else None,
            customer_name=customer.full_name if customer else None,
            subtotal=payment.amount,
            tax_amount=payment.tax_amount,
            currency=payment.currency,
            **_outcome(world, context, card, failure),
        )
    )


def _outcome(
    world: World, context: dict[str, Any], card: Card | None, failure: Failure | None
) -> dict[str, Any]:
    now = world.now()
    return {
        "context": context,
        "status": "failed" if failure else "succeeded",
        "card": card,
        "failure_code": failure[0] if failure else None,
        "failure_message": failure[1] if failure else None,
        "paid_at": None if failure else now,
        "created_at": now,
        "updated_at": now,
    }


def find(world: World, transaction_id: str) -> Transaction:
    """The transaction with that id. Raises ApiError: transaction_not_found."""
    transaction = world.store.transactions.get(transaction_id)
    if transaction is None:
        raise ApiError("transaction_not_found", "Transaction not found", param="id")
    return transaction


def refund(
    world: World,
    transaction: Transaction,
    amount: int | None = None,
    reason: RefundReason = "requested_by_customer",
) -> Refund:
    """Refund an amount in the minor unit. Without an amount, refund the whole rest of the payment.

    Raises ApiError: payment_failed if the transaction did not succeed, is refunded or disputed;
    validation_error if the amount is above the rest.
    """
    if transaction.status != "succeeded":
        raise ApiError("payment_failed", f"The transaction is {transaction.status}")
    left = transaction.total - transaction.refunded_amount
    returned = left if amount is None else amount
    if not 0 < returned <= left:
        raise invalid("amount", f"must be from 1 to {left}")
    now = world.now()
    transaction.refunded_amount += returned
    transaction.status = "refunded" if returned == left else "succeeded"
    transaction.updated_at = now
    world.store.transactions.put(transaction)
    events.refunded(world, transaction, returned)
    return world.store.refunds.put(
        Refund(
            id=new_id("rfd"),
            transaction_id=transaction.id,
            amount=returned,
            currency=transaction.currency,
            reason=reason,
            created_at=now,
        )
    )


def dispute(
    world: World,
    transaction: Transaction,
    amount: int | None = None,
    reason: str | None = "fraudulent",
) -> Transaction:
    """Record that a cardholder disputes a payment. Without an amount, the whole rest is disputed.

    Raises ApiError: payment_failed if the transaction did not succeed, is refunded or was disputed
    before; validation_error if the amount is above the rest.
    """
    if transaction.status != "succeeded" or transaction.dispute:
        state = transaction.status if transaction.status != "succeeded" else "disputed already"
        raise ApiError("payment_failed", f"The transaction is {state}")
    left = transaction.total - transaction.refunded_amount
    disputed = left if amount is None else amount
    if not 0 < disputed <= left:
        raise invalid("amount", f"must be from 1 to {left}")
    now = world.now()
    transaction.dispute = Dispute(amount=disputed, reason=reason, opened_at=now)
    transaction.status, transaction.updated_at = "disputed", now
    world.store.transactions.put(transaction)
    events.disputed(world, transaction, transaction.dispute)
    return transaction


def resolve(world: World, transaction: Transaction, outcome: Literal["won", "lost"]) -> Transaction:
    """Close a dispute. A won one leaves the payment succeeded, a lost one leaves it disputed.

    Raises ApiError: payment_failed if no dispute is open.
    """
    if transaction.dispute is None or not transaction.has_open_dispute:
        raise ApiError("payment_failed", "The transaction has no open dispute")
    transaction.dispute.outcome = outcome
    transaction.status = "succeeded" if outcome == "won" else "disputed"
    transaction.updated_at = world.now()
    world.store.transactions.put(transaction)
    events.dispute_resolved(world, transaction, transaction.dispute)
    return transaction


def has_open_dispute(world: World, sub: Subscription) -> bool:
    """Whether a payment of the subscription is disputed and the outcome is not known yet."""
    disputed = world.store.transactions.find("subscription_id = ? AND status = 'disputed'", sub.id)
    return any(transaction.has_open_dispute for transaction in disputed)


def check_undisputed(world: World, sub: Subscription) -> None:
    """Raises ApiError: subscription_has_open_dispute."""
    if has_open_dispute(world, sub):
        raise ApiError(
            "subscription_has_open_dispute", "A payment of this subscription is disputed"
        )
