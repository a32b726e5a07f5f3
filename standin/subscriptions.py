"""What callers and customers do with a subscription: start, pay, cancel, undo a cancellation."""

from dataclasses import dataclass
from typing import Any

from standin import cards, events
from standin.cards import CardForm, CardRefusedError, accept
from standin.catalogue import Plan, Price
from standin.charges import charge
from standin.clock import DAY, midnight, parse_iso
from standin.errors import ApiError, invalid
from standin.ids import new_id, new_secret
from standin.invoices import base_line, close_unpaid, draw_up, overage_lines
from standin.models import Cancellation, Card, Customer, Invoice, Subscription
from standin.periods import open_period, period_end
from standin.render import PROVIDER
from standin.schemas import CreateSubscription
from standin.transactions import of_invoice, payment_context
from standin.world import World


@dataclass(frozen=True, slots=True)
class _Order:
    """A request for a subscription, resolved against the catalogue."""

    plan: Plan
    price: Price | None
    trial_days: int
    cancel_at_period_end: bool

    @property
    def terms(self) -> dict[str, Any]:
        """A pending checkout is reused only for a request with these same terms."""
        return {
            "planId": self.plan.id,
            "priceId": self.price.id if self.price else None,
            "trialDays": self.trial_days,
            "cancelAtPeriodEnd": self.cancel_at_period_end,
        }


def create(world: World, request: CreateSubscription) -> tuple[Subscription, bool]:
    """Start a subscription. Returns True if it is new, False if a pending checkout was reused.

    Raises ApiError: customer_not_found, plan_not_found, price_not_found, no_prices_configured,
    already_has_active_subscription; and, about a parameter that the stand-in does not support:
    validation_error, offer_not_found, promo_code_not_found, card_promotions_not_available,
    provider_unsupported, feature_not_found (a seat feature).
    """
    customer = world.customer(request.customer_id)
    _refuse_unsupported(world, request)
    order = _resolve(world, request)
    if world.current_subscription(customer):
        raise ApiError(
            "already_has_active_subscription",
            "Customer already has an active subscription",
            param="customerId",
        )
    pending = world.pending_subscription(customer)
    if pending and pending.terms == order.terms:
        return _reuse(world, pending, request), False
    if pending:
        _replace(world, pending, customer)
    return _start(world, customer, order, request), True


def _refuse_unsupported(world: World, request: CreateSubscription) -> None:
    """Raises ApiError for a parameter that the stand-in does not support. The error names the
    parameter.
    """
    # The stand-in sells no offers, promotions or seats, so every named one is unknown.
    if request.offer_id:
        raise ApiError("offer_not_found", "Offer not found", param="offerId")
    if request.promo_code:
        raise ApiError("promo_code_not_found", "Promo code not found", param="promoCode")
    if request.card_promotion_id:
        raise ApiError(
            "card_promotions_not_available",
            "Card promotions are not available to this organization",
            param="cardPromotionId",
        )
    if request.provider not in {None, PROVIDER}:
        raise ApiError(
            "provider_unsupported",
            f"The only payment provider here is {PROVIDER}",
            param="provider",
        )
    if request.initial_seats:
        raise ApiError("feature_not_found", "Seat feature not found", param="initialSeats")
    if request.prepaid_periods > 1:
        raise invalid("prepaidPeriods", "Paying several periods in advance is not supported here")
    start = parse_iso(request.start_date) if request.start_date else world.now()
    if midnight(start) != midnight(world.now()):
        raise invalid("startDate", "Starting on another day than today is not supported here")


def _refuse_for_plan(request: CreateSubscription, plan: Plan, price: Price | None) -> None:
    """Raises ApiError for a parameter that contradicts the plan or its price. The error names
    it.
    """
    if price is None:
        if request.price_id:
            raise ApiError("price_not_found", "A free plan has no prices", param="priceId")
        if request.custom_trial_days:
            raise invalid("customTrialDays", "A free plan has no trial")
    elif request.price_id and request.billing_interval not in {None, price.billing_interval}:
        raise invalid("billingInterval", f"The price is {price.billing_interval}")
    one_time = price is not None and price.billing_interval == "one_time"
    if request.cancel_at_period_end and (plan.is_free or one_time):
        raise invalid("cancelAtPeriodEnd", "Only a paid recurring plan has a period to end with")


