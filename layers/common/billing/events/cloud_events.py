"""The form in which outgoing events are sent: CloudEvents 1.0, as JSON."""

from datetime import UTC
from typing import Any

from billing.events.log import OutgoingEvent


def document(event: OutgoingEvent, source: str) -> dict[str, Any]:
    """Returns the event as a CloudEvent. `source`: the product's address, or "/" if it has none.

    Every delivery of an event has the same `id` and the same document.
    """
    at = event.occurred_at.astimezone(UTC)
    return {
        "specversion": "1.0",
        "id": str(event.id),
        "source": source,
        "type": event.type,
        "subject": event.user_id,
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "sequence": str(event.sequence),
        "data": event.data,
    }
