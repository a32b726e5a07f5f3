"""Every metric that this project writes, by its name in CloudWatch, and a function to count one."""

import os
from enum import StrEnum

from aws_lambda_powertools.metrics import MetricUnit, single_metric

# For code outside of a stack, where nobody reads metrics and a missing name must not cause an
# error.
_NAMESPACE, _SERVICE = "UsageBilling", "billing"


class Metric(StrEnum):
    """The metrics' names. The unit is a count, or seconds if the name ends in `Seconds`."""

    # accounts
    SIGNED_UP = "SignedUp"
    SIGN_UP_REFUSED = "SignUpRefused"
    SIGNED_IN = "SignedIn"
    SIGN_IN_REFUSED = "SignInRefused"
    TOKENS_REFUSED = "TokensRefused"
    IDENTITY_PROVIDER_FAILED = "IdentityProviderFailed"
    ACCOUNTS_GUESSED = "AccountsGuessed"
    ACCOUNTS_EXPIRED = "AccountsExpired"

    # mails
    MAILS_SENT = "MailsSent"
    MAILS_POSTPONED = "MailsPostponed"
    MAILS_FAILED = "MailsFailed"
    MAIL_AGE_SECONDS = "MailAgeSeconds"
    ADDRESSES_SUPPRESSED = "AddressesSuppressed"

    # outgoing events
    EVENTS_SENT = "EventsSent"
    EVENTS_POSTPONED = "EventsPostponed"
    EVENTS_FAILED = "EventsFailed"
    EVENTS_AGE_SECONDS = "EventsAgeSeconds"
    EVENT_ENDPOINTS_OFF = "EventEndpointsOff"
    EVENTS_ON_BUS = "EventsOnBus"
    EVENTS_PASSED_OVER = "EventsPassedOver"

    # buying and managing
    CHECKOUTS_STARTED = "CheckoutsStarted"
    CURRENCY_NOT_OFFERED = "CurrencyNotOffered"
    PLANS_NOT_SOLD = "PlansNotSold"
    PORTAL_VISITS = "PortalVisits"

    # usage
    USAGE_REQUESTS = "UsageRequests"
    USAGE_EVENTS_ACCEPTED = "UsageEventsAccepted"
    USAGE_EVENTS_DUPLICATE = "UsageEventsDuplicate"
    USAGE_EVENTS_REFUSED = "UsageEventsRefused"
    USAGE_PRICE_UNKNOWN = "UsagePriceUnknown"
    NEAR_CEILING = "NearCeiling"
    CURRENCY_WITHOUT_CEILING = "CurrencyWithoutCeiling"
    RESERVATIONS_EXPIRED = "ReservationsExpired"

    # delivery of usage to Commet
    DELIVERIES_CLAIMED = "DeliveriesClaimed"
    DELIVERIES_SENT = "DeliveriesSent"
    DELIVERIES_POSTPONED = "DeliveriesPostponed"
    DELIVERIES_PARKED = "DeliveriesParked"
    OUTBOX_AGE_SECONDS = "OutboxAgeSeconds"
    PARKED_DELIVERIES = "ParkedDeliveries"
    USAGE_DRIFT = "UsageDrift"

    # payment trouble, counted once for each webhook
    PAYMENTS_FAILED = "PaymentsFailed"
    PAYMENTS_REFUNDED = "PaymentsRefunded"
    DISPUTES_OPENED = "DisputesOpened"
    DISPUTES_LOST = "DisputesLost"
    INVOICES_VOIDED = "InvoicesVoided"

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
    WEBHOOKS_APPLIED = "WebhooksApplied"
    WEBHOOKS_FAILED = "WebhooksFailed"
    WEBHOOKS_DIED = "WebhooksDied"
    INBOX_FAILED = "InboxFailed"
    INBOX_DEAD = "InboxDead"
    INBOX_AGE_SECONDS = "InboxAgeSeconds"
    WEBHOOK_ENDPOINT_DISABLED = "WebhookEndpointDisabled"
    WEBHOOK_ENDPOINT_MISSING = "WebhookEndpointMissing"
    SWEPT_SUBSCRIPTIONS = "SweptSubscriptions"
    SWEPT_DIFFERING = "SweptDiffering"
    SWEPT_MISSING = "SweptMissing"
    CONTACTS_TOLD = "ContactsTold"
    CUSTOMERS_ASKED = "CustomersAsked"
    CUSTOMERS_LINKED = "CustomersLinked"
    REFRESHED = "Refreshed"
    REFRESH_FAILED = "RefreshFailed"
    HEALED = "Healed"
    DISPUTES_ASKED = "DisputesAsked"
    DISPUTES_ENDED = "DisputesEnded"
    TOTALS_COMPARED = "TotalsCompared"
    TOTALS_DIFFERING = "TotalsDiffering"
    DELIVERIES_DECIDED = "DeliveriesDecided"
    THRESHOLDS_EVALUATED = "ThresholdsEvaluated"
    DEBT_CALLS = "DebtCalls"
    DEBTORS = "Debtors"
    DEBTS_PAID_TWICE = "DebtsPaidTwice"
    PAYLOADS_PRUNED = "PayloadsPruned"
    PERIODS_COMPACTED = "PeriodsCompacted"
    LEDGER_PRUNED = "LedgerPruned"
    AUDIT_PRUNED = "AuditPruned"
    ERASURES_WORKED = "ErasuresWorked"
    ERASURES_FINISHED = "ErasuresFinished"
    ERASURES_STUCK = "ErasuresStuck"

    # faults
    SERVER_ERRORS = "ServerErrors"
    NEW_BUILD_ERRORS = "NewBuildErrors"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"

    @property
    def unit(self) -> MetricUnit:
        """The metric's unit."""
        return MetricUnit.Seconds if self.endswith("Seconds") else MetricUnit.Count


def count(metric: Metric, *, service: str | None = None) -> None:
    """Adds one to the metric at once, under this function's name or that of `service`.

    This is for rare events, and for code that several functions share. Other counts of one
    invocation are written together at its end.
    """
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", _NAMESPACE)
    with single_metric(name=metric, unit=metric.unit, value=1, namespace=namespace) as single:
        single.add_dimension(
            "service", service or os.environ.get("POWERTOOLS_SERVICE_NAME", _SERVICE)
        )


def count_for_watched_build(metric: Metric) -> None:
    """Adds one to the metric under the name of this build, while a canary watches the build.

    At other times nothing is written, because each build would be a metric of its own that costs
    money.
    """
    build = os.environ.get("WATCHED_BUILD")
    if not build:
        return
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", _NAMESPACE)
    with single_metric(name=metric, unit=metric.unit, value=1, namespace=namespace) as single:
        single.add_dimension("build", build)
