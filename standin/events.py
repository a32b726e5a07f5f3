"""Webhook payloads: one function per family of events. Each fills the keys that Commet
documents.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from standin.catalogue import Plan
from standin.clock import iso, iso_or_none
from standin.entitlements import entitlements
from standin.models import (
    Card,
    Customer,
    Dispute,
    Invoice,
    Pause,
    Payment,
    Subscription,
    Transaction,
    UsageRecord,
)
from standin.render import PROVIDER, customer_fields, feature_access_fields, plan_ref
from standin.world import World

EVENT_NAMES = frozenset(
    [
        "subscription.created",
        "subscription.activated",
        "subscription.reactivated",
        "subscription.pause_scheduled",
        "subscription.pause_updated",
        "subscription.pause_revoked",
        "subscription.paused",
        "subscription.resumed",
        "subscription.resume_failed",
        "subscription.canceled",
        "subscription.updated",
        "subscription.plan_changed",
        "subscription.cancellation_scheduled",
        "subscription.cancellation_revoked",
        "subscription.plan_change_scheduled",
        "subscription.plan_change_revoked",
        "subscription.past_due",
        "trial.started",
        "trial.converted",
        "trial.expired",
        "trial.will_end",
        "trial.checkout_ready",
        "checkout.ready",
        "payment.received",
        "payment.failed",
        "payment.recovered",
        "payment.retry_failed",
        "payment.refunded",
        "payment.disputed",
        "payment.dispute_resolved",
        "payment_link.created",
        "payment_link.completed",
        "payment_link.failed",
        "payment_link.canceled",
        "invoice.created",
        "invoice.voided",
        "invoice.overdue",
        "invoice.upcoming",
        "payment_method.attached",
        "payment_method.updated",
        "customer.created",
        "customer.updated",
        "customer.state_changed",
        "plan_grant.created",
        "plan_grant.updated",
        "plan_grant.expired",
        "plan_grant.revoked",
        "credits.granted",
        "credits.purchased",
        "credits.low",
        "credits.depleted",
        "credits.expired",
        "balance.topped_up",
        "balance.low",
        "balance.depleted",
        "quota.threshold_reached",
        "quota.exceeded",
        "seats.updated",
        "seats.limit_reached",
        "addon.activated",
        "addon.deactivated",
        "usage.recorded",
        "payout.available",
        "payout.created",
        "payout.paid",
        "payout.failed",
    ]
)

Trigger = Literal[
    "subscription_created",
    "subscription_activated",
    "subscription_canceled",
    "subscription_paused",
    "subscription_resumed",
    "plan_change",
    "past_due",
    "trial_started",
    "trial_converted",
    "trial_expired",
    "cancellation_scheduled",
    "cancellation_revoked",
    "quota_exceeded",
]

ChargeReason = Literal[
    "first_subscription_payment",
    "trial_conversion",
    "recurring_billing",
    "plan_change",
    "reactivation",
    "subscription_resume",
    "overage",
    "one_time_payment",
]


@dataclass(frozen=True, slots=True)
class Recovery:
    """A further attempt to collect an invoice: the number of an automatic one, 0 for a manual
    one.
    """

    attempt: int = 0
    max_attempts: int = 0

    def shown(self) -> dict[str, Any]:
        """Returns the attempt in the form that a payment's context shows."""
        if not self.attempt:
            return {"type": "payment_recovery"}
        return {
            "type": "dunning_retry",
            "attempt": self.attempt,
            "maxAttempts": self.max_attempts,
        }


@dataclass(frozen=True, slots=True)
class PlanChangeAmounts:
    """What a plan change has cost, in the minor unit."""

    credit: int = 0
    charge: int = 0
    total_charged: int = 0


def _about(sub: Subscription, customer: Customer) -> dict[str, Any]:
    return {"subscriptionId": sub.id, "customerId": customer.public_id}


def customer_event(world: World, name: str, customer: Customer) -> None:
    """customer.created and customer.updated: the customer itself."""
    world.emit(name, customer, customer_fields(customer))


