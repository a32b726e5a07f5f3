"""Every metric this project writes, by its name in CloudWatch, and a way to count one at once."""

import os
from enum import StrEnum

from aws_lambda_powertools.metrics import MetricUnit, single_metric

# Outside of a stack nobody reads them, and nothing may fail for the want of a name.
_NAMESPACE, _SERVICE = "UsageBilling", "billing"


class Metric(StrEnum):
    """The names. Units are counts, but for those that end in `Seconds`."""

    # accounts
    SIGNED_UP = "SignedUp"
    SIGN_UP_REFUSED = "SignUpRefused"
    SIGNED_IN = "SignedIn"
    SIGN_IN_REFUSED = "SignInRefused"

    # buying and managing
    CHECKOUTS_STARTED = "CheckoutsStarted"
    PORTAL_VISITS = "PortalVisits"

    # usage
    USAGE_REQUESTS = "UsageRequests"
    USAGE_EVENTS_ACCEPTED = "UsageEventsAccepted"
    USAGE_EVENTS_DUPLICATE = "UsageEventsDuplicate"
    USAGE_EVENTS_REFUSED = "UsageEventsRefused"
    RESERVATIONS_EXPIRED = "ReservationsExpired"

    # delivery of usage to Commet
    DELIVERIES_CLAIMED = "DeliveriesClaimed"
    DELIVERIES_SENT = "DeliveriesSent"
    DELIVERIES_POSTPONED = "DeliveriesPostponed"
    DELIVERIES_PARKED = "DeliveriesParked"
    OUTBOX_AGE_SECONDS = "OutboxAgeSeconds"
    PARKED_DELIVERIES = "ParkedDeliveries"
    USAGE_DRIFT = "UsageDrift"

    # webhooks
    WEBHOOK_APPLIED = "WebhookApplied"
    WEBHOOK_DUPLICATE = "WebhookDuplicate"
    WEBHOOK_FAILED = "WebhookFailed"
    WEBHOOK_IGNORED = "WebhookIgnored"
    WEBHOOK_UNREADABLE = "WebhookUnreadable"
    WEBHOOK_REFUSED = "WebhookRefused"
    WEBHOOK_BAD_SIGNATURE = "WebhookBadSignature"
    WEBHOOK_TOO_LARGE = "WebhookTooLarge"

    # reconcile
    STEPS_FAILED = "StepsFailed"
    EVENTS_APPLIED = "EventsApplied"
    EVENTS_FAILED = "EventsFailed"
    EVENTS_DIED = "EventsDied"
    INBOX_FAILED = "InboxFailed"
    INBOX_DEAD = "InboxDead"
    INBOX_AGE_SECONDS = "InboxAgeSeconds"
    WEBHOOK_ENDPOINT_DISABLED = "WebhookEndpointDisabled"
    WEBHOOK_ENDPOINT_MISSING = "WebhookEndpointMissing"
    SWEPT_SUBSCRIPTIONS = "SweptSubscriptions"
    SWEPT_DIFFERING = "SweptDiffering"
    SWEPT_MISSING = "SweptMissing"
    REFRESHED = "Refreshed"
    REFRESH_FAILED = "RefreshFailed"
    HEALED = "Healed"
    TOTALS_COMPARED = "TotalsCompared"
    TOTALS_DIFFERING = "TotalsDiffering"
    DELIVERIES_DECIDED = "DeliveriesDecided"
    PAYLOADS_PRUNED = "PayloadsPruned"
    PERIODS_COMPACTED = "PeriodsCompacted"
    LEDGER_PRUNED = "LedgerPruned"

    # faults
    SERVER_ERRORS = "ServerErrors"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"

    @property
    def unit(self) -> MetricUnit:
        """The unit it is written in."""
        return MetricUnit.Seconds if self.endswith("Seconds") else MetricUnit.Count


def count(metric: Metric, *, service: str | None = None) -> None:
    """Counts one at once, for this function or for another part of the stack.

    For what happens rarely or in a shared place: an invocation's own counts are written together.
    """
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", _NAMESPACE)
    with single_metric(name=metric, unit=metric.unit, value=1, namespace=namespace) as single:
        single.add_dimension(
            "service", service or os.environ.get("POWERTOOLS_SERVICE_NAME", _SERVICE)
        )
