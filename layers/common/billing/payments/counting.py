"""Counts webhooks about payment trouble that an operator may have to act on."""

from billing import metric
from billing.commet.webhook_fields import Data, text
from billing.metric import Metric

_METRICS = {
    "payment.failed": Metric.PAYMENTS_FAILED,
    "payment.refunded": Metric.PAYMENTS_REFUNDED,
    "payment.disputed": Metric.DISPUTES_OPENED,
    "dispute.lost": Metric.DISPUTES_LOST,
    "invoice.voided": Metric.INVOICES_VOIDED,
}


def count(webhook_type: str, data: Data) -> None:
    """Counts the webhook, if its type is counted. Must be called once for each webhook."""
    name = webhook_type
    if name == "payment.dispute_resolved" and text(data, "outcome") == "lost":
        name = "dispute.lost"
    if name in _METRICS:
        metric.count(_METRICS[name], service="payments")