def _resolve(world: World, request: CreateSubscription) -> _Order:
    plan = world.catalogue.plan(request.plan_id or request.plan_code or "")
    field = "planId" if request.plan_id else "planCode"
    if plan is None or (request.plan_id or request.plan_code) != (
        plan.id if request.plan_id else plan.code
    ):
        raise ApiError("plan_not_found", "Plan not found", param=field)
    if plan.is_free:
        _refuse_for_plan(request, plan, None)
        return _Order(plan, None, 0, cancel_at_period_end=False)
    if not plan.prices:
        raise ApiError("no_prices_configured", "The plan has no prices", param=field)
    price = _pick_price(plan, request)
    _refuse_for_plan(request, plan, price)
    return _Order(plan, price, _trial_days(request, price), request.cancel_at_period_end)


def _trial_days(request: CreateSubscription, price: Price) -> int:
    if request.skip_trial or request.cancel_at_period_end:
        return 0
    return price.trial_days if request.custom_trial_days is None else request.custom_trial_days


def _pick_price(plan: Plan, request: CreateSubscription) -> Price:
    if request.price_id:
        price = next((p for p in plan.prices if p.id == request.price_id), None)
        if price is None:
            raise ApiError("price_not_found", "Price not found", param="priceId")
        return price
    price = plan.price_for(request.billing_interval)
    if price is None:
        raise ApiError(
            "price_not_found", "The plan has no price for that interval", param="billingInterval"
        )
    return price


def _reuse(world: World, pending: Subscription, request: CreateSubscription) -> Subscription:
    if request.success_url and request.success_url != pending.success_url:
        pending.success_url = request.success_url
        world.store.subscriptions.put(pending)
    return pending


def _replace(world: World, pending: Subscription, customer: Customer) -> None:
    """End a pending subscription and its link. Sends no event, because it never gave access."""
    pending.status = "canceled"
    pending.canceled_at = pending.end_date = pending.updated_at = world.now()
    world.store.subscriptions.put(pending)
    _void_first_invoice(world, pending, customer)


def _void_first_invoice(world: World, sub: Subscription, customer: Customer) -> None:
    invoice = world.store.invoices.get(sub.first_invoice_id or "")
    if invoice and invoice.status == "outstanding":
        close_unpaid(world, invoice, customer, "void")


def _start(
    world: World, customer: Customer, order: _Order, request: CreateSubscription
) -> Subscription:
    now = world.now()
    sub = Subscription(
        id=new_id("sub"),
        customer_id=customer.id,
        plan_id=order.plan.id,
        price_id=order.price.id if order.price else None,
        billing_interval=order.price.billing_interval if order.price else None,
        name=request.name or order.plan.name,
        custom_name=request.name,
        status="active" if order.plan.is_free else "pending_payment",
        terms=order.terms,
        start_date=now,
        created_at=now,
        updated_at=now,
        anchor_day=now.day,
        trial_days=order.trial_days,
        success_url=request.success_url,
        cancel_when_active=order.cancel_at_period_end,
    )
    if order.plan.is_free:
        _activate_free(world, sub, customer)
    else:
        _await_payment(world, sub, customer)
    return sub


def _activate_free(world: World, sub: Subscription, customer: Customer) -> None:
    open_period(sub, midnight(world.now()))
    world.store.subscriptions.put(sub)
    # There is no invoice, and so no subscription.activated, because that event names an invoice.
    events.created(world, sub, customer)
    events.state_changed(world, customer, "subscription_created")
    events.state_changed(world, customer, "subscription_activated")


def _await_payment(world: World, sub: Subscription, customer: Customer) -> None:
    sub.checkout_token = new_secret("tok")
    world.store.subscriptions.put(sub)
    events.created(world, sub, customer)
    events.state_changed(world, customer, "subscription_created")
    invoice = None if sub.trial_days else _first_invoice(world, sub)
    events.checkout_ready(world, sub, customer, invoice)


