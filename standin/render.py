"""Records in Commet's form: every key of every shape, with its forms of times and numbers."""

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from standin.catalogue import Feature, Plan, PlanFeature, Price
from standin.clock import iso, iso_or_none
from standin.entitlements import Entitlement, entitlements
from standin.models import (
    ClockRun,
    Customer,
    Endpoint,
    Invoice,
    InvoiceLine,
    Payment,
    Refund,
    Subscription,
    Transaction,
    UsageRecord,
)
from standin.world import World

Shape = dict[str, Any]
RATE_SCALE = 10_000
PROVIDER = "stripe"


def _resource(kind: str, fields: Shape) -> Shape:
    return fields | {"object": kind, "livemode": False}


def listing(items: list[Shape], next_cursor: str | None) -> Shape:
    """Returns the list envelope. It has `nextCursor` only if there is another page."""
    page: Shape = {"object": "list", "data": items, "hasMore": next_cursor is not None}
    return page | {"nextCursor": next_cursor} if next_cursor is not None else page


def deleted(kind: str, record_id: str) -> Shape:
    """The answer to a DELETE."""
    return _resource(kind, {"id": record_id, "deleted": True})


def customer_fields(customer: Customer) -> Shape:
    """Returns a customer in the form that webhooks contain."""
    return {
        "id": customer.id,
        "externalId": customer.external_id,
        "fullName": customer.full_name,
        "email": customer.email,
        "taxDocument": customer.tax_document,
        "documentType": None,
        "timezone": customer.timezone,
        "metadata": customer.metadata,
        "createdAt": iso(customer.created_at),
        "updatedAt": iso(customer.updated_at),
    }


def customer(record: Customer) -> Shape:
    """A Customer."""
    return _resource("customer", customer_fields(record))


def plan_ref(plan: Plan) -> Shape:
    """A plan by id and name."""
    return {"id": plan.id, "name": plan.name}


def plan(world: World, record: Plan) -> Shape:
    """A Plan with its features and prices."""
    created = iso(world.catalogue.created_at)
    return _resource(
        "plan",
        plan_ref(record)
        | {
            "code": record.code,
            "description": record.description,
            "consumptionModel": record.consumption_model,
            "isPublic": record.is_public,
            "isDefault": record.is_default,
            "isFree": record.is_free,
            "blockOnExhaustion": None,
            "sortOrder": record.sort_order,
            "planGroupId": record.plan_group_id,
            "metadata": record.metadata,
            "createdAt": created,
            "updatedAt": created,
            "features": [_plan_feature(world, item) for item in record.features],
            "prices": [_price(item) for item in record.prices],
            "exchangeRates": [
                {"currency": currency, "exchangeRate": 1}
                for currency in sorted(
                    {each.currency for item in record.prices for each in item.regional_prices}
                )
            ],
        },
    )


def _plan_feature(world: World, grant: PlanFeature) -> Shape:
    feature = world.catalogue.feature(grant.code)
    counted = feature is not None and feature.type != "boolean"
    overage = grant.overage
    return {
        "code": grant.code,
        "name": feature.name if feature else grant.code,
        "type": feature.type if feature else "boolean",
        "unitName": feature.unit_name if feature else None,
        "enabled": grant.enabled,
        "includedAmount": grant.included_amount if counted else None,
        "unlimited": grant.unlimited,
        "overage": {
            "enabled": overage.enabled,
            "model": "per_unit" if overage.enabled else None,
            "unitPrice": overage.unit_price,
        }
        if counted
        else None,
        "regionalPrices": [
            {
                "currency": each.currency,
                "overageUnitPrice": each.overage_unit_price,
                "autoSynced": False,
            }
            for each in grant.regional_prices
        ],
    }


def _price(price: Price) -> Shape:
    return {
        "id": price.id,
        "billingInterval": price.billing_interval,
        "price": price.price,
        "isDefault": price.is_default,
        "trialDays": price.trial_days,
        "includedBalance": price.included_balance,
        "includedCredits": price.included_credits,
        "offerId": None,
        "inheritsFromPriceId": None,
        "metadata": price.metadata,
        "marketPrices": [],
        "regionalPrices": [
            {
                "currency": each.currency,
                "price": each.price,
                "includedBalance": None,
                "autoSynced": False,
            }
            for each in price.regional_prices
        ],
    }


