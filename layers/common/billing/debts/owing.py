"""What a user owes, from the database alone, so this module loads fast. `refusing` asks Commet."""

from dataclasses import dataclass
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Owing:
    """A sum of open debts in one currency, in major units."""

    amount: Decimal
    currency: str


def owing(db: Database, user_id: str) -> Owing | None:
    """Returns what the user owes by our copy; None if it is below the floor (`DebtFloor`).

    If the user has debts in several currencies, returns the sum in the currency whose code is
    first.
    """
    row = db.one(_sql["owing"], {"user_id": user_id})
    return Owing(row["amount"], row["currency"]) if row else None
