"""A user's list of sessions, and ending them."""

from dataclasses import dataclass
from datetime import datetime

from billing.accounts import accounts
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import NotFound

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A session as its user sees it. `last_seen_at` is exact to the hour."""

    id: str
    device: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    is_current: bool


def of_user(db: Database, user_id: str, *, token: str, now: datetime) -> list[Listed]:
    """Returns the user's sessions that have not ended: first that of `token`, then by last use."""
    params = {"user_id": user_id, "token_sha256": accounts.digest(token), "now": now}
    return [Listed(**row) for row in db.all(_sql["of_user"], params)]


def began_at(db: Database, token: str) -> datetime | None:
    """Returns when the session of this token began, by the functions' clock; None if there is
    none.
    """
    found: datetime | None = db.value(_sql["began_at"], {"token_sha256": accounts.digest(token)})
    return found


def end(db: Database, user_id: str, session_id: str) -> None:
    """Ends one session of the user. Raises NotFound `session_not_found`."""
    if not db.all(_sql["end_one"], {"user_id": user_id, "id": session_id}):
        raise NotFound("There is no session with this id.", code="session_not_found")


def end_others(db: Database, user_id: str, token: str) -> int:
    """Ends all sessions of the user except that of `token`. Returns how many."""
    params = {"user_id": user_id, "token_sha256": accounts.digest(token)}
    return len(db.all(_sql["end_others"], params))


def end_all(db: Database, user_id: str) -> int:
    """Ends all sessions of the user. Returns how many."""
    return len(db.all(_sql["end_all"], {"user_id": user_id}))
