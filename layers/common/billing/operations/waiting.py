"""What waits for an operator: the rows that the alarms count, for the operators' page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.delivery import outbox

_sql = Statements(__file__)

# More deliveries than these are not counted, so that counting takes no longer in an outage.
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
    """A total that differs from Commet's. `repair` says how far a repair has come, if any."""

    user_id: str
    feature: str
    ours: Decimal
    theirs: Decimal
    found_at: datetime
    repair: str | None


def pending(db: Database) -> int:
    """How many deliveries are not sent yet; `MOST_COUNTED` + 1 where there are more than those."""
    return int(db.value(_sql["pending"], {"limit": MOST_COUNTED + 1}))


def parked(db: Database, limit: int) -> Sequence[Parked]:
    """The deliveries that wait for a person, those first that wait longest.

    They are those that `outbox.gauges` counts.
    """
    params = {"undecided": outbox.KEY_LIFETIME + outbox.PATIENCE, "limit": limit}
    return [Parked(**row) for row in db.all(_sql["parked"], params)]


def dead_webhooks(db: Database, limit: int) -> Sequence[DeadWebhook]:
    """The webhooks that wait for a person, those first that came last."""
    return [DeadWebhook(**row) for row in db.all(_sql["dead_webhooks"], {"limit": limit})]


def drift(db: Database, limit: int) -> Sequence[Drift]:
    """The totals that differ from Commet's, those first that differ longest."""
    return [Drift(**row) for row in db.all(_sql["drift"], {"limit": limit})]
