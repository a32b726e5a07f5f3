"""What a user owes. Asks nobody, so it loads fast: `refusing` asks Commet before a refusal."""

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
    """What the user owes, as far as our copy knows; None below the floor (`DebtFloor`).

    Of debts in several currencies, the sum of the first by its code.
    """
    row = db.one(_sql["owing"], {"user_id": user_id})
    return Owing(row["amount"], row["currency"]) if row else None
