"""A client for the usage-billing backend: one class for threads, one for asyncio.

>>> from usage_billing import Billing
>>> billing = Billing()  # BILLING_URL and BILLING_KEY are read from the environment
>>> billing.report("customer-17", "storage", "1.5", key="upload-9214")
"""

from usage_billing.answers import (
    Checked,
    CheckedOut,
    Corrected,
    Credit,
    Entry,
    Held,
    Invoice,
    Period,
    Spending,
    Subscription,
    Taken,
    User,
)
from usage_billing.async_client import AsyncBilling, AsyncReservation
from usage_billing.client import Billing, Reservation
from usage_billing.events import Event, read_event
from usage_billing.problems import (
    BillingError,
    NotConcluded,
    Problem,
    Refused,
    Unreachable,
    WrongField,
    WrongSignature,
)
from usage_billing.requests import Quantity, Usage

__version__ = "0.1.0"

__all__ = [
    "AsyncBilling",
    "AsyncReservation",
    "Billing",
    "BillingError",
    "Checked",
    "CheckedOut",
    "Corrected",
    "Credit",
    "Entry",
    "Event",
    "Held",
    "Invoice",
    "NotConcluded",
    "Period",
    "Problem",
    "Quantity",
    "Refused",
    "Reservation",
    "Spending",
    "Subscription",
    "Taken",
    "Unreachable",
    "Usage",
    "User",
    "WrongField",
    "WrongSignature",
    "read_event",
]
