"""Sends a user's new address and name to Commet.

The statement that changes them also records the change (`contact_changed` in
routines/customers.sql), and the schedule sends it to Commet. So no request waits for Commet, and
nothing is lost while Commet is down.
"""

from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger

from billing.commet.call_budget import Budget
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

logger = Logger(child=True)

# Less than the lease, so that a call ends before its lease.
_CALL_SECONDS = 10.0
# Commet refused the API key, not the address.
_KEY_REFUSED = frozenset({401, 403})
_GONE = 404  # Commet has no such customer, so it has nothing of an erased user to forget


def compare(db: Database, user_id: str, told: str | None) -> None:
    """Makes the schedule send the user's address to Commet if it is not `told`, the one Commet
    has.
    """
    if told is not None:
        db.execute(_sql["compare"], {"user_id": user_id, "email": told})


def run(db: Database, commet: "Commet", budget: Budget, deadline: Deadline) -> int:
    """Sends changed contact data to Commet, as time and call budget allow. Returns for how many
    users.

    If Commet refuses a change, for example because another customer has the address, the code is
    stored and the change is not sent again until the user changes. For an erased user, it is sent
    again every hour. Raises CommetUnavailable, and CommetRefused for a refused key; a later run
    then sends the rest.
    """
    told = 0
    while leased := db.one(_sql["lease"]):
        if not budget.wait(1, deadline):
            db.execute(_sql["unlease"], {"user_id": leased["user_id"]})
            break
        told += _tell(db, commet, leased["user_id"], leased["version"], deadline)
    return told


def _tell(db: Database, commet: "Commet", user_id: str, version: int, deadline: Deadline) -> bool:
    contact = db.one(_sql["contact"], {"user_id": user_id})
    if contact is None or contact["commet_customer_id"] is None or contact["email"] is None:
        return False  # the user has lost the customer or the address since
    try:
        commet.update_contact(
            contact["commet_customer_id"],
            email=contact["email"],
            name=contact["name"],
            deadline=deadline.within(_CALL_SECONDS),
        )
    except CommetUnavailable as error:
        # A call without an answer may still arrive at Commet. So its lease remains, and a newer
        # address is sent after it.
        if error.commet_code is not None:
            db.execute(_sql["unlease"], {"user_id": user_id})
        raise
    except CommetRefused as error:
        if error.commet_status in _KEY_REFUSED:
            db.execute(_sql["unlease"], {"user_id": user_id})
            raise
        code = error.commet_code
        if contact["is_erased"] and error.commet_status == _GONE:
            db.execute(_sql["told"], {"user_id": user_id, "version": version})
            return True
        db.execute(_sql["refused"], {"user_id": user_id, "version": version, "code": code})
        logger.warning("contact.refused", extra={"user_id": user_id, "commet_code": code})
        return False
    db.execute(_sql["told"], {"user_id": user_id, "version": version})
    db.execute(_sql["unlease"], {"user_id": user_id})
    return True