def feature(world: World, record: Feature) -> Shape:
    """A Feature of the organization's catalogue."""
    created = iso(world.catalogue.created_at)
    return _resource(
        "feature",
        {
            "id": record.id,
            "name": record.name,
            "code": record.code,
            "type": record.type,
            "description": record.description,
            "unitName": record.unit_name,
            "createdAt": created,
            "updatedAt": created,
        },
    )


def _subscription_base(world: World, sub: Subscription) -> Shape:
    owner = world.owner(sub)
    renews = sub.has_access and not sub.cancellation and not sub.pause
    turn = sub.trial_ends_at if sub.status == "trialing" else sub.period_end
    return {
        "id": sub.id,
        "customerId": owner.public_id,
        "plan": plan_ref(world.plan(sub)),
        "name": sub.name,
        "description": world.plan(sub).description,
        "status": sub.status,
        "billingInterval": sub.billing_interval,
        "trialEndsAt": iso_or_none(sub.trial_ends_at),
        "currentPeriod": _current_period(world, sub),
        "cancellation": _cancellation(sub),
        "cancelAtPeriodEnd": bool(sub.cancellation) and sub.status != "canceled",
        "scheduledPlanChange": _scheduled_change(world, sub),
        "startDate": iso(sub.start_date),
        "endDate": iso_or_none(sub.end_date),
        "billingDayOfMonth": sub.anchor_day,
        "nextBillingDate": iso_or_none(turn) if renews and sub.price_id else None,
        "checkoutUrl": world.checkout_url(sub),
        "createdAt": iso(sub.created_at),
        "updatedAt": iso(sub.updated_at),
        "offerApplications": [],
        "pause": _pause(sub),
        "priceId": sub.price_id,
    }


def _current_period(world: World, sub: Subscription) -> Shape | None:
    if not sub.period_start or not sub.period_end:
        return None
    paused = sub.pause is not None and sub.pause.status == "active"
    now = sub.pause.effective_at if sub.pause and paused else world.now()
    left = (sub.period_end - now) // timedelta(days=1)
    return {
        "start": iso(sub.period_start),
        "end": iso(sub.period_end),
        "daysRemaining": max(0, left),
    }


def _cancellation(sub: Subscription) -> Shape | None:
    if sub.cancellation is None:
        return None
    return {
        "scheduledAt": iso(sub.cancellation.scheduled_at),
        "reason": sub.cancellation.reason,
        "effectiveAt": iso(sub.cancellation.effective_at),
    }


def _pause(sub: Subscription) -> Shape | None:
    if sub.pause is None:
        return None
    return {
        "status": sub.pause.status,
        "mode": sub.pause.mode,
        "requestedAt": iso(sub.pause.requested_at),
        "effectiveAt": iso(sub.pause.effective_at),
        "resumeAt": iso_or_none(sub.pause.resume_at),
    }


def resume(sub: Subscription, invoice: Invoice | None) -> Shape:
    """Returns a SubscriptionResume. A charge is settled when this is answered."""
    return _resource(
        "subscription_resume",
        {
            "subscriptionId": sub.id,
            "invoiceId": invoice.id if invoice else None,
            "status": "succeeded",
        },
    )


def _scheduled_change(world: World, sub: Subscription) -> Shape | None:
    change = sub.scheduled_change
    target = world.catalogue.plan(change.plan_id) if change else None
    if change is None or target is None:
        return None
    return {
        "changeType": change.kind,
        "newPlanId": target.id,
        "newPlanName": target.name,
        "newBillingInterval": change.billing_interval,
        "scheduledFor": iso_or_none(sub.period_end),
    }


