"""Outgoing events that no statement of a request makes true: those of time and of a parameter.

All others are inserted by the statements that make them true (routines/telling.sql).
"""

from collections.abc import Collection
from datetime import datetime

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

_BATCH = 200


def keep_statuses(db: Database, statuses: Collection[str]) -> None:
    """Makes these the statuses of a subscription that give access, for all events from now on."""
    db.execute(_sql["keep_statuses"], {"statuses": sorted(statuses)})


def tell_what_is_due(db: Database, now: datetime, deadline: Deadline) -> None:
    """Tells trials that end within three days, and who got or lost access without a change.

    A known end that Commet has not confirmed for a day ends access, and so does a change of
    PastDueHasAccess for users who are past due. Each is told once, however many runs there are.
    """
    after: str | None = ""
    while after is not None and deadline.remaining() > 0:
        after = db.value(_sql["tell_what_is_due"], {"after": after, "limit": _BATCH, "now": now})
