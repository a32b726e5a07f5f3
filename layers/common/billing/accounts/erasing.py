"""Erases a user at once, as far as no call to Commet is needed; reconcile does the rest.

The rules are in `database/routines/erasing.sql`.
"""

from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import Conflict, NotFound

_sql = Statements(__file__)

# How many entries of the ledger one statement of the second step looks at.
_AT_ONCE = 5000
_MOST_STATEMENTS = 20
# A statement takes five seconds at most, then the database ends it.
_STATEMENT_SECONDS = 6.0
# For how long a request begins statements of the second step, and one statement more.
_REQUEST_SECONDS = 10.0


def erase(db: Database, user_id: str, *, by: Actor) -> None:
    """The first step of erasure. Never refused, may be repeated.

    Raises NotFound `unknown_user`.
    """
    asked = trail.entry(by, Action.ERASURE_ASKED)
    if not db.value(_sql["erase"], {"user_id": user_id, "asked": asked}):
        raise NotFound("There is no user with this id.", code="unknown_user")


def make_way(db: Database, user_id: str, deadline: Deadline) -> None:
    """Has an erased user give up the id that a product wants to use again, where that is safe.

    It is safe five hours after Commet has taken another id for the customer: until then a webhook
    with the old id may still come, and would be taken for one about the new user. Raises Conflict
    `being_erased` before that, and where a large ledger takes more than ten seconds: the next
    request then goes on.
    """
    if not db.value(_sql["may_make_way"], {"user_id": user_id}):
        raise being_erased()
    if not replace(db, user_id, deadline.within(_REQUEST_SECONDS)):
        raise being_erased()


def replace(db: Database, user_id: str, deadline: Deadline) -> bool:
    """The second step of erasure. Returns whether it is done.

    A large ledger takes several calls: each goes on where the last one ended. No statement is begun
    that might not end before the deadline.
    """
    for _ in range(_MOST_STATEMENTS):
        if deadline.remaining() < _STATEMENT_SECONDS:
            return False
        done = db.value(_sql["replace"], {"user_id": user_id, "limit": _AT_ONCE})
        if done is not False:
            return True
    return False


def being_erased() -> Conflict:
    """The error to raise where an id is still that of an erased user."""
    return Conflict(
        "The account with this id is being erased. Try again in some hours, or use another id.",
        code="being_erased",
    )