def plan_change_scheduled(world: World, sub: Subscription) -> Shape:
    """A PlanChange that waits for the end of the period."""
    change = sub.scheduled_change
    target = world.catalogue.plan(change.plan_id) if change else None
    if change is None or target is None:
        raise LookupError(f"subscription {sub.id} has no scheduled change")
    fields: Shape = {
        "outcome": "scheduled",
        "id": sub.id,
        "scheduled": True,
        "scheduledFor": iso_or_none(sub.period_end),
        "changeType": f"subscription.{change.kind}",
        "customerId": world.owner(sub).public_id,
        "newPlanId": target.id,
        "newPlanName": target.name,
    }
    if change.billing_interval:
        fields["newBillingInterval"] = change.billing_interval
    return _resource("plan_change", fields)


def plan_change_checkout(url: str) -> Shape:
    """A PlanChange that has to be paid first."""
    fields = {"outcome": "requires_checkout", "requiresCheckout": True, "checkoutUrl": url}
    return _resource("plan_change", fields)


def plan_change_completed(
    world: World,
    sub: Subscription,
    previous: Plan,
    invoice: Invoice | None,
    *,
    credit: int,
    price: int,
    tax: int,
    total: int,
) -> Shape:
    """Returns a PlanChange that has happened. Amounts are in minor units, and the total includes
    tax.

    `charge` is the new price. `creditsApplied` would be a customer's account credits, which the
    stand-in does not have. Periods of free plans are months.
    """
    fields: Shape = {
        "outcome": "completed",
        "id": sub.id,
        "scheduled": False,
        "customerId": world.owner(sub).public_id,
        "previousPlan": plan_ref(previous),
        "currentPlan": plan_ref(world.plan(sub)) | {"price": price},
        "billingInterval": sub.billing_interval or "monthly",
        "billing": {
            "credit": credit,
            "creditsApplied": 0,
            "charge": price,
            "taxAmount": tax,
            "netAmount": total - tax,
            "totalCharged": total,
            "remainingCreditBalance": 0,
        },
    }
    if invoice:
        fields["invoiceId"] = invoice.id
    return _resource("plan_change", fields)


def plan_change_preview(
    *,
    currency: str,
    credit: int,
    price: int,
    total: int,
    effective: datetime,
    days_remaining: int,
    total_days: int,
    is_upgrade: bool,
) -> Shape:
    """Returns a PreviewChange. Amounts are in minor units. The total includes tax and usage to
    be billed.
    """
    return _resource(
        "plan_change_preview",
        {
            "currency": currency,
            "currentPlanCredit": credit,
            "newPlanCharge": price,
            "estimatedTotal": total,
            "effectiveDate": iso(effective),
            "daysRemaining": days_remaining,
            "totalDays": total_days,
            "isUpgrade": is_upgrade,
        },
    )


def created_subscription(world: World, sub: Subscription) -> Shape:
    """A CreatedSubscription, with the checkout's provider."""
    provider = PROVIDER if sub.status == "pending_payment" else None
    return _resource(
        "subscription", _subscription_base(world, sub) | {"checkoutProvider": provider}
    )


def subscription_summary(world: World, sub: Subscription) -> Shape:
    """A SubscriptionSummary, as lists show it."""
    return _resource("subscription", _subscription_base(world, sub))


def subscription(world: World, sub: Subscription) -> Shape:
    """A Subscription with its features and their use."""
    record = world.plan(sub)
    return _resource(
        "subscription",
        _subscription_base(world, sub)
        | {
            "plan": plan_ref(record) | {"basePrice": world.price(sub)},
            "consumptionModel": record.consumption_model,
            "features": [_subscription_feature(item) for item in entitlements(world, sub)],
            "credits": None,
            "balance": None,
        },
    )


def _subscription_feature(item: Entitlement) -> Shape:
    head = {"code": item.feature.code, "name": item.feature.name, "type": item.feature.type}
    if item.feature.type == "boolean":
        return head | {"enabled": item.grant.enabled}
    usage: Shape = {
        "current": item.used,
        "included": item.included,
        "overageQuantity": item.overage_units,
        "unlimited": item.grant.unlimited,
    }
    if item.grant.overage.unit_price is not None:
        usage["overageUnitPrice"] = item.grant.overage.unit_price
    return head | {"usage": usage}


