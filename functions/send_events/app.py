"""Sends outgoing events to the product's endpoints and to the EventBridge bus.

A schedule invokes it. Invoking it by hand with {} does the same.
"""

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import wiring
from billing.database.connection import Database
from billing.deadline import Deadline, LambdaContext
from billing.events import bus, delivering, log
from billing.events import event_bridge as _event_bridge  # noqa: F401 - wiring imports it late
from billing.events import receivers as _receivers  # noqa: F401 - wiring imports it late
from billing.metric import Metric

logger = Logger()
metrics = Metrics()

_PLACED_AT_ONCE = 1000
_BUS_SHARE = 0.4  # of a run's time; endpoints get the rest


@metrics.log_metrics
def handler(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Does one run. Returns its counts and the state of the deliveries.

    If there is not enough time, the next run sends the other events.
    """
    db = wiring.database()
    deadline = Deadline.of_invocation(context, reserve=5)
    while log.place(db, _PLACED_AT_ONCE) == _PLACED_AT_ONCE and deadline.remaining() > 0:
        pass
    on_bus = _put_on_bus(db, deadline.within(deadline.remaining() * _BUS_SHARE))
    done = _deliver(db, deadline)
    gauges = delivering.gauges(db)
    age = max(gauges.age_seconds, bus.age_seconds(db))
    metrics.add_metric(Metric.EVENTS_SENT, MetricUnit.Count, done.sent)
    metrics.add_metric(Metric.EVENTS_POSTPONED, MetricUnit.Count, done.postponed)
    metrics.add_metric(Metric.EVENTS_FAILED, MetricUnit.Count, gauges.failed)
    metrics.add_metric(Metric.EVENTS_AGE_SECONDS, MetricUnit.Seconds, age)
    metrics.add_metric(Metric.EVENT_ENDPOINTS_OFF, MetricUnit.Count, gauges.off)
    metrics.add_metric(Metric.EVENTS_ON_BUS, MetricUnit.Count, on_bus.put)
    metrics.add_metric(Metric.EVENTS_PASSED_OVER, MetricUnit.Count, on_bus.passed_over)
    summary = asdict(done) | asdict(gauges) | {"bus": asdict(on_bus), "age_seconds": age}
    logger.info("send_events.done", extra=summary)
    return summary


def _put_on_bus(db: Database, deadline: Deadline) -> bus.Done:
    name = wiring.settings().event_bus
    if not name:
        bus.forget(db)
        return bus.Done()
    bridge = wiring.event_bridge()
    return bus.put(db, bridge, name=name, source=wiring.event_source(), deadline=deadline)


def _deliver(db: Database, deadline: Deadline) -> delivering.Done:
    sender = delivering.Sender(wiring.endpoint_secret(), wiring.event_source())
    receivers = wiring.event_receivers()
    try:
        return delivering.deliver(db, receivers, sender=sender, deadline=deadline)
    finally:
        receivers.close()
