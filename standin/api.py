"""The endpoints below /api/v1: each reads its request, calls one function, renders the answer."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar, get_args

from standin import (
    customers,
    links,
    pauses,
    payments,
    plan_changes,
    portal,
    recovery,
    render,
    subscriptions,
    transactions,
    usage,
    webhooks,
)
from standin.charges import recovery_url
from standin.clock import iso, parse_iso
from standin.delivery import Courier
from standin.entitlements import Entitlement, denied, entitlement, entitlements
from standin.errors import ApiError, invalid
from standin.models import Invoice, Record, Subscription, Transaction
from standin.scheduler import Scheduler
from standin.schemas import (
    AdvanceClock,
    CancelSubscription,
    ChangePlan,
    ChargePayment,
    CheckUsage,
    CreateCustomer,
    CreateCustomers,
    CreatePause,
    CreatePayment,
    CreatePortalSession,
    CreateSubscription,
    CreateWebhook,
    Page,
    PreviewChange,
    Reactivate,
    SetUsage,
    TrackUsage,
    UpdateCustomer,
    UpdatePause,
    UpdatePaymentMethod,
    UpdateWebhook,
    read,
)
from standin.store import Table
from standin.wire import Encoded
from standin.world import World

R = TypeVar("R", bound=Record)
Shape = dict[str, Any]
MAX_CLOCK_STEP = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read and authenticated."""

    world: World
    courier: Courier
    scheduler: Scheduler
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False

    def required(self, name: str) -> str:
        """A query parameter that must be there. Raises ApiError: validation_error."""
        value = self.query.get(name)
        if not value:
            raise invalid(name, f"{name} is required")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to send back."""

    body: Shape | Encoded | None
    status: int = 200


Handler = Callable[[Call], Answer | Awaitable[Answer]]


def _created(body: Shape, *, new: bool) -> Answer:
    return Answer(body, 201 if new else 200)


def _page(
    call: Call,
    table: Table[R],
    conditions: dict[str, Any],
    show: Callable[[R], Shape],
) -> Answer:
    """Returns a page of records whose indexed columns have the given values. None means any
    value.
    """
    page = read(Page, dict(call.query))
    wanted = {column: value for column, value in conditions.items() if value is not None}
    condition = " AND ".join(f"{column} = ?" for column in wanted) or "1"
    records, more = table.page(
        condition, list(wanted.values()), before=_read_cursor(page.cursor), limit=page.limit
    )
    return Answer(render.listing([show(r) for r in records], _write_cursor(more)))


def _status(call: Call, model: type[Record]) -> str | None:
    """The status to filter by, if there is one. Raises ApiError: validation_error."""
    status = call.query.get("status") or None
    known = get_args(model.model_fields["status"].annotation)
    if status is not None and status not in known:
        raise invalid("status", f"must be one of {', '.join(known)}")
    return status


def _write_cursor(seq: int | None) -> str | None:
    return None if seq is None else base64.urlsafe_b64encode(f"after:{seq}".encode()).decode()


def _read_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        return int(base64.urlsafe_b64decode(cursor).decode().removeprefix("after:"))
    except (ValueError, binascii.Error):
        raise invalid("cursor", "is not a cursor of this list") from None


# Customers


def create_customer(call: Call) -> Answer:
    customer, new = customers.create(call.world, read(CreateCustomer, call.body))
    return _created(render.customer(customer), new=new)


def create_customers(call: Call) -> Answer:
    request = read(CreateCustomers, call.body)
    return Answer(customers.create_many(call.world, request.customers))


def get_customer(call: Call) -> Answer:
    return Answer(render.customer(customers.find(call.world, call.path["id"])))


def update_customer(call: Call) -> Answer:
    customer = customers.find(call.world, call.path["id"])
    request = read(UpdateCustomer, call.body)
    return Answer(render.customer(customers.update(call.world, customer, request)))


def list_customers(call: Call) -> Answer:
    conditions = {"external_id": call.query.get("externalId") or None}
    return _page(call, call.world.store.customers, conditions, render.customer)


# Plans and features


def list_plans(call: Call) -> Answer:
    private = call.query.get("includePrivate") == "true"

    def listing() -> Shape:
        plans = [p for p in call.world.catalogue.plans if p.is_public or private]
        plans.sort(key=lambda p: p.sort_order)
        return render.listing([render.plan(call.world, p) for p in plans], None)

    return Answer(call.world.written_once(("plans", private), listing))


def get_plan(call: Call) -> Answer:
    plan = call.world.catalogue.plan(call.path["id"])
    if plan is None:
        raise ApiError("plan_not_found", "Plan not found", param="id")
    return Answer(render.plan(call.world, plan))


def list_features(call: Call) -> Answer:
    found = [render.feature(call.world, f) for f in call.world.catalogue.features]
    return Answer(render.listing(found, None))


def get_feature(call: Call) -> Answer:
    feature = call.world.catalogue.feature(call.path["code"])
    if feature is None:
        raise ApiError("feature_not_found", "Feature not found", param="code")
    return Answer(render.feature(call.world, feature))


# Subscriptions


def create_subscription(call: Call) -> Answer:
    sub, new = subscriptions.create(call.world, read(CreateSubscription, call.body))
    return _created(render.created_subscription(call.world, sub), new=new)


def get_subscription(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    return Answer(render.subscription(call.world, sub))


def get_active_subscription(call: Call) -> Answer:
    customer = call.world.customer(call.required("customerId"))
    sub = subscriptions.for_customer(call.world, customer)
    return Answer(render.subscription(call.world, sub) if sub else None)


def list_subscriptions(call: Call) -> Answer:
    key = call.query.get("customerId")
    conditions = {
        "customer_id": call.world.customer(key).id if key else None,
        "status": _status(call, Subscription),
    }
    return _page(
        call,
        call.world.store.subscriptions,
        conditions,
        lambda sub: render.subscription_summary(call.world, sub),
    )


def cancel_subscription(call: Call) -> Answer:
    request = read(CancelSubscription, call.body)
    sub = subscriptions.cancel(
        call.world,
        subscriptions.find(call.world, call.path["id"]),
        reason=request.reason,
        immediate=request.immediate,
    )
    return Answer(render.subscription(call.world, sub))


def uncancel_subscription(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    return Answer(render.subscription(call.world, subscriptions.uncancel(call.world, sub)))


def reactivate_subscription(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    _refuse_offer(read(Reactivate, call.body).offer_id)
    invoice, paid = recovery.reactivate(call.world, sub)
    if paid:
        return Answer(render.reactivation(sub, invoice))
    return _declined({"recoveryUrl": recovery_url(call.world, invoice)})


def _refuse_offer(offer_id: str | None) -> None:
    # The stand-in sells no offers, so every named offer is unknown.
    if offer_id:
        raise ApiError("offer_not_found", "Offer not found", param="offerId")


def change_plan(call: Call) -> Answer:
    request = read(ChangePlan, call.body)
    _refuse_offer(request.offer_id)
    changed = plan_changes.change(
        call.world,
        subscriptions.find(call.world, call.path["id"]),
        request.new_plan_id,
        request.new_billing_interval,
        success_url=request.success_url,
    )
    match changed.outcome:
        case "requires_checkout":
            url = call.world.checkout_page(changed.sub)
            return Answer(render.plan_change_checkout(url))
        case "scheduled":
            return Answer(render.plan_change_scheduled(call.world, changed.sub))
        case "declined":
            return _declined()
        case "completed":
            return _changed(call, changed)


def _changed(call: Call, changed: plan_changes.Changed) -> Answer:
    quote = changed.quote
    if quote is None:
        raise LookupError("a plan was changed without a quote")
    shape = render.plan_change_completed(
        call.world,
        changed.sub,
        changed.previous,
        changed.invoice,
        credit=quote.credit_applied,
        price=quote.target.amount,
        tax=quote.tax,
        total=quote.total,
    )
    return Answer(shape)


def _declined(details: Any = None) -> Answer:
    # The refusal is returned and not raised, so that the failed charge and its events are stored.
    refusal = ApiError("charge_failed", "The charge was declined", details=details)
    return Answer(refusal.body(), refusal.status)


def preview_change(call: Call) -> Answer:
    request = read(PreviewChange, call.body)
    _refuse_offer(request.offer_id)
    sub = subscriptions.find(call.world, call.path["id"])
    quote, effective = plan_changes.preview(
        call.world, sub, request.plan_id, request.billing_interval
    )
    shape = render.plan_change_preview(
        currency=call.world.settings.currency,
        credit=quote.credit_applied,
        price=quote.target.amount,
        total=quote.total,
        effective=effective,
        days_remaining=quote.days_remaining,
        total_days=quote.total_days,
        is_upgrade=quote.is_upgrade,
    )
    return Answer(shape)


def pause_subscription(call: Call) -> Answer:
    request = read(CreatePause, call.body)
    sub = subscriptions.find(call.world, call.path["id"])
    paused = pauses.create(call.world, sub, request.mode, request.duration_days)
    return Answer(render.subscription(call.world, paused))


def update_pause(call: Call) -> Answer:
    request = read(UpdatePause, call.body)
    sub = subscriptions.find(call.world, call.path["id"])
    updated = pauses.update(call.world, sub, request.duration_days)
    return Answer(render.subscription(call.world, updated))


def revoke_pause(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    return Answer(render.subscription(call.world, pauses.revoke(call.world, sub)))


def resume_subscription(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    invoice, resumed = pauses.resume(call.world, sub)
    if resumed or invoice is None:
        return Answer(render.resume(sub, invoice))
    return _declined({"recoveryUrl": recovery_url(call.world, invoice)})


def update_payment_method(call: Call) -> Answer:
    request = read(UpdatePaymentMethod, call.body)
    sub = subscriptions.find(call.world, call.path["id"])
    url = links.payment_method_url(call.world, sub, request.success_url)
    return Answer(render.payment_method_update(url), 201)


def create_recovery_link(call: Call) -> Answer:
    sub = subscriptions.find(call.world, call.path["id"])
    invoice = recovery.outstanding_invoice(call.world, sub)
    url = recovery_url(call.world, invoice)
    return Answer(render.recovery_link(url, invoice.recovery_token), 201)


# Usage and feature access


def track_usage(call: Call) -> Answer:
    record, customer = usage.track(call.world, read(TrackUsage, call.body))
    return Answer(render.usage_event(record, customer), 201)


def check_usage(call: Call) -> Answer:
    request = read(CheckUsage, call.body)
    customer = call.world.customer(request.customer_id)
    sub, _ = usage.metered(call.world, customer, request.feature_code)
    item = entitlement(call.world, sub, request.feature_code)
    if item is None:
        raise LookupError(f"{request.feature_code} vanished from its plan")
    allowed = item.fits(Decimal(request.quantity))
    return Answer(render.usage_check(item, sub.status, request.quantity, allowed=allowed))


def set_usage(call: Call) -> Answer:
    request = read(SetUsage, call.body)
    record, customer, before = usage.set_total(call.world, request)
    return Answer(render.usage_adjustment(record, customer, before, Decimal(request.value)))


def get_feature_access(call: Call) -> Answer:
    code = call.path["code"]
    if call.world.catalogue.feature(code) is None:
        raise ApiError("feature_not_found", "Feature not found", param="code")
    items = _access(call)
    if items is None:
        raise ApiError(
            call.world.settings.access_without_subscription,
            "Customer has no active subscription",
            param="customerId",
        )
    item = next((item for item in items if item.feature.code == code), None)
    if item is None:
        raise ApiError("feature_not_in_plan", "The plan does not include this feature")
    return Answer(render.feature_access(call.world, item))


def list_feature_access(call: Call) -> Answer:
    found = [render.feature_access(call.world, item) for item in _access(call) or []]
    return Answer(render.listing(found, None))


def _access(call: Call) -> list[Entitlement] | None:
    """The features of the customer's plan; None for a customer without a subscription."""
    customer = call.world.customer(call.required("customerId"))
    if sub := call.world.current_subscription(customer):
        return entitlements(call.world, sub)
    pending = call.world.pending_subscription(customer)
    if pending and call.world.settings.pending_access == "denied":
        return denied(call.world, pending)
    return None


