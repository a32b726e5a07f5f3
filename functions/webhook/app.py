"""POST /webhooks/commet, and the function's own URL: receives Commet's webhooks.

This function reads API Gateway's payload format itself, because there is only one route, and a
router with validation would take half of the time that a webhook's cold start may take.
"""

import base64
import binascii
import json
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from billing import metric, wiring
from billing.database.connection import place_of
from billing.deadline import LambdaContext
from billing.errors import (
    BadSignature,
    BillingError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from billing.http import events, problems, security_headers
from billing.metric import Metric
from billing.subscriptions import inbox

logger = Logger()
metrics = Metrics()

_OUTCOMES = {
    "applied": Metric.WEBHOOK_APPLIED,
    "duplicate": Metric.WEBHOOK_DUPLICATE,
    "failed": Metric.WEBHOOK_FAILED,
    "ignored": Metric.WEBHOOK_IGNORED,
    "unreadable": Metric.WEBHOOK_UNREADABLE,
}

# The route key of every request to the function's own URL, whatever its path.
_FUNCTION_URL = "$default"

# Only one in 100 signature failures is logged, because strangers can cause any number of failures.
_LOG_ONE_IN = 100
_failures = 0


@metrics.log_metrics
def handler(event: dict[str, Any], _: LambdaContext) -> dict[str, Any]:
    """Answers 200 to a signed webhook, 503 if the database does not answer, else a problem."""
    request_id = events.request_id(event)
    logger.append_keys(request_id=request_id)
    try:
        event = events.request_of(event)
        request = event["requestContext"]
        if request["routeKey"] != _FUNCTION_URL and not wiring.settings().webhook_on_api:
            raise NotFound
        if request["http"]["method"] != "POST":
            raise MethodNotAllowed
        answer = _take(event)
    except BillingError as error:
        metrics.add_metric(Metric.WEBHOOK_REFUSED, MetricUnit.Count, 1)
        if isinstance(error, PayloadTooLarge):
            metrics.add_metric(Metric.WEBHOOK_TOO_LARGE, MetricUnit.Count, 1)
        if error.status >= 500:
            fields = {"code": error.code, **place_of(error)}
            logger.exception("webhook.unavailable", extra=fields)
            metric.count_for_watched_build(Metric.NEW_BUILD_ERRORS)
        answer = problems.response(error, request_id)
    security_headers.add_to(answer["headers"])
    return answer


def _take(event: dict[str, Any]) -> dict[str, Any]:
    body = _body(event)
    try:
        wiring.webhook_verifier().verify(body, event["headers"].get("x-commet-signature", ""))
    except BadSignature:
        _count_failure(len(body))
        raise
    receipt = inbox.receive(
        wiring.database(), body, mode=wiring.settings().commet_mode, now=wiring.now()
    )
    metrics.add_metric(_OUTCOMES[receipt.outcome], MetricUnit.Count, 1)
    logger.info(
        "webhook.received",
        event_id=receipt.event_id,
        event_type=receipt.event_type,
        outcome=receipt.outcome,
    )
    answer = {"received": True, "outcome": receipt.outcome}
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json", "Cache-Control": "no-store"},
        "body": json.dumps(answer),
        "isBase64Encoded": False,
    }


def _body(event: dict[str, Any]) -> bytes:
    text = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(text).encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        raise BadSignature from None


def _count_failure(size: int) -> None:
    global _failures  # noqa: PLW0603 - one counter per environment, only for the log
    metrics.add_metric(Metric.WEBHOOK_BAD_SIGNATURE, MetricUnit.Count, 1)
    if _failures % _LOG_ONE_IN == 0:
        logger.warning("webhook.bad_signature", body_bytes=size)
    _failures += 1