def _first_invoice(world: World, sub: Subscription) -> Invoice:
    start = sub.period_start or midnight(world.now())
    end = period_end(start, sub.billing_interval, sub.anchor_day) or start
    invoice = draw_up(world, sub, [base_line(world, sub)], period=(start, end))
    sub.first_invoice_id = invoice.id
    world.store.subscriptions.put(sub)
    return invoice


def pay_checkout(world: World, sub: Subscription, form: CardForm) -> None:
    """Pay a pending checkout, or save the card that its trial asks for.

    Raises CardFormError if the form is wrong, and CardRefusedError if the card is declined. The
    subscription then still waits for payment. The decline has to be recorded in a database
    transaction of its own (`note_declined_checkout`).
    """
    customer = world.owner(sub)
    card = accept(form, world.now())
    if card.charge_failure and not sub.trial_days:
        raise CardRefusedError(card.charge_failure)
    cards.keep(customer, card)
    world.store.customers.put(customer)
    if sub.trial_days:
        _begin_trial(world, sub, customer)
    else:
        _begin_paid(world, sub, customer)
    if sub.cancel_when_active:
        _schedule_cancellation(world, sub, None)


def note_declined_checkout(
    world: World, sub: Subscription, card: Card, failure: tuple[str, str]
) -> None:
    """Record that a first payment was declined. The link remains valid.

    Sends payment.failed only if the settings say so, because sources disagree about that event.
    """
    invoice = world.store.invoices.get(sub.first_invoice_id or "")
    if invoice is None:
        return
    customer = world.owner(sub)
    context = payment_context("first_subscription_payment")
    transaction = of_invoice(world, invoice, customer, context, card=card, failure=failure)
    if world.settings.declined_checkout == "event":
        url = world.checkout_url(sub)
        events.payment_failed(world, invoice, customer, transaction, recovery_url=url)


def _begin_trial(world: World, sub: Subscription, customer: Customer) -> None:
    now = world.now()
    sub.status = "trialing"
    sub.anchor_day = now.day
    open_period(sub, midnight(now))
    sub.trial_ends_at = now + sub.trial_days * DAY
    sub.period_end = sub.trial_ends_at
    if sub.allowance:
        sub.allowance.end = min(sub.allowance.end, sub.trial_ends_at)
    sub.upcoming_noted = False
    sub.updated_at = now
    world.store.subscriptions.put(sub)
    events.trial_event(world, "trial.started", sub, customer)
    events.payment_method(world, "payment_method.attached", customer, sub)
    events.state_changed(world, customer, "trial_started")


def _begin_paid(world: World, sub: Subscription, customer: Customer) -> None:
    now = world.now()
    invoice = world.store.invoices.get(sub.first_invoice_id or "")
    if invoice is None:
        raise LookupError(f"subscription {sub.id} has no first invoice")
    sub.status = "active"
    sub.anchor_day = now.day
    open_period(sub, midnight(now))
    sub.updated_at = now
    world.store.subscriptions.put(sub)
    if sub.period_start and sub.period_end:
        invoice.period_start, invoice.period_end = sub.period_start, sub.period_end
    charge(world, invoice, customer, "first_subscription_payment")
    events.activated(world, sub, customer, invoice)
    events.payment_method(world, "payment_method.attached", customer, sub)
    events.state_changed(world, customer, "subscription_activated")


def cancel(world: World, sub: Subscription, *, reason: str | None, immediate: bool) -> Subscription:
    """End a subscription now or at the end of its period.

    Only a paid subscription in good standing waits for the end of its period. All others end at
    once. Raises ApiError: subscription_already_canceled, already_scheduled,
    invalid_subscription_status (a pause is scheduled), one_time_subscription_not_cancelable.
    """
    if sub.status == "canceled":
        raise ApiError("subscription_already_canceled", "Subscription is already canceled")
    if sub.billing_interval == "one_time":
        raise ApiError(
            "one_time_subscription_not_cancelable", "One-time subscriptions cannot be canceled"
        )
    if sub.pause and sub.pause.status == "scheduled":
        raise ApiError("invalid_subscription_status", "Revoke the scheduled pause before canceling")
    can_wait = sub.status in {"active", "trialing"} and sub.price_id is not None
    if can_wait and not immediate and sub.period_end:
        return _schedule_cancellation(world, sub, reason)
    now = world.now()
    sub.cancellation = Cancellation(scheduled_at=now, reason=reason, effective_at=now)
    sub.canceled_at = now
    end(world, sub)
    return sub


