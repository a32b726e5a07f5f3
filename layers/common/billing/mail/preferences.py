"""What users have chosen about mails. Mails about payments and trials cannot be switched off."""

from dataclasses import dataclass

from billing.audit.trail import Action, Actor, entry
from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Preferences:
    """Which mails a user gets, of those that may be switched off."""

    thresholds: bool  # about thresholds of usage and spending


def read(db: Database, user_id: str) -> Preferences:
    """Returns the user's preferences. A user who has chosen nothing gets all mails."""
    return Preferences(bool(db.value(_sql["read"], {"user_id": user_id})))


def change(db: Database, user_id: str, preferences: Preferences, *, by: Actor) -> bool:
    """Replaces the user's preferences. Returns False if there is no such user."""
    params = {
        "user_id": user_id,
        "thresholds": preferences.thresholds,
        "entry": entry(by, Action.MAILS_CHANGED, thresholds=preferences.thresholds),
    }
    return db.value(_sql["change"], params) is not None