def feature_access_fields(world: World, item: Entitlement) -> Shape:
    """Returns a feature's access and usage in the form that webhooks contain."""
    head = {
        "code": item.feature.code,
        "name": item.feature.name,
        "unitName": item.feature.unit_name,
        "allowed": item.allowed,
        "type": item.feature.type,
    }
    if item.feature.type == "boolean":
        return head | {"enabled": item.grant.enabled}
    kind = "consumption" if item.feature.type == "usage" else "usage"
    return head | {kind: _consumption(world, item)}


def _consumption(world: World, item: Entitlement) -> Shape:
    """Returns the usage of a counted feature. Seats and quotas do not have the key `model`."""
    if item.allowance is None:
        raise LookupError(f"{item.feature.code} has no allowance period")
    period = {"start": iso(item.allowance.start), "end": iso(item.allowance.end)}
    if item.feature.type == "usage" and item.model != "metered":
        return _empty_pool(world, item, period)
    overage: Shape = {"enabled": item.overage_enabled, "units": item.overage_units}
    if item.grant.overage.unit_price:
        overage["unitPrice"] = {
            "amount": item.grant.overage.unit_price,
            "currency": world.settings.currency,
            "scale": RATE_SCALE,
        }
    fields: Shape = {
        "period": period,
        "unitsUsed": item.used,
        "includedUnits": item.included,
        "unlimited": item.grant.unlimited,
        "overage": overage,
    }
    if item.feature.type == "usage":
        fields["model"] = "metered"
    elif item.feature.type == "quota":
        fields["billedUnits"] = item.used
    return fields if item.grant.unlimited else fields | {"remainingUnits": item.remaining}


def _empty_pool(world: World, item: Entitlement, period: Shape) -> Shape:
    """Returns the consumption of a feature that uses credits or a balance, of which there is
    none.
    """
    fields: Shape = {"model": item.model, "period": period, "unitsUsed": 0, "availableUnits": 0}
    if item.model == "credits":
        return fields | {"creditsPerUnit": 1, "creditsConsumed": 0}
    currency = world.settings.currency
    return fields | {
        "spent": {"amount": 0, "currency": currency},
        "unitPrice": {
            "amount": item.grant.overage.unit_price or 0,
            "currency": currency,
            "scale": RATE_SCALE,
        },
    }


def feature_access(world: World, item: Entitlement) -> Shape:
    """A FeatureAccess."""
    return _resource("feature_access", feature_access_fields(world, item))


def usage_check(item: Entitlement, status: str, quantity: int, *, allowed: bool) -> Shape:
    """Returns a UsageCheck of the metered kind. A refusal is an answer and not an error."""
    fields: Shape = {
        "allowed": allowed,
        "subscriptionStatus": status,
        "featureCode": item.feature.code,
        "quantity": quantity,
        "consumptionModel": "metered",
        "current": item.used,
        "remaining": item.remaining,
        "unlimited": item.grant.unlimited,
        "included": item.included,
        "overageEnabled": item.overage_enabled,
        "overageUnitPrice": item.grant.overage.unit_price,
    }
    if not allowed:
        fields["reason"] = "included_limit_reached"
        fields["message"] = "The requested usage exceeds the plan's included usage limit"
    return _resource("usage_check", fields)


def usage_event(record: UsageRecord, owner: Customer) -> Shape:
    """A UsageEvent."""
    return _resource(
        "usage_event",
        {
            "id": record.id,
            "featureCode": record.feature_code,
            "value": record.value,
            "customerId": owner.public_id,
            "eventId": record.event_id,
            "ts": iso(record.ts),
            "createdAt": iso(record.created_at),
            "properties": record.properties,
        },
    )


def usage_adjustment(
    record: UsageRecord, owner: Customer, before: Decimal, after: Decimal
) -> Shape:
    """Returns a UsageAdjustment. `value` is the new total.

    Numbers are whole, as in Commet's contract. A previous total with a fraction is rounded half up,
    and the adjustment is the difference of the two shown totals.
    """
    previous, value = whole(before), whole(after)
    return _resource(
        "usage_adjustment",
        {
            "id": record.id,
            "value": value,
            "previousValue": previous,
            "adjustment": value - previous,
            "customerId": owner.public_id,
            "reason": record.reason,
            "ts": iso(record.ts),
            "createdAt": iso(record.created_at),
            "featureCode": record.feature_code,
        },
    )