# Portal and invoices


def create_portal_session(call: Call) -> Answer:
    url = portal.open_session(call.world, read(CreatePortalSession, call.body))
    return Answer(render.portal_session(url), 201)


def list_invoices(call: Call) -> Answer:
    key = call.query.get("customerId")
    conditions = {
        "customer_id": call.world.customer(key).id if key else None,
        "status": _status(call, Invoice),
        "subscription_id": call.query.get("subscriptionId") or None,
    }
    return _page(
        call,
        call.world.store.invoices,
        conditions,
        lambda invoice: render.invoice_item(call.world, invoice),
    )


def get_invoice(call: Call) -> Answer:
    return Answer(render.invoice(call.world, _find_invoice(call)))


def create_download_link(call: Call) -> Answer:
    url, expires_at = links.invoice_url(call.world, _find_invoice(call))
    return Answer(render.invoice_download(url, expires_at), 201)


def _find_invoice(call: Call) -> Invoice:
    invoice = call.world.store.invoices.get(call.path["id"])
    if invoice is None:
        raise ApiError("invoice_not_found", "Invoice not found", param="id")
    return invoice


# Payments and transactions


def create_payment(call: Call) -> Answer:
    payment = payments.create(call.world, read(CreatePayment, call.body))
    return Answer(render.payment(call.world, payment), 201)