def _schedule_cancellation(world: World, sub: Subscription, reason: str | None) -> Subscription:
    if sub.cancellation:
        raise ApiError("already_scheduled", "Cancellation is already scheduled")
    if sub.period_end is None:
        raise LookupError(f"subscription {sub.id} has no period")
    now = world.now()
    sub.cancellation = Cancellation(scheduled_at=now, reason=reason, effective_at=sub.period_end)
    sub.canceled_at, sub.end_date, sub.updated_at = now, sub.period_end, now
    world.store.subscriptions.put(sub)
    customer = world.owner(sub)
    events.cancellation_scheduled(world, sub, customer, sub.period_end)
    events.updated(world, sub, customer)
    events.state_changed(world, customer, "cancellation_scheduled")
    return sub


def uncancel(world: World, sub: Subscription) -> Subscription:
    """Undo a scheduled cancellation. Raises ApiError: not_scheduled_for_cancellation."""
    if sub.cancellation is None or not sub.has_access:
        raise ApiError(
            "not_scheduled_for_cancellation", "Subscription is not scheduled for cancellation"
        )
    sub.cancellation = sub.canceled_at = sub.end_date = None
    sub.updated_at = world.now()
    world.store.subscriptions.put(sub)
    customer = world.owner(sub)
    events.cancellation_revoked(world, sub, customer)
    events.updated(world, sub, customer)
    events.state_changed(world, customer, "cancellation_revoked")
    return sub


def end(world: World, sub: Subscription) -> None:
    """End the subscription now: bill the overage so far, close unpaid invoices, end access."""
    customer = world.owner(sub)
    if sub.status in {"active", "paused"}:
        bill_overage(world, sub, customer)
    _close_open_invoices(world, sub, customer)
    now = world.now()
    sub.status = "canceled"
    sub.end_date = sub.updated_at = now
    sub.dunning = sub.scheduled_change = sub.plan_checkout = sub.pause = None
    world.store.subscriptions.put(sub)
    events.canceled(world, sub, customer)
    events.state_changed(world, customer, "subscription_canceled")


def _close_open_invoices(world: World, sub: Subscription, customer: Customer) -> None:
    """Void every unpaid invoice of the subscription, oldest first, because nothing collects
    them now.
    """
    unpaid = "subscription_id = ? AND status = 'outstanding'"
    for invoice in world.store.invoices.find(unpaid, sub.id, newest=False):
        close_unpaid(world, invoice, customer, "void")


def bill_overage(world: World, sub: Subscription, customer: Customer) -> None:
    """Create an `overage` invoice for the current allowance, if there is overage."""
    lines = overage_lines(world, sub)
    if lines and sub.allowance:
        period = (sub.allowance.start, min(sub.allowance.end, world.now()))
        invoice = draw_up(world, sub, lines, kind="overage", period=period)
        # Dunning is for renewals only, so no page takes a payment of this invoice.
        charge(world, invoice, customer, "overage", payable_later=False)


def find(world: World, subscription_id: str) -> Subscription:
    """The subscription with that id. Raises ApiError: subscription_not_found."""
    sub = world.store.subscriptions.get(subscription_id)
    if sub is None:
        raise ApiError("subscription_not_found", "Subscription not found", param="id")
    return sub


def for_customer(world: World, customer: Customer) -> Subscription | None:
    """Returns the customer's live subscription; if the settings say so, else one that waits for
    payment.
    """
    live = world.current_subscription(customer)
    if live or world.settings.active_lookup == "live":
        return live
    return world.pending_subscription(customer)
