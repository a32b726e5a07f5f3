"""Invoices: what they charge, in whole minor units."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from standin import events
from standin.entitlements import Entitlement, entitlements
from standin.ids import new_id, new_secret
from standin.models import Customer, Invoice, InvoiceLine, Subscription
from standin.render import whole
from standin.world import World

RATE_UNITS_PER_MINOR_UNIT = 100


def overage_amount(units: Decimal, unit_price: int) -> int:
    """Price of units beyond the included ones, half a cent up.

    `unit_price` is rate scale (10000 = 1.00), the result is in the minor unit.
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
    """What is given back for the rest of a period that a plan change cuts short."""
    return InvoiceLine(
        line_type="credit",
        description=f"Unused time on {plan_name} ({days} of {of_days} days)",
        quantity=1,
        unit_amount=-amount,
        amount=-amount,
    )


def overage_lines(world: World, sub: Subscription) -> list[InvoiceLine]:
    """A line per feature used beyond what the allowance that ends now includes."""
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
    now = world.now()
    invoice = Invoice(
        id=new_id("inv"),
        number=f"INV-{world.store.next_number('number:invoice'):04d}",
        customer_id=sub.customer_id,
        subscription_id=sub.id,
        status="outstanding",
        invoice_type=kind,
        currency=world.settings.currency,
        lines=lines,
        plan_name=world.plan(sub).name,
        period_start=period[0],
        period_end=period[1],
        issue_date=now,
        due_date=now,
        created_at=now,
        updated_at=now,
        recovery_token=new_secret("tok"),
    )
    events.invoice_event(world, "invoice.created", invoice, world.owner(sub))
    return world.store.invoices.put(invoice)


def settle(world: World, invoice: Invoice) -> None:
    """Mark an invoice paid."""
    invoice.status = "paid"
    invoice.transaction_id = new_id("txn") if invoice.total else None
    invoice.updated_at = world.now()
    world.store.invoices.put(invoice)


def close_unpaid(
    world: World, invoice: Invoice, customer: Customer, status: Literal["void", "uncollectible"]
) -> None:
    """Give up on an invoice. A void one is announced, an uncollectible one is not."""
    invoice.status = status
    invoice.updated_at = world.now()
    world.store.invoices.put(invoice)
    if status == "void":
        events.invoice_event(world, "invoice.voided", invoice, customer)