def charge_payment(call: Call) -> Answer:
    payment, paid = payments.charge(call.world, read(ChargePayment, call.body))
    if paid:
        return Answer(render.payment(call.world, payment), 201)
    # The refusal is returned and not raised, so that the failed payment is stored.
    refusal = ApiError(
        "payment_failed", "The charge was declined", details={"paymentId": payment.id}
    )
    return Answer(refusal.body(), refusal.status)


def get_payment(call: Call) -> Answer:
    return Answer(render.payment(call.world, payments.find(call.world, call.path["id"])))


def list_payments(call: Call) -> Answer:
    key = call.query.get("customerId")
    conditions = {"customer_id": call.world.customer(key).id if key else None}
    return _page(
        call,
        call.world.store.payments,
        conditions,
        lambda payment: render.payment(call.world, payment),
    )


def cancel_payment(call: Call) -> Answer:
    payment = payments.cancel(call.world, payments.find(call.world, call.path["id"]))
    return Answer(render.payment(call.world, payment))


def list_transactions(call: Call) -> Answer:
    conditions = {
        "status": _status(call, Transaction),
        "customer_email": call.query.get("customerEmail") or None,
    }
    return _page(call, call.world.store.transactions, conditions, render.transaction_item)


def get_transaction(call: Call) -> Answer:
    return Answer(render.transaction(transactions.find(call.world, call.path["id"])))


