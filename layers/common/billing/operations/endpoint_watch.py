"""Checks that our webhook endpoint is active at Commet, and switches it on if it is not.

Commet disables an endpoint after three webhooks in a row that it could not deliver. It sends a mail
to a person, and never sends the missed webhooks again. So a sweep follows, which reads everything
that may have changed meanwhile.
"""

from collections.abc import Callable
from enum import Enum

from billing.commet.client import Commet
from billing.deadline import Deadline


class Endpoint(Enum):
    """The state in which our webhook endpoint was found."""

    ACTIVE = "active"
    ENABLED_AGAIN = "enabled_again"
    MISSING = "missing"  # only a deployment can register it, because it stores the secret
    UNKNOWN = "unknown"  # WEBHOOK_URL is empty, or Commet did not answer


def look_after(
    commet: Commet, url: str, *, before_enabling: Callable[[], None], deadline: Deadline
) -> Endpoint:
    """Finds the endpoint with our address `url`, and switches it on if it is disabled.

    `before_enabling` is called before the endpoint is switched on. Raises CommetUnavailable or
    CommetRefused.
    """
    if not url:
        return Endpoint.UNKNOWN
    ours = [each for each in commet.webhooks(deadline) if _same(each.url, url)]
    if not ours:
        return Endpoint.MISSING
    if any(each.is_active for each in ours):
        return Endpoint.ACTIVE
    before_enabling()
    commet.update_webhook(ours[0].id, is_active=True, deadline=deadline)
    return Endpoint.ENABLED_AGAIN


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
