"""Seeing that Commet still sends its webhooks to us, and having it begin again where it stopped.

Commet disables an endpoint after three events in a row that it could not deliver, tells a person
by mail, and replays nothing. So a disabled one is switched on, and whatever may have changed
meanwhile is read again.
"""

from collections.abc import Callable
from enum import Enum

from billing.commet.client import Commet
from billing.deadline import Deadline


class Endpoint(Enum):
    """How our webhook endpoint was found."""

    ACTIVE = "active"
    ENABLED_AGAIN = "enabled_again"
    MISSING = "missing"  # not registered: only the deployment can, because it keeps the secret
    UNKNOWN = "unknown"  # this deployment was not told its own address


def look_after(
    commet: Commet, url: str, *, before_enabling: Callable[[], None], deadline: Deadline
) -> Endpoint:
    """Finds the endpoint with our address and switches it on where it is off.

    `before_enabling` is called first, so that what has to follow is not forgotten. Raises
    CommetUnavailable or CommetRefused.
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