def refund_transaction(call: Call) -> Answer:
    transaction = transactions.find(call.world, call.path["id"])
    return Answer(render.refund(transactions.refund(call.world, transaction)), 201)


def retry_transaction(call: Call) -> Answer:
    transaction = transactions.find(call.world, call.path["id"])
    invoice, paid = recovery.retry_transaction(call.world, transaction)
    if paid:
        return Answer(render.transaction_retry(transaction, invoice))
    return _declined({"recoveryUrl": recovery_url(call.world, invoice)})


# Webhook endpoints


def create_webhook(call: Call) -> Answer:
    request = read(CreateWebhook, call.body)
    endpoint = webhooks.create(call.world, request)
    return Answer(render.created_webhook(endpoint), 201)


def list_webhooks(call: Call) -> Answer:
    return _page(call, call.world.store.endpoints, {}, render.webhook)


def get_webhook(call: Call) -> Answer:
    return Answer(render.webhook(webhooks.find(call.world, call.path["id"])))


def update_webhook(call: Call) -> Answer:
    endpoint = webhooks.find(call.world, call.path["id"])
    request = read(UpdateWebhook, call.body)
    return Answer(render.webhook(webhooks.update(call.world, endpoint, request)))


def delete_webhook(call: Call) -> Answer:
    endpoint = webhooks.find(call.world, call.path["id"])
    webhooks.delete(call.world, endpoint)
    return Answer(render.deleted("webhook", endpoint.id))