def created(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.created."""
    world.emit(
        "subscription.created",
        customer,
        _about(sub, customer)
        | {
            "planId": sub.plan_id,
            "planName": world.plan(sub).name,
            "status": sub.status,
            "startDate": iso(sub.start_date),
            "name": sub.custom_name,
        },
    )


def activated(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    """subscription.activated; `provider` is null when nothing was charged."""
    world.emit("subscription.activated", customer, _activation(sub, customer, invoice))


def reactivated(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    """subscription.reactivated."""
    data = _activation(sub, customer, invoice) | {"provider": PROVIDER}
    world.emit("subscription.reactivated", customer, data)


def _activation(sub: Subscription, customer: Customer, invoice: Invoice) -> dict[str, Any]:
    return (
        _about(sub, customer)
        | _period(sub)
        | {
            "status": sub.status,
            "name": sub.custom_name,
            "invoiceId": invoice.id,
            "invoiceNumber": invoice.number,
            "invoiceTotal": invoice.total,
            "invoiceCurrency": invoice.currency,
            "provider": PROVIDER if invoice.total else None,
        }
    )


def _period(sub: Subscription) -> dict[str, Any]:
    if not sub.period_start or not sub.period_end:
        return {}
    return {"currentPeriodStart": iso(sub.period_start), "currentPeriodEnd": iso(sub.period_end)}


def _ending(sub: Subscription) -> dict[str, Any]:
    data: dict[str, Any] = {
        "status": sub.status,
        "cancelReason": sub.cancellation.reason if sub.cancellation else sub.ended_reason,
    }
    if sub.canceled_at:
        data["canceledAt"] = iso(sub.canceled_at)
    if sub.end_date:
        data["endDate"] = iso(sub.end_date)
    return data


def updated(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.updated."""
    world.emit("subscription.updated", customer, _about(sub, customer) | _ending(sub))


def canceled(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.canceled."""
    world.emit("subscription.canceled", customer, _about(sub, customer) | _ending(sub))


def cancellation_scheduled(
    world: World, sub: Subscription, customer: Customer, effective_at: datetime
) -> None:
    """subscription.cancellation_scheduled."""
    data = _about(sub, customer) | _ending(sub) | {"effectiveAt": iso(effective_at)}
    data.pop("endDate", None)
    world.emit("subscription.cancellation_scheduled", customer, data)


def cancellation_revoked(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.cancellation_revoked."""
    data = _about(sub, customer) | {"status": sub.status}
    if sub.period_end:
        data["currentPeriodEnd"] = iso(sub.period_end)
    world.emit("subscription.cancellation_revoked", customer, data)


def past_due(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    """subscription.past_due."""
    data = {"status": sub.status, "invoiceId": invoice.id, "invoiceNumber": invoice.number}
    world.emit("subscription.past_due", customer, _about(sub, customer) | data)


def plan_changed(
    world: World,
    sub: Subscription,
    customer: Customer,
    previous: Plan,
    amounts: PlanChangeAmounts,
) -> None:
    """subscription.plan_changed; `sub` is on its new plan already."""
    data = {
        "previousPlan": plan_ref(previous),
        "currentPlan": plan_ref(world.plan(sub)),
        "billingInterval": sub.billing_interval,
        "credit": amounts.credit,
        "charge": amounts.charge,
        "totalCharged": amounts.total_charged,
    }
    world.emit("subscription.plan_changed", customer, _about(sub, customer) | data)


def plan_change_scheduled(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.plan_change_scheduled: what `scheduled_change` says."""
    data = _planned(world, sub, "scheduledPlan", "scheduledBillingInterval")
    data["effectiveAt"] = iso_or_none(sub.period_end)
    world.emit("subscription.plan_change_scheduled", customer, _about(sub, customer) | data)


def plan_change_revoked(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.plan_change_revoked: what `scheduled_change` says, before it is replaced."""
    data = _planned(world, sub, "revokedPlan", "revokedBillingInterval")
    world.emit("subscription.plan_change_revoked", customer, _about(sub, customer) | data)


def _planned(world: World, sub: Subscription, plan: str, interval: str) -> dict[str, Any]:
    change = sub.scheduled_change
    target = world.catalogue.plan(change.plan_id) if change else None
    if change is None or target is None:
        raise LookupError(f"subscription {sub.id} has no scheduled change")
    return {
        "status": sub.status,
        "currentPlan": plan_ref(world.plan(sub)),
        plan: plan_ref(target),
        "billingInterval": sub.billing_interval,
        interval: change.billing_interval,
    }


def pause_scheduled(world: World, sub: Subscription, customer: Customer, pause: Pause) -> None:
    """subscription.pause_scheduled."""
    data = {"status": sub.status, "mode": pause.mode} | _pause_dates(pause)
    world.emit("subscription.pause_scheduled", customer, _about(sub, customer) | data)


def pause_updated(world: World, sub: Subscription, customer: Customer, pause: Pause) -> None:
    """subscription.pause_updated."""
    data = {"status": sub.status} | _pause_dates(pause)
    world.emit("subscription.pause_updated", customer, _about(sub, customer) | data)


def pause_revoked(world: World, sub: Subscription, customer: Customer) -> None:
    """subscription.pause_revoked."""
    data = _about(sub, customer) | {"status": sub.status}
    world.emit("subscription.pause_revoked", customer, data)


def paused(world: World, sub: Subscription, customer: Customer, pause: Pause) -> None:
    """subscription.paused."""
    data = {"status": sub.status, "mode": pause.mode} | _pause_dates(pause)
    world.emit("subscription.paused", customer, _about(sub, customer) | data)


def _pause_dates(pause: Pause) -> dict[str, Any]:
    return {"effectiveAt": iso(pause.effective_at), "resumeAt": iso_or_none(pause.resume_at)}


def resumed(
    world: World, sub: Subscription, customer: Customer, mode: str, invoice: Invoice | None
) -> None:
    """subscription.resumed."""
    data = {
        "status": sub.status,
        "mode": mode,
        "resumedAt": iso(world.now()),
        "invoiceId": invoice.id if invoice else None,
    }
    world.emit("subscription.resumed", customer, _about(sub, customer) | data)


def resume_failed(world: World, sub: Subscription, customer: Customer, invoice: Invoice) -> None:
    """subscription.resume_failed."""
    data = {"status": sub.status, "invoiceId": invoice.id, "failedAt": iso(world.now())}
    world.emit("subscription.resume_failed", customer, _about(sub, customer) | data)


def trial_converted(world: World, sub: Subscription, customer: Customer) -> None:
    """trial.converted: a plan change has ended the trial."""
    data = {"status": sub.status, "planId": sub.plan_id, "planName": world.plan(sub).name}
    world.emit("trial.converted", customer, _about(sub, customer) | data)


def trial_event(world: World, name: str, sub: Subscription, customer: Customer) -> None:
    """trial.started, trial.will_end and trial.expired."""
    data = {
        "status": sub.status,
        "planId": sub.plan_id,
        "planName": world.plan(sub).name,
        "trialEndsAt": iso_or_none(sub.trial_ends_at),
    }
    world.emit(name, customer, _about(sub, customer) | data)


def checkout_ready(
    world: World, sub: Subscription, customer: Customer, invoice: Invoice | None
) -> None:
    """checkout.ready, or trial.checkout_ready when only a card has to be given."""
    data: dict[str, Any] = {"checkoutUrl": world.checkout_url(sub)}
    if invoice is None:
        data |= {"planName": world.plan(sub).name, "trialDays": sub.trial_days}
        world.emit("trial.checkout_ready", customer, _about(sub, customer) | data)
        return
    data |= {
        "invoiceId": invoice.id,
        "invoiceNumber": invoice.number,
        "invoiceTotal": invoice.total,
        "invoiceCurrency": invoice.currency,
    }
    world.emit("checkout.ready", customer, _about(sub, customer) | data)


def invoice_event(world: World, name: str, invoice: Invoice, customer: Customer) -> None:
    """invoice.created, invoice.voided and invoice.overdue."""
    world.emit(
        name,
        customer,
        {
            "invoiceId": invoice.id,
            "invoiceNumber": invoice.number,
            "invoiceStatus": invoice.status,
            "periodStart": iso(invoice.period_start),
            "periodEnd": iso(invoice.period_end),
            "issueDate": iso(invoice.issue_date),
            "dueDate": iso(invoice.due_date),
            "currency": invoice.currency,
            "subtotal": invoice.subtotal,
            "total": invoice.total,
            "customerId": customer.public_id,
            "subscriptionId": invoice.subscription_id,
        },
    )


def invoice_upcoming(world: World, sub: Subscription, customer: Customer) -> None:
    """invoice.upcoming."""
    data = {
        "status": sub.status,
        "planId": sub.plan_id,
        "planName": world.plan(sub).name,
        "billingInterval": sub.billing_interval,
        "currentPeriodEnd": iso_or_none(sub.period_end),
    }
    world.emit("invoice.upcoming", customer, _about(sub, customer) | data)


def _payment(invoice: Invoice, customer: Customer) -> dict[str, Any]:
    return {
        "invoiceId": invoice.id,
        "invoiceNumber": invoice.number,
        "customerId": customer.public_id,
        "subscriptionId": invoice.subscription_id,
        "provider": PROVIDER,
    }


def payment_received(
    world: World, invoice: Invoice, customer: Customer, transaction: Transaction
) -> None:
    """payment.received. The fee behind `orgNetAmount` is invented: 5 % and 50 minor units."""
    fee = (invoice.subtotal * 5 + 50) // 100 + 50
    world.emit(
        "payment.received",
        customer,
        _payment(invoice, customer)
        | {
            "paymentContext": transaction.context,
            "invoiceTotal": invoice.total,
            "paymentTransactionId": transaction.id,
            "paymentMethod": "card",
            "subPaymentMethod": "credit_card",
            "grossAmount": invoice.total,
            "currency": invoice.currency,
            "orgNetAmount": max(0, invoice.subtotal - fee),
            "customerEmail": customer.email,
            "paidAt": iso(world.now()),
        },
    )


def payment_failed(
    world: World,
    invoice: Invoice,
    customer: Customer,
    transaction: Transaction,
    *,
    recovery_url: str | None,
) -> None:
    """payment.failed, with the provider's decline code and message."""
    world.emit(
        "payment.failed",
        customer,
        _payment(invoice, customer)
        | {"paymentContext": transaction.context, "recoveryUrl": recovery_url}
        | _decline(transaction),
    )


def _decline(transaction: Transaction) -> dict[str, Any]:
    return {
        "paymentMethod": "card",
        "subPaymentMethod": None,
        "failureCode": transaction.failure_code or "card_declined",
        "failureMessage": transaction.failure_message or "The card was declined.",
    }


def payment_recovered(world: World, invoice: Invoice, customer: Customer) -> None:
    """payment.recovered."""
    data = {"invoiceTotal": invoice.total, "paymentMethod": "card", "subPaymentMethod": None}
    world.emit("payment.recovered", customer, _payment(invoice, customer) | data)


def payment_retry_failed(world: World, invoice: Invoice, customer: Customer, why: str) -> None:
    """payment.retry_failed: dunning is over."""
    world.emit("payment.retry_failed", customer, _payment(invoice, customer) | {"reason": why})


def refunded(world: World, transaction: Transaction, amount: int) -> None:
    """payment.refunded; `amount` is what was given back, in the minor unit."""
    customer, about = _about_transaction(world, transaction)
    world.emit("payment.refunded", customer, about | {"refundAmount": amount})


def disputed(world: World, transaction: Transaction, dispute: Dispute) -> None:
    """payment.disputed."""
    customer, about = _about_transaction(world, transaction)
    world.emit("payment.disputed", customer, about | _dispute(dispute))


def dispute_resolved(world: World, transaction: Transaction, dispute: Dispute) -> None:
    """payment.dispute_resolved, of a dispute that has an outcome."""
    customer, about = _about_transaction(world, transaction)
    data = about | _dispute(dispute) | {"outcome": dispute.outcome}
    world.emit("payment.dispute_resolved", customer, data)


def _dispute(dispute: Dispute) -> dict[str, Any]:
    return {"disputeAmount": dispute.amount, "disputeReason": dispute.reason}


def _about_transaction(
    world: World, transaction: Transaction
) -> tuple[Customer | None, dict[str, Any]]:
    invoice = world.store.invoices.get(transaction.invoice_id or "")
    customer = world.store.customers.get(invoice.customer_id) if invoice else None
    return customer, {
        "paymentTransactionId": transaction.id,
        "provider": PROVIDER,
        "paymentLinkId": transaction.context["paymentLinkId"],
        "invoiceId": invoice.id if invoice else None,
        "invoiceNumber": invoice.number if invoice else None,
        "customerId": customer.public_id if customer else None,
        "subscriptionId": transaction.subscription_id,
        "currency": transaction.currency,
    }


def payment_link(world: World, name: str, payment: Payment) -> None:
    """payment_link.created and payment_link.canceled."""
    customer, about = _about_link(world, payment)
    world.emit(name, customer, about)


def payment_link_completed(
    world: World, payment: Payment, invoice: Invoice, transaction: Transaction
) -> None:
    """payment_link.completed: after this event, the seller hands out the purchase."""
    customer, about = _about_link(world, payment)
    data = {
        "paymentContext": transaction.context,
        "invoiceId": invoice.id,
        "invoiceNumber": invoice.number,
        "paymentTransactionId": transaction.id,
        "paymentMethod": "card",
        "subPaymentMethod": "credit_card",
    }
    world.emit("payment_link.completed", customer, about | data)


def payment_link_failed(world: World, payment: Payment, transaction: Transaction) -> None:
    """payment_link.failed; the link can be paid with another card."""
    customer, about = _about_link(world, payment)
    data = {"paymentContext": transaction.context} | _decline(transaction)
    world.emit("payment_link.failed", customer, about | data)


def _about_link(world: World, payment: Payment) -> tuple[Customer | None, dict[str, Any]]:
    customer = world.store.customers.get(payment.customer_id or "")
    return customer, {
        "paymentId": payment.id,
        "status": payment.status,
        "amount": payment.total,
        "currency": payment.currency,
        "description": payment.description,
        "customerId": customer.public_id if customer else None,
    }


def payment_method(
    world: World,
    name: str,
    customer: Customer,
    sub: Subscription | None,
    card: Card | None = None,
) -> None:
    """payment_method.attached (with its subscription) and payment_method.updated (without).

    About the default card, unless another one is given.
    """
    card = card or customer.card
    data: dict[str, Any] = {
        "customerId": customer.public_id,
        "paymentMethod": "card",
        "card": card
        and {
            "brand": card.brand,
            "last4": card.last4,
            "expMonth": card.exp_month,
            "expYear": card.exp_year,
        },
    }
    if sub is not None:
        data["subscriptionId"] = sub.id
    world.emit(name, customer, data)


def usage_recorded(
    world: World, record: UsageRecord, sub: Subscription, customer: Customer, *, delay: float
) -> None:
    """usage.recorded."""
    world.emit(
        "usage.recorded",
        customer,
        _about(sub, customer)
        | {
            "usageEventId": record.id,
            "featureCode": record.feature_code,
            "value": record.value,
            "ts": iso(record.ts),
        },
        delay=delay,
    )


def quota_event(
    world: World,
    name: str,
    sub: Subscription,
    customer: Customer,
    data: dict[str, Any],
    *,
    delay: float,
) -> None:
    """quota.threshold_reached and quota.exceeded."""
    world.emit(name, customer, _about(sub, customer) | data, delay=delay)


def state_changed(world: World, customer: Customer, trigger: Trigger) -> None:
    """customer.state_changed: the customer's state after an event."""
    world.emit("customer.state_changed", customer, state_snapshot(world, customer, trigger))


def state_snapshot(world: World, customer: Customer, trigger: str) -> dict[str, Any]:
    """Returns what the customer can access now. A subscription that waits for payment is
    included.
    """
    sub = world.current_subscription(customer) or world.pending_subscription(customer)
    data: dict[str, Any] = {
        "customerId": customer.public_id,
        "trigger": trigger,
        "status": "none",
        "subscriptionId": None,
        "plan": None,
        "billingInterval": None,
        "consumptionModel": None,
        "features": [],
        "seats": [],
        "credits": None,
        "balance": None,
    }
    if sub is None:
        return data
    plan = world.plan(sub)
    return data | {
        "status": sub.status,
        "subscriptionId": sub.id,
        "plan": plan_ref(plan),
        "billingInterval": sub.billing_interval,
        "consumptionModel": plan.consumption_model,
        "features": [
            feature_access_fields(world, item)
            for item in entitlements(world, sub)
            if item.feature.type == "boolean" or item.allowance
        ],
    }
