"""The payment trouble that a user has now, as recorded from Commet's webhooks."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class OpenTrouble:
    """A payment trouble that goes on since `since`.

    `kind` is failed_payment, dispute or unpaid_invoice. `amount` is in major units. `amount` and
    `currency` are None if Commet did not state them. `recovery_url` is the page on which the user
    can make up for a failed payment.
    """

    kind: str
    since: datetime
    amount: Decimal | None
    currency: str | None
    recovery_url: str | None


def open_of_user(db: Database, user_id: str) -> OpenTrouble | None:
    """Returns the trouble to show to the user: a failed renewal, else a dispute, else an overdue
    invoice.

    A failed renewal and an overdue invoice count only while the subscription is past due. So nobody
    who has paid is asked to pay because a webhook was lost.
    """
    row = db.one(_sql["open_of_user"], {"user_id": user_id})
    return OpenTrouble(**row) if row else None


def has_open_dispute(db: Database, user_id: str) -> bool:
    """Returns whether a payment of the user is disputed and the outcome is not known."""
    return bool(db.value(_sql["has_open_dispute"], {"user_id": user_id}))
