"""Invoices and their amounts, in whole minor units."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from standin import events
from standin.entitlements import Entitlement, entitlements
from standin.ids import new_id, new_secret
from standin.models import Customer, Invoice, InvoiceLine, Payment, Subscription, Transaction
from standin.render import whole
from standin.tax import tax_on
from standin.world import World

RATE_UNITS_PER_MINOR_UNIT = 100


def overage_amount(units: Decimal, unit_price: int) -> int:
    """Returns the price of units beyond the included ones, rounded half up.

    `unit_price` is in the rate scale (10000 = 1.00), the result is in the minor unit.
    """
    exact = units * unit_price / RATE_UNITS_PER_MINOR_UNIT
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def base_line(world: World, sub: Subscription) -> InvoiceLine:
    """The plan's price, paid in advance."""
    plan = world.plan(sub)
    price = world.price(sub)
    return InvoiceLine(
        line_type="plan_base",
        description=f"{plan.name} ({sub.billing_interval or 'free'})",
        quantity=1,
        unit_amount=price,
        amount=price,
        charge_type="advance",
    )


def credit_line(plan_name: str, amount: int, days: int, of_days: int) -> InvoiceLine:
    """The credit for the rest of a period that a plan change ends early."""
    return InvoiceLine(
        line_type="credit",
        description=f"Unused time on {plan_name} ({days} of {of_days} days)",
        quantity=1,
        unit_amount=-amount,
        amount=-amount,
    )


def overage_lines(world: World, sub: Subscription) -> list[InvoiceLine]:
    """Returns a line per feature whose usage is above what the ending allowance includes."""
    used = entitlements(world, sub, exact=True)
    return [_overage_line(item) for item in used if _is_billed(item)]


def _is_billed(item: Entitlement) -> bool:
    return item.overage_enabled and item.overage_units > 0


def _overage_line(item: Entitlement) -> InvoiceLine:
    unit_price = item.grant.overage.unit_price or 0
    name, unit = item.feature.name, item.feature.unit_name or "units"
    return InvoiceLine(
        line_type="feature_overage",
        feature_name=name,
        description=f"{name}: {item.overage_units.normalize():f} {unit} beyond {item.included}",
        quantity=whole(item.overage_units),
        unit_amount=unit_price,
        amount=overage_amount(item.overage_units, unit_price),
        included_amount=item.included,
        used_amount=whole(item.used),
        overage_amount=whole(item.overage_units),
        charge_type="true_up",
    )


def draw_up(
    world: World,
    sub: Subscription,
    lines: list[InvoiceLine],
    *,
    kind: Literal["recurring", "overage", "plan_change", "reactivation", "resume"] = "recurring",
    period: tuple[datetime, datetime],
) -> Invoice:
    """A new outstanding invoice, announced by invoice.created."""
    invoice = _outstanding(
        world,
        customer_id=sub.customer_id,
        subscription_id=sub.id,
        kind=kind,
        lines=lines,
        tax_amount=tax_on(world, sum(line.amount for line in lines)),
        currency=world.settings.currency,
        plan_name=world.plan(sub).name,
        period=period,
    )
    events.invoice_event(world, "invoice.created", invoice, world.owner(sub))
    return world.store.invoices.put(invoice)


def draw_up_payment(world: World, payment: Payment, customer: Customer) -> Invoice:
    """Creates the invoice of a one-time payment that was just paid, and sends invoice.created."""
    now = world.now()
    line = InvoiceLine(
        line_type="one_time",
        description=payment.description,
        quantity=1,
        unit_amount=payment.amount,
        amount=payment.amount,
    )
    invoice = _outstanding(
        world,
        customer_id=customer.id,
        subscription_id=None,
        kind="one_time_payment",
        lines=[line],
        tax_amount=payment.tax_amount,
        currency=payment.currency,
        plan_name=None,
        period=(now, now),
    )
    events.invoice_event(world, "invoice.created", invoice, customer)
    return world.store.invoices.put(invoice)


def _outstanding(
    world: World,
    *,
    customer_id: str,
    subscription_id: str | None,
    kind: str,
    lines: list[InvoiceLine],
    tax_amount: int,
    currency: str,
    plan_name: str | None,
    period: tuple[datetime, datetime],
) -> Invoice:
    now = world.now()
    return Invoice(
        id=new_id("inv"),
        number=f"INV-{world.store.next_number('number:invoice'):04d}",
        customer_id=customer_id,
        subscription_id=subscription_id,
        status="outstanding",
        invoice_type=kind,
        currency=currency,
        lines=lines,
        tax_amount=tax_amount,
        plan_name=plan_name,
        period_start=period[0],
        period_end=period[1],
        issue_date=now,
        due_date=now,
        created_at=now,
        updated_at=now,
        recovery_token=new_secret("tok"),
    )


def settle(world: World, invoice: Invoice, transaction: Transaction | None) -> None:
    """Mark an invoice as paid, by that transaction. None: there was nothing to pay."""
    invoice.status = "paid"
    invoice.transaction_id = transaction.id if transaction else None
    invoice.updated_at = world.now()
    world.store.invoices.put(invoice)


def note_overdue(world: World, invoice: Invoice) -> None:
    """Send invoice.overdue, once per invoice; the invoice stays outstanding."""
    customer = world.customer(invoice.customer_id)
    invoice.overdue_noted = True
    world.store.invoices.put(invoice)
    events.invoice_event(world, "invoice.overdue", invoice, customer)


def close_unpaid(
    world: World, invoice: Invoice, customer: Customer, status: Literal["void", "uncollectible"]
) -> None:
    """Close an unpaid invoice. A void one sends invoice.voided, an uncollectible one no event."""
    invoice.status = status
    invoice.updated_at = world.now()
    world.store.invoices.put(invoice)
    if status == "void":
        events.invoice_event(world, "invoice.voided", invoice, customer)
