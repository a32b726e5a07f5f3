"""Repairs what webhooks alone cannot. A schedule invokes it, and an operator with a command.

{}                                                          what the schedule does
{"command": "sweep"}                                        the next run begins a sweep
{"command": "redrive", "what": "events", "id"?, "user"?}    dead webhooks are tried again
{"command": "redrive", "what": "deliveries", "id"?, "user"?, "reason"?}
                                                            parked deliveries are sent again
{"command": "resolve", "user", "id", "note", "delivered"?}  takes a parked delivery off the list
{"command": "repair_drift", "user"?}                        replaces Commet's totals that differ
{"command": "show", "user": "usr_..."}                      shows everything recorded about a user
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics

from billing import wiring
from billing.deadline import Deadline, LambdaContext
from billing.metric import Metric
from billing.operations import commands, reconcile

logger = Logger()
metrics = Metrics()

# The metric for each count in a run's summary.
METRICS = {
    "steps_failed": Metric.STEPS_FAILED,
    "events_applied": Metric.EVENTS_APPLIED,
    "events_failed": Metric.EVENTS_FAILED,
    "events_died": Metric.EVENTS_DIED,
    "inbox_failed": Metric.INBOX_FAILED,
    "inbox_dead": Metric.INBOX_DEAD,
    "inbox_age_seconds": Metric.INBOX_AGE_SECONDS,
    "webhook_endpoint_disabled": Metric.WEBHOOK_ENDPOINT_DISABLED,
    "webhook_endpoint_missing": Metric.WEBHOOK_ENDPOINT_MISSING,
    "swept_subscriptions": Metric.SWEPT_SUBSCRIPTIONS,
    "swept_differing": Metric.SWEPT_DIFFERING,
    "swept_missing": Metric.SWEPT_MISSING,
    "refreshed": Metric.REFRESHED,
    "refresh_failed": Metric.REFRESH_FAILED,
    "healed": Metric.HEALED,
    "totals_compared": Metric.TOTALS_COMPARED,
    "totals_differing": Metric.TOTALS_DIFFERING,
    "deliveries_decided": Metric.DELIVERIES_DECIDED,
    "payloads_pruned": Metric.PAYLOADS_PRUNED,
    "periods_compacted": Metric.PERIODS_COMPACTED,
    "ledger_pruned": Metric.LEDGER_PRUNED,
}


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """One scheduled run, which returns its counts, or one command, which returns its result.

    Raises RuntimeError where a step of the run failed, so that Lambda counts an error, and
    InvalidRequest for a wrong command.
    """
    if "command" in event:
        return commands.obey(wiring.database(), event, now=wiring.now())
    answer: dict[str, Any] = _run(event, context)
    return answer


# A command has no metrics, and Powertools warns of a function that publishes none.
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
