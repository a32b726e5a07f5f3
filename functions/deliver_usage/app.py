"""Sends usage to Commet, and marks expired reservations.

A schedule invokes it. Invoking it by hand with {} does the same.
"""

from dataclasses import asdict
from decimal import Decimal
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import wiring
from billing.commet import client  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.commet.call_budget import Budget
from billing.deadline import Deadline, LambdaContext
from billing.delivery import outbox, sending
from billing.metric import Metric
from billing.operations import alarms
from billing.usage import reservations

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
def handler(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Delivers what is due. Returns this run's counts and the state of the outbox.

    If there is not enough time, the next run sends the other deliveries. Raises RuntimeError if a
    step failed, so that Lambda counts an error.
    """
    settings = wiring.settings()
    done = sending.deliver(
        wiring.database(),
        wiring.commet(),
        clock=wiring.clock(),
        deadline=Deadline.of_invocation(context, reserve=5),
        interval=settings.delivery_interval,
        budget=Budget(wiring.database(), settings.commet_calls_per_second),
        early_budget=Budget(
            wiring.database(),
            Decimal(settings.commet_calls_per_second) / 2,
            name="early_deliveries",
        ),
        workers=settings.delivery_workers,
    )
    expired = reservations.tidy(wiring.database(), now=wiring.now())
    rung = alarms.ring(wiring.database())
    gauges = outbox.gauges(wiring.database())
    metrics.add_metric(Metric.DELIVERIES_CLAIMED, MetricUnit.Count, done.claimed)
    metrics.add_metric(Metric.DELIVERIES_SENT, MetricUnit.Count, done.sent)
    metrics.add_metric(Metric.DELIVERIES_POSTPONED, MetricUnit.Count, done.postponed)
    metrics.add_metric(Metric.DELIVERIES_PARKED, MetricUnit.Count, done.parked)
    metrics.add_metric(Metric.RESERVATIONS_EXPIRED, MetricUnit.Count, expired)
    metrics.add_metric(Metric.NEAR_CEILING, MetricUnit.Count, rung["near_ceiling"])
    metrics.add_metric(
        Metric.CURRENCY_WITHOUT_CEILING, MetricUnit.Count, rung["currency_without_ceiling"]
    )
    metrics.add_metric(Metric.CURRENCY_NOT_OFFERED, MetricUnit.Count, rung["currency_not_offered"])
    metrics.add_metric(Metric.PLANS_NOT_SOLD, MetricUnit.Count, rung["plan_not_sold"])
    metrics.add_metric(Metric.OUTBOX_AGE_SECONDS, MetricUnit.Seconds, gauges.outbox_age_seconds)
    metrics.add_metric(Metric.PARKED_DELIVERIES, MetricUnit.Count, gauges.parked_deliveries)
    metrics.add_metric(Metric.USAGE_DRIFT, MetricUnit.Count, gauges.usage_drift)
    summary = asdict(done) | {"reservations_expired": expired} | asdict(gauges)
    logger.info("deliver_usage.done", extra=summary)
    if done.steps_failed:
        raise RuntimeError("Some steps of this run failed: see delivery.step_failed in the log.")
    return summary
