"""Reads Commet's webhooks about payments that went wrong. These are pure functions.

No field is trusted (commet/webhook_fields.py). A webhook without the id of the trouble is ignored,
because nothing else says which trouble it is about. Names, card data and messages in words are not
read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from billing import amounts
from billing.commet.webhook_fields import Data, number, text

FAILED_PAYMENT = "failed_payment"
UNPAID_INVOICE = "unpaid_invoice"
REFUND = "refund"
DISPUTE = "dispute"
PAYMENT_LINK = "payment_link"

_MAX_URL = 2000
_RESOLUTIONS = frozenset({"won", "lost"})


@dataclass(frozen=True, slots=True)
class News:
    """What one webhook says about one payment trouble.

    `kind` and `about` (an id of Commet's) name the trouble. `known` holds new values of columns of
    `payment_trouble`; other columns do not change. `known` always has `outcome`: null if the
    webhook says that the trouble goes on.
    """

    kind: str
    about: str
    known: Mapping[str, Any]

    def parameter(self, *, dated: bool) -> dict[str, Any]:
        """Returns the `p_news` argument of `record_payment_trouble`.

        `dated` is false if the webhook has no time, and so may be older than what is known.
        """
        return {"kind": self.kind, "about": self.about, "known": dict(self.known), "dated": dated}


def news_of(webhook_type: str, data: Data) -> News | None:
    """Returns what a webhook of this type says; None if it is not about a payment trouble."""
    rule = _RULES.get(webhook_type)
    about = text(data, rule.about) if rule else None
    if rule is None or about is None:
        return None
    found = _ids(data) | _money(data, rule.amount) | rule.known(data)
    # If a webhook does not state a column, the column does not change. `outcome` is always stated,
    # because a webhook without an outcome says that the trouble goes on.
    known = {column: value for column, value in found.items() if value is not None}
    return News(rule.kind, about, {"outcome": None} | known)


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: str
    about: str  # the field that names the trouble
    known: Callable[[Data], dict[str, Any]]
    amount: str | None = None  # the field with the amount


def _ends(outcome: str) -> Callable[[Data], dict[str, Any]]:
    return lambda _: {"outcome": outcome}


def _goes_on(_: Data) -> dict[str, Any]:
    return {}


def _failed(data: Data) -> dict[str, Any]:
    url = text(data, "recoveryUrl", longest=_MAX_URL)
    safe = url is not None and url.startswith(("https://", "http://"))
    return {"reason": text(data, "failureCode"), "recovery_url": url if safe else None}


def _disputed(data: Data) -> dict[str, Any]:
    return {"reason": text(data, "disputeReason")}


def _resolved(data: Data) -> dict[str, Any]:
    outcome = text(data, "outcome")
    # An outcome that the contract does not list ends the dispute as well.
    return _disputed(data) | {"outcome": outcome if outcome in _RESOLUTIONS else "unknown"}


_RULES = {
    "payment.failed": _Rule(FAILED_PAYMENT, "invoiceId", _failed),
    "payment.recovered": _Rule(FAILED_PAYMENT, "invoiceId", _ends("recovered")),
    # Commet has given up the payment: the subscription is canceled.
    "payment.retry_failed": _Rule(FAILED_PAYMENT, "invoiceId", _ends("given_up")),
    "payment.refunded": _Rule(
        REFUND, "paymentTransactionId", _ends("refunded"), amount="refundAmount"
    ),
    "payment.disputed": _Rule(DISPUTE, "paymentTransactionId", _disputed, amount="disputeAmount"),
    "payment.dispute_resolved": _Rule(
        DISPUTE, "paymentTransactionId", _resolved, amount="disputeAmount"
    ),
    "invoice.overdue": _Rule(UNPAID_INVOICE, "invoiceId", _goes_on, amount="total"),
    "invoice.voided": _Rule(UNPAID_INVOICE, "invoiceId", _ends("voided"), amount="total"),
    "payment_link.created": _Rule(PAYMENT_LINK, "paymentId", _goes_on, amount="amount"),
    "payment_link.failed": _Rule(
        PAYMENT_LINK,
        "paymentId",
        lambda data: {"reason": text(data, "failureCode")},
        amount="amount",
    ),
    "payment_link.canceled": _Rule(PAYMENT_LINK, "paymentId", _ends("canceled"), amount="amount"),
    "payment_link.completed": _Rule(PAYMENT_LINK, "paymentId", _ends("completed"), amount="amount"),
}

# The types of webhooks about payments that our endpoint is registered for.
HANDLED = tuple(_RULES)


def _ids(data: Data) -> dict[str, Any]:
    return {
        "invoice_id": text(data, "invoiceId"),
        "transaction_id": text(data, "paymentTransactionId"),
        "payment_link_id": text(data, "paymentLinkId") or text(data, "paymentId"),
        "subscription_id": text(data, "subscriptionId"),
    }


def _money(data: Data, field: str | None) -> dict[str, Any]:
    """Returns amount, in major units, and currency. An amount without a currency is left out."""
    currency = text(data, "currency")
    if field is None or currency is None or not _is_currency(currency):
        return {}
    written = number(data, field)
    known: dict[str, Any] = {"currency": currency.lower()}
    if written is not None and not written.startswith("-"):
        known["amount"] = str(amounts.of_minor_units(Decimal(written), currency))
    return known


def _is_currency(code: str) -> bool:
    return len(code) == 3 and code.isascii() and code.isalpha()