async def test_webhook(call: Call) -> Answer:
    endpoint = webhooks.find(call.world, call.path["id"])
    event = webhooks.test_event(call.world)
    delivery = await call.courier.test(endpoint, event)
    delivered_at = iso(delivery.attempts[-1].at)
    success = delivery.status == "delivered"
    return Answer(render.webhook_test(delivery.id, delivered_at, success=success))


# Test clock


def get_test_clock(call: Call) -> Answer:
    return Answer(render.test_clock(call.world, call.world.store.clock_runs.first()))


def advance_test_clock(call: Call) -> Answer:
    request = read(AdvanceClock, call.body)
    now = call.world.now()
    if request.advance_days is not None:
        target = now + timedelta(days=request.advance_days)
    else:
        target = parse_iso(request.frozen_time or "")
    if not now < target <= now + MAX_CLOCK_STEP:
        raise invalid("frozenTime", "must be later than now, by at most ten years")
    if call.scheduler.open_run():
        raise ApiError("already_scheduled", "The test clock is already being advanced")
    return Answer(render.clock_run(call.scheduler.request_run(target)), 202)


def process_billing(_: Call) -> Answer:
    raise ApiError(
        "endpoint_deprecated", "POST /test-clock advances time and processes every due deadline"
    )


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/customers", create_customer),
    ("GET", "/customers", list_customers),
    ("POST", "/customers/batch", create_customers),
    ("GET", "/customers/{id}", get_customer),
    ("PATCH", "/customers/{id}", update_customer),
    ("GET", "/plans", list_plans),
    ("GET", "/plans/{id}", get_plan),
    ("GET", "/features", list_features),
    ("GET", "/features/{code}", get_feature),
    ("POST", "/subscriptions", create_subscription),
    ("GET", "/subscriptions", list_subscriptions),
    ("GET", "/subscriptions/active", get_active_subscription),
    ("GET", "/subscriptions/{id}", get_subscription),
    ("POST", "/subscriptions/{id}/cancel", cancel_subscription),
    ("POST", "/subscriptions/{id}/uncancel", uncancel_subscription),
    ("POST", "/subscriptions/{id}/change-plan", change_plan),
    ("POST", "/subscriptions/{id}/preview-change", preview_change),
    ("POST", "/subscriptions/{id}/pause", pause_subscription),
    ("PATCH", "/subscriptions/{id}/pause", update_pause),
    ("DELETE", "/subscriptions/{id}/pause", revoke_pause),
    ("POST", "/subscriptions/{id}/resume", resume_subscription),
    ("POST", "/subscriptions/{id}/payment-method/update", update_payment_method),
    ("POST", "/subscriptions/{id}/reactivate", reactivate_subscription),
    ("POST", "/subscriptions/{id}/recovery-links", create_recovery_link),
    ("POST", "/usage/events", track_usage),
    ("POST", "/usage/check", check_usage),
    ("PUT", "/usage", set_usage),
    ("GET", "/feature-access", list_feature_access),
    ("GET", "/feature-access/{code}", get_feature_access),
    ("POST", "/portal/sessions", create_portal_session),
    ("GET", "/invoices", list_invoices),
    ("GET", "/invoices/{id}", get_invoice),
    ("POST", "/invoices/{id}/download-links", create_download_link),
    ("POST", "/payments", create_payment),
    ("GET", "/payments", list_payments),
    ("POST", "/payments/charge", charge_payment),
    ("GET", "/payments/{id}", get_payment),
    ("POST", "/payments/{id}/cancel", cancel_payment),
    ("GET", "/transactions", list_transactions),
    ("GET", "/transactions/{id}", get_transaction),
    ("POST", "/transactions/{id}/refund", refund_transaction),
    ("POST", "/transactions/{id}/retry", retry_transaction),
    ("POST", "/webhooks", create_webhook),
    ("GET", "/webhooks", list_webhooks),
    ("GET", "/webhooks/{id}", get_webhook),
    ("PATCH", "/webhooks/{id}", update_webhook),
    ("DELETE", "/webhooks/{id}", delete_webhook),
    ("POST", "/webhooks/{id}/test", test_webhook),
    ("GET", "/test-clock", get_test_clock),
    ("POST", "/test-clock", advance_test_clock),
    ("POST", "/test-clock/process-billing", process_billing),
)
