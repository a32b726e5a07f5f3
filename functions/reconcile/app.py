"""Repairs what webhooks could not: called by a schedule, and by a person with a command.

{}                                                        what the schedule does
{"command": "sweep"}                                      read everything again, from now on
{"command": "redrive", "what": "events", "id"?, "user"?}  try dead events again
{"command": "redrive", "what": "deliveries", "id"?, "user"?, "reason"?}    send parked usage again
{"command": "resolve", "user", "id", "note", "delivered"?}  a parked delivery was dealt with by hand
{"command": "repair_drift", "user"?}                      replace Commet's totals that differ
{"command": "show", "user": "usr_..."}                    everything known of one user
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import wiring
from billing.deadline import Deadline, LambdaContext
from billing.operations import commands, reconcile

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """What was healed in this run, or what a command found or did."""
    if "command" in event:
        return commands.obey(wiring.database(), event, now=wiring.now())
    summary = reconcile.run(
        wiring.database(),
        wiring.commet(),
        wiring.settings(),
        clock=wiring.clock(),
        deadline=Deadline.of_invocation(context, reserve=5),
    )
    for name, count in summary.items():
        unit = MetricUnit.Seconds if name.endswith("_seconds") else MetricUnit.Count
        metrics.add_metric(name.title().replace("_", ""), unit, count)
    logger.info("reconcile.done", extra=summary)
    if summary["steps_failed"]:
        raise RuntimeError("Some steps of this run failed: see reconcile.step_failed in the log.")
    return summary
