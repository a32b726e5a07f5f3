"""Rows that wait for an operator and that the alarms count, for the operators' page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from urllib.parse import urlsplit

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.delivery import outbox

_sql = Statements(__file__)

# Counting stops at this number, so that it takes no longer in an outage.
MOST_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class Parked:
    """A delivery that waits for a person. `since` is when its usage was claimed."""

    event_id: str
    user_id: str
    feature: str
    quantity: Decimal
    reason: str | None
    since: datetime


@dataclass(frozen=True, slots=True)
class DeadWebhook:
    """A webhook that could not be applied in twelve attempts."""

    id: str
    type: str
    user_id: str | None
    received_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Drift:
    """A total that differs from Commet's. `repair` is the state of its repair, if one was asked
    for.
    """

    user_id: str
    feature: str
    ours: Decimal
    theirs: Decimal
    found_at: datetime
    repair: str | None


@dataclass(frozen=True, slots=True)
class EventEndpoint:
    """An endpoint of the product. `failing_since` is its first failure since it last took an event.
    `waits_since` is since when its oldest undelivered event waits; None if none waits.
    """

    id: str
    url: str
    description: str
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_by: str | None  # failures, gone or request
    waits_since: datetime | None

    @property
    def host(self) -> str:
        """The host of the URL, without the rest, which may contain a secret; "" for no URL."""
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""


def pending(db: Database) -> int:
    """Returns how many deliveries are not sent yet; `MOST_COUNTED` + 1 if there are more than
    that.
    """
    return int(db.value(_sql["pending"], {"limit": MOST_COUNTED + 1}))


def parked(db: Database, limit: int) -> Sequence[Parked]:
    """Returns the deliveries that wait for a person, those first that have waited longest.

    They are those that `outbox.gauges` counts.
    """
    params = {"undecided": outbox.KEY_LIFETIME + outbox.PATIENCE, "limit": limit}
    return [Parked(**row) for row in db.all(_sql["parked"], params)]


def dead_webhooks(db: Database, limit: int) -> Sequence[DeadWebhook]:
    """Returns the webhooks that wait for a person, the newest first."""
    return [DeadWebhook(**row) for row in db.all(_sql["dead_webhooks"], {"limit": limit})]


def endpoints(db: Database) -> Sequence[EventEndpoint]:
    """Returns all endpoints of the product, the oldest first. There are ten at most."""
    return [EventEndpoint(**row) for row in db.all(_sql["endpoints"])]


def drift(db: Database, limit: int) -> Sequence[Drift]:
    """Returns the totals that differ from Commet's, those first that have differed longest."""
    return [Drift(**row) for row in db.all(_sql["drift"], {"limit": limit})]
