"""Checks whether the database can do its work."""

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import DatabaseUnavailable

_sql = Statements(__file__)


def check(db: Database) -> None:
    """Raises DatabaseUnavailable if the server is read-only, or has no tables of ours."""
    if not db.value(_sql["is_ready"]):
        raise DatabaseUnavailable
