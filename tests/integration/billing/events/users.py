"""Users about whom nothing was told yet."""

from typing import Any

from billing.database.connection import Database
from tests.integration.billing import conftest


def add_user(db: Database, user_id: str, **fields: Any) -> str:
    """A new user, without the event that says so: tests count the events that they make."""
    conftest.add_user(db, user_id, **fields)
    db.execute("delete from outgoing_event where user_id = %s", [user_id])
    return user_id
