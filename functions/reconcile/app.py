"""Repairs what webhooks could not. Called by a schedule; {} by hand does the same."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import reconcile, wiring
from billing.deadline import Deadline, LambdaContext

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
def handler(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """What was healed in this run."""
    summary = reconcile.run(
        wiring.database(),
        wiring.commet(),
        mode=wiring.settings().commet_mode,
        clock=wiring.clock(),
        deadline=Deadline.of_invocation(context, reserve=5),
    )
    for name, count in summary.items():
        metrics.add_metric(f"Reconcile{name.title().replace('_', '')}", MetricUnit.Count, count)
    logger.info("reconcile.done", extra=summary)
    return dict(summary)
