"""Repairs what webhooks alone cannot. A schedule invokes it, and an operator with a command.

{}                                                          what the schedule does
{"command": "sweep"}                                        the next run begins a sweep
{"command": "compare"}                                      the next run compares all totals
{"command": "redrive", "what": "webhooks", "id"?, "user"?}    dead webhooks are tried again
{"command": "redrive", "what": "deliveries", "id"?, "user"?, "reason"?}
                                                            parked deliveries are sent again
{"command": "resolve", "user", "id", "note", "delivered"?}  takes a parked delivery off the list
{"command": "resolve_dispute", "user", "transaction", "outcome"}
                                                            ends an open dispute: won or lost
{"command": "repair_drift", "user"?}                        replaces Commet's totals that differ
{"command": "endpoints"}                                    lists the endpoints of events
{"command": "enable_endpoint", "endpoint"}                  switches an endpoint on again
{"command": "redeliver", "endpoint", "from", "to"?}         sends the events of a time again
{"command": "redeliver", "endpoint", "event"}               sends one event again
{"command": "forgive", "user", "debt", "author", "note"}     ends a debt, or with "all" all debts
{"command": "refund", "transaction", "link"?}               gives a payment back, whole
{"command": "adopt", "user", "customer", "author", "note"}  gives a customer of Commet to a user
{"command": "end_sessions", "user", "author", "note"}        ends all sessions of a user
{"command": "erase", "user", "author", "note"}              erases a user
{"command": "show", "user": "usr_..."}                      shows everything recorded about a user
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics

from billing import wiring
from billing.commet import metered  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.deadline import Deadline, LambdaContext
from billing.metric import Metric
from billing.operations import commands, reconcile

logger = Logger()
metrics = Metrics()

# The metric for each count in a run's summary.
METRICS = {
    "steps_failed": Metric.STEPS_FAILED,
    "webhooks_applied": Metric.WEBHOOKS_APPLIED,
    "webhooks_failed": Metric.WEBHOOKS_FAILED,
    "webhooks_died": Metric.WEBHOOKS_DIED,
    "inbox_failed": Metric.INBOX_FAILED,
    "inbox_dead": Metric.INBOX_DEAD,
    "inbox_age_seconds": Metric.INBOX_AGE_SECONDS,
    "webhook_endpoint_disabled": Metric.WEBHOOK_ENDPOINT_DISABLED,
    "webhook_endpoint_missing": Metric.WEBHOOK_ENDPOINT_MISSING,
    "swept_subscriptions": Metric.SWEPT_SUBSCRIPTIONS,
    "swept_differing": Metric.SWEPT_DIFFERING,
    "swept_missing": Metric.SWEPT_MISSING,
    "contacts_told": Metric.CONTACTS_TOLD,
    "customers_asked": Metric.CUSTOMERS_ASKED,
    "customers_linked": Metric.CUSTOMERS_LINKED,
    "erasures_worked": Metric.ERASURES_WORKED,
    "erasures_finished": Metric.ERASURES_FINISHED,
    "erasures_stuck": Metric.ERASURES_STUCK,
    "refreshed": Metric.REFRESHED,
    "refresh_failed": Metric.REFRESH_FAILED,
    "healed": Metric.HEALED,
    "disputes_asked": Metric.DISPUTES_ASKED,
    "disputes_ended": Metric.DISPUTES_ENDED,
    "totals_compared": Metric.TOTALS_COMPARED,
    "totals_differing": Metric.TOTALS_DIFFERING,
    "deliveries_decided": Metric.DELIVERIES_DECIDED,
    "thresholds_evaluated": Metric.THRESHOLDS_EVALUATED,
    "debt_calls": Metric.DEBT_CALLS,
    "debtors": Metric.DEBTORS,
    "debts_paid_twice": Metric.DEBTS_PAID_TWICE,
    "accounts_expired": Metric.ACCOUNTS_EXPIRED,
    "payloads_pruned": Metric.PAYLOADS_PRUNED,
    "periods_compacted": Metric.PERIODS_COMPACTED,
    "ledger_pruned": Metric.LEDGER_PRUNED,
    "audit_pruned": Metric.AUDIT_PRUNED,
}


def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Does one scheduled run and returns its counts, or one command and returns its result.

    Raises RuntimeError if a step of the run failed, so that Lambda counts an error, and
    InvalidRequest for a wrong command.
    """
    # A schedule may send any JSON.
    if not isinstance(event, dict):
        event = {}
    if "command" in event:
        return commands.obey(
            wiring.database(),
            event,
            now=wiring.now(),
            commet=wiring.metered_commet,
            deadline=Deadline.of_invocation(context, reserve=5),
        )
    answer: dict[str, Any] = _run(event, context)
    return answer


# Commands have no metrics, and Powertools warns about a function that publishes none.
@metrics.log_metrics
def _run(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    summary = reconcile.run(
        wiring.database(),
        wiring.commet(),
        wiring.settings(),
        clock=wiring.clock(),
        deadline=Deadline.of_invocation(context, reserve=5),
    )
    for name, count in summary.items():
        metrics.add_metric(METRICS[name], METRICS[name].unit, count)
    logger.info("reconcile.done", extra=summary)
    if summary["steps_failed"]:
        raise RuntimeError("Some steps of this run failed: see reconcile.step_failed in the log.")
    return summary