def _invoice_fields(world: World, invoice: Invoice) -> Shape:
    owner = world.customer(invoice.customer_id)
    return {
        "id": invoice.id,
        "customerId": owner.public_id,
        "subscriptionId": invoice.subscription_id,
        "invoiceNumber": invoice.number,
        "status": invoice.status,
        "invoiceType": invoice.invoice_type,
        "currency": invoice.currency,
        "subtotal": invoice.subtotal,
        "discountAmount": 0,
        "taxAmount": invoice.tax_amount,
        "total": invoice.total,
        "periodStart": iso(invoice.period_start),
        "periodEnd": iso(invoice.period_end),
        "issueDate": iso(invoice.issue_date),
        "dueDate": iso(invoice.due_date),
        "memo": None,
        "metadata": {},
        "createdAt": iso(invoice.created_at),
        "updatedAt": iso(invoice.updated_at),
    }


def invoice_item(world: World, invoice: Invoice) -> Shape:
    """An InvoiceListItem."""
    return _resource("invoice", _invoice_fields(world, invoice))


def invoice(world: World, record: Invoice) -> Shape:
    """An Invoice with its lines."""
    return _resource(
        "invoice",
        _invoice_fields(world, record)
        | {
            "creditApplied": 0,
            "planName": record.plan_name,
            "poNumber": None,
            "reference": None,
            "lineItems": [_line(line) for line in record.lines],
        },
    )


def _line(line: InvoiceLine) -> Shape:
    return {
        "lineType": line.line_type,
        "featureName": line.feature_name,
        "description": line.description,
        "quantity": line.quantity,
        "unitAmount": line.unit_amount,
        "amount": line.amount,
        "includedAmount": line.included_amount,
        "usedAmount": line.used_amount,
        "overageAmount": line.overage_amount,
        "discountType": None,
        "discountValue": None,
        "discountName": None,
        "chargeType": line.charge_type,
    }


def payment(world: World, record: Payment) -> Shape:
    """A Payment: a link or a charge."""
    owner = world.store.customers.get(record.customer_id or "")
    link_id = record.id if record.kind == "link" else None
    return _resource(
        "payment",
        {
            "paymentContext": {
                "reason": "one_time_payment",
                "paymentLinkId": link_id,
                "recovery": None,
            },
            "id": record.id,
            "customerId": owner.public_id if owner else None,
            "kind": record.kind,
            "status": record.status,
            "provider": PROVIDER,
            "amountSubtotal": record.amount,
            "taxAmount": record.tax_amount,
            "amountTotal": record.total,
            "currency": record.currency,
            "description": record.description,
            "metadata": record.metadata,
            "url": f"{world.public_url}/pay/{record.token}" if record.token else None,
            "expiresAt": iso_or_none(record.expires_at),
            "createdAt": iso(record.created_at),
            "updatedAt": iso(record.updated_at),
        },
    )


def transaction_item(record: Transaction) -> Shape:
    """Returns a TransactionListItem.

    `grossAmount` is in cents of a dollar. The stand-in knows no exchange rates, so `grossAmount` is
    null for other currencies, whose amount is `presentmentAmount`.
    """
    in_dollars = record.currency == "usd"
    return _resource(
        "transaction",
        {
            "paymentContext": record.context,
            "id": record.id,
            "invoiceId": record.invoice_id,
            "grossAmount": record.total if in_dollars else None,
            "subtotal": record.subtotal,
            "taxAmount": record.tax_amount,
            "presentmentAmount": None if in_dollars else record.total,
            "currency": record.currency,
            "provider": PROVIDER,
            "paymentMethod": "card" if record.card else None,
            "subPaymentMethod": "credit_card" if record.card else None,
            "status": record.status,
            "customerEmail": record.customer_email,
            "customerName": record.customer_name,
            "paidAt": iso_or_none(record.paid_at),
            "createdAt": iso(record.created_at),
            "updatedAt": iso(record.updated_at),
        },
    )


