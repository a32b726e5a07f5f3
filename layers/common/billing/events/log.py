"""The log of outgoing events: gives events their places, and reads them in the order of places.

A reader who has read up to a place never misses an event with a smaller place
(routines/outgoing_events.sql).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """An outgoing event that has its place."""

    id: UUID
    place: int  # among all events
    sequence: int  # among the user's events
    user_id: str
    type: str
    occurred_at: datetime
    data: dict[str, Any]


def place(db: Database, limit: int = 1000) -> int:
    """Gives a place to at most `limit` committed events, the oldest first. Returns how many."""
    return int(db.value(_sql["place"], {"limit": limit}) or 0)


def after(
    db: Database,
    place: int,
    limit: int,
    types: Sequence[str] | None = None,
    user_id: str | None = None,
) -> list[OutgoingEvent]:
    """Returns the first `limit` events after a place, of some types and of one user if these
    are named.
    """
    params = {
        "place": place,
        "limit": limit,
        "types": None if types is None else list(types),
        "user_id": user_id,
    }
    return [OutgoingEvent(**row) for row in db.all(_sql["after"], params)]


def prune(db: Database, age: timedelta, limit: int) -> int:
    """Deletes up to `limit` events that have a place and are older than `age`. Returns how many."""
    return len(db.all(_sql["prune"], {"age": age, "limit": limit}))
