"""What happens next as time passes: the earliest deadline of a subscription or an unpaid
invoice.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from standin.deadlines import Deadline, next_deadline
from standin.models import Invoice, Subscription
from standin.world import World


@dataclass(frozen=True, slots=True)
class SubscriptionDue:
    """A deadline of a subscription."""

    sub: Subscription
    deadline: Deadline

    @property
    def at(self) -> datetime:
        """When it is due."""
        return self.deadline.at

    @property
    def kind(self) -> str:
        """What is due."""
        return self.deadline.kind


@dataclass(frozen=True, slots=True)
class InvoiceDue:
    """An invoice that becomes overdue."""

    invoice: Invoice
    at: datetime
    kind: Literal["overdue"] = "overdue"


def next_due(world: World) -> SubscriptionDue | InvoiceDue | None:
    """Returns the earliest deadline. Of two at once, the subscription's, whose charge may pay
    the invoice.
    """
    found = [due for due in (_next_subscription(world), _next_invoice(world)) if due]
    return min(found, key=lambda due: due.at) if found else None


def _next_subscription(world: World) -> SubscriptionDue | None:
    subs = world.store.subscriptions.find("due_at IS NOT NULL", limit=1, order="due_at, seq")
    deadline = next_deadline(subs[0]) if subs else None
    return SubscriptionDue(subs[0], deadline) if deadline else None


def _next_invoice(world: World) -> InvoiceDue | None:
    found = world.store.invoices.find("overdue_at IS NOT NULL", limit=1, order="overdue_at, seq")
    at = found[0].overdue_at if found else None
    return InvoiceDue(found[0], at) if at else None
