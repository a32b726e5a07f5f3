"""Asks Commet about customers if a webhook or the sweep did not say who they are.

A webhook may name a customer by Commet's own id before we know the customer's user. If a customer
gets another user, Commet is asked what that user has now. If Commet gave a customer to a user only
because of the address, the customer is given back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from billing.clock import Clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.delivery import outbox
from billing.errors import CommetRefused
from billing.subscriptions import customers, mirror, refresh

_sql = Statements(__file__)

_AT_ONCE = 20
# Why usage was parked of a user whose customer Commet had given to another user.
_REFUSED = "customer_not_found"
_CALL_SECONDS = 10.0
# Commet refused the API key, and not the question.
_KEY_REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Watched:
    """How many customers Commet was asked about, and how many of them have a user here."""

    asked: int = 0
    linked: int = 0


def run(
    db: Database, commet: Commet, budget: Budget, *, clock: Clock, deadline: Deadline
) -> Watched:
    """Asks about the customers that are due, as time and the call budget allow.

    If Commet does not know a customer, it is not asked about again. Raises CommetUnavailable, and
    CommetRefused for a refused key; a later run then asks about the rest.
    """

    def limit(calls: int) -> Deadline:
        """Takes calls from the budget. Returns the time by which they must be over."""
        if not budget.wait(calls, deadline):
            raise _OutOfTime
        return deadline.within(_CALL_SECONDS)

    watched = Watched()
    while leased := db.all(_sql["lease"], {"limit": _AT_ONCE}):
        for row in leased:
            try:
                user_id, due_at = _look(db, commet, row["id"], clock, limit)
            except CommetRefused as error:
                if error.commet_status in _KEY_REFUSED:
                    raise
                continue  # asked again when its lease has ended
            except _OutOfTime:
                return watched
            db.execute(_sql["settle"], {"customer_id": row["id"], "due_at": due_at})
            watched = Watched(watched.asked + 1, watched.linked + (user_id is not None))
    return watched


class _OutOfTime(Exception):
    """The call budget or the time is used up."""


def _look(
    db: Database,
    commet: Commet,
    customer_id: str,
    clock: Clock,
    limit: Callable[[int], Deadline],
) -> tuple[str | None, datetime | None]:
    """Asks about one customer, and about what its user has.

    Returns the user, and the customer's `due_at` before the second question. If `due_at` is another
    one afterwards, Commet has to be asked again.
    """
    _ask(db, commet, customer_id, clock, limit(1))
    found = _standing(db, customer_id)
    if found["by_email"]:
        named = found["user_id"]
        customers.give_back(db, commet, customer_id, named=named, now=clock(), deadline=limit(1))
        if named is not None:  # deliveries of the user that Commet refused meanwhile
            outbox.redrive(db, user_id=named, reason=_REFUSED)
        found = _standing(db, customer_id)
    user_id: str | None = found["user_id"]
    if user_id is not None:
        calls = refresh.calls(mirror.refreshable(db, user_id))
        refresh.refresh(db, commet, user_id, now=clock(), deadline=limit(calls))
    return user_id, found["due_at"]


def _standing(db: Database, customer_id: str) -> Row:
    """Returns the customer's user, whether Commet linked it to another one by address, and its
    `due_at`.
    """
    found = db.one(_sql["standing"], {"customer_id": customer_id})
    assert found is not None  # noqa: S101 - it was leased, and customers are never deleted
    return found


def _ask(db: Database, commet: Commet, customer_id: str, clock: Clock, deadline: Deadline) -> None:
    now = clock()
    try:
        customers.record(db, commet.customer(customer_id, deadline), now)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
