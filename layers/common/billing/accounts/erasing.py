"""Erases a user at once, except for what needs calls to Commet; reconcile does those.

The rules are in `database/routines/erasing.sql`.
"""

from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import Conflict, NotFound

_sql = Statements(__file__)

# How many ledger entries one statement of the second step reads.
_AT_ONCE = 5000
_MOST_STATEMENTS = 20
# Time for one statement. The database ends a statement after five seconds.
_STATEMENT_SECONDS = 6.0
# How long a request begins statements of the second step. The last one may end later.
_REQUEST_SECONDS = 10.0


def erase(db: Database, user_id: str, *, by: Actor) -> None:
    """Does the first step of erasure. It is never refused, and may be repeated.

    Raises NotFound `unknown_user`.
    """
    asked = trail.entry(by, Action.ERASURE_ASKED)
    if not db.value(_sql["erase"], {"user_id": user_id, "asked": asked}):
        raise NotFound("There is no user with this id.", code="unknown_user")


def make_way(db: Database, user_id: str, deadline: Deadline) -> None:
    """Frees the id of an erased user for a product that wants to use the id again, if that is safe.

    It is safe five hours after Commet has taken another id for the customer. Until then a webhook
    with the old id may arrive, and would be taken for one about the new user. Raises Conflict
    `being_erased` before that time, and if a large ledger takes more than ten seconds: the next
    request then continues.
    """
    if not db.value(_sql["may_make_way"], {"user_id": user_id}):
        raise being_erased()
    if not replace(db, user_id, deadline.within(_REQUEST_SECONDS)):
        raise being_erased()


def replace(db: Database, user_id: str, deadline: Deadline) -> bool:
    """Does the second step of erasure. Returns whether it is done.

    A large ledger takes several calls. Each call continues where the last one ended. No statement
    is begun that might not end before the deadline.
    """
    for _ in range(_MOST_STATEMENTS):
        if deadline.remaining() < _STATEMENT_SECONDS:
            return False
        done = db.value(_sql["replace"], {"user_id": user_id, "limit": _AT_ONCE})
        if done is not False:
            return True
    return False


def being_erased() -> Conflict:
    """Returns the error to raise if an erased user still has the id."""
    return Conflict(
        "The account with this id is being erased. Try again in some hours, or use another id.",
        code="being_erased",
    )
