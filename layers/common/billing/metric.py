"""Counts that stand alone, written at once: for what happens rarely, or in a shared place."""

import os

from aws_lambda_powertools.metrics import MetricUnit, single_metric

# Outside of a stack nobody reads them, and nothing may fail for the want of a name.
_NAMESPACE, _SERVICE = "UsageBilling", "billing"


def count(name: str, *, service: str | None = None) -> None:
    """Counts one `name` in CloudWatch, for this function or for another part of the stack."""
    namespace = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", _NAMESPACE)
    with single_metric(name=name, unit=MetricUnit.Count, value=1, namespace=namespace) as metric:
        metric.add_dimension(
            "service", service or os.environ.get("POWERTOOLS_SERVICE_NAME", _SERVICE)
        )
