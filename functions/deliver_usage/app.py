"""Sends accepted usage to Commet. Called by a schedule; {} by hand does the same."""

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import delivery, wiring
from billing.deadline import Deadline, LambdaContext

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
def handler(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """What was delivered in this run; the rest comes due again by itself."""
    summary = asdict(
        delivery.deliver(
            wiring.database(),
            wiring.commet(),
            clock=wiring.clock(),
            deadline=Deadline.of_invocation(context, reserve=5),
            interval=wiring.settings().delivery_interval,
        )
    )
    for name, count in summary.items():
        metrics.add_metric(f"Delivery{name.title().replace('_', '')}", MetricUnit.Count, count)
    logger.info("deliver_usage.done", extra=summary)
    return summary