def transaction(record: Transaction) -> Shape:
    """A Transaction; the money is available as soon as it is paid."""
    return transaction_item(record) | {"availableAt": iso_or_none(record.paid_at)}


def refund(record: Refund) -> Shape:
    """A Refund, which is final when it is answered."""
    return _resource(
        "refund",
        {
            "id": record.id,
            "transactionId": record.transaction_id,
            "amount": record.amount,
            "currency": record.currency,
            "chargeId": None,
            "status": record.status,
            "reason": record.reason,
        },
    )


def transaction_retry(original: Transaction, invoice: Invoice) -> Shape:
    """A TransactionRetry; the charge is settled when this is answered."""
    return _resource(
        "transaction_retry",
        {
            "originalTransactionId": original.id,
            "invoiceId": invoice.id,
            "status": "succeeded",
        },
    )


def webhook(endpoint: Endpoint) -> Shape:
    """A Webhook endpoint, without its secret."""
    return _resource(
        "webhook",
        {
            "id": endpoint.id,
            "url": endpoint.url,
            "events": endpoint.events,
            "description": endpoint.description,
            "isActive": endpoint.is_active,
            "apiVersion": endpoint.api_version,
            "createdAt": iso(endpoint.created_at),
        },
    )


def created_webhook(endpoint: Endpoint) -> Shape:
    """A CreatedWebhook: the only answer that shows the secret."""
    return webhook(endpoint) | {"secretKey": endpoint.secret}


def webhook_test(delivery_id: str, delivered_at: str, *, success: bool) -> Shape:
    """The outcome of a test delivery."""
    return _resource(
        "webhook_delivery",
        {"success": success, "deliveryId": delivery_id, "deliveredAt": delivered_at},
    )


def portal_session(url: str) -> Shape:
    """A portal session's address."""
    return _resource("portal_session", {"portalUrl": url})


def reactivation(sub: Subscription, invoice: Invoice) -> Shape:
    """A ReactivatedSubscription; the charge is settled when this is answered."""
    return _resource(
        "subscription_reactivation",
        {"subscriptionId": sub.id, "invoiceId": invoice.id, "status": "succeeded"},
    )


def payment_method_update(url: str) -> Shape:
    """A PaymentMethodUpdateCheckout."""
    return _resource("checkout_session", {"checkoutUrl": url})


def invoice_download(url: str, expires_at: str) -> Shape:
    """An InvoiceDownload."""
    return _resource("invoice_download_link", {"url": url, "expiresAt": expires_at})


def recovery_link(url: str, token: str) -> Shape:
    """A RecoveryLink."""
    return _resource("recovery_link", {"url": url, "token": token})


def clock_run_fields(run: ClockRun) -> Shape:
    """A run as the clock shows it."""
    done = sum(1 for item in run.items if item["status"] == "completed")
    failed = sum(1 for item in run.items if item["status"] == "failed")
    return {
        "id": run.id,
        "status": run.status,
        "startedAtTime": iso(run.started_at),
        "targetTime": iso(run.target),
        "estimatedDeadlineCount": run.estimated,
        "completedDeadlineCount": done,
        "failedDeadlineCount": failed,
        "error": run.error,
        "items": run.items,
    }


def clock_run(run: ClockRun) -> Shape:
    """A TestClockRun."""
    return _resource("test_clock_run", clock_run_fields(run))


def test_clock(world: World, latest: ClockRun | None) -> Shape:
    """A TestClock. `simulatedTime` is null until the clock has been moved."""
    now = iso(world.now())
    return _resource(
        "test_clock",
        {
            "simulatedTime": now if world.clock.moved else None,
            "isActive": world.clock.moved,
            "now": now,
            "latestRun": clock_run_fields(latest) if latest else None,
        },
    )


def whole(quantity: Decimal) -> int:
    """A quantity as the whole number an invoice line shows."""
    return int(quantity.quantize(Decimal(1), ROUND_HALF_UP))
