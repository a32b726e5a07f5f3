"""Emits the outgoing events that become true by time or by a parameter, and not by a request.

All other events are inserted by the statements that make them true (routines/telling.sql).
"""

from collections.abc import Collection
from datetime import datetime

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

_BATCH = 200


def keep_statuses(db: Database, statuses: Collection[str]) -> None:
    """Sets the subscription statuses that give access, for all events from now on."""
    db.execute(_sql["keep_statuses"], {"statuses": sorted(statuses)})


def tell_what_is_due(db: Database, now: datetime, deadline: Deadline) -> None:
    """Emits events about trials that end within three days, and about access that changed by
    itself.

    A known end that Commet has not confirmed for a day ends access. A change of PastDueHasAccess
    changes the access of users who are past due. Each event is emitted once, however many runs
    there are.
    """
    after: str | None = ""
    while after is not None and deadline.remaining() > 0:
        after = db.value(_sql["tell_what_is_due"], {"after": after, "limit": _BATCH, "now": now})
