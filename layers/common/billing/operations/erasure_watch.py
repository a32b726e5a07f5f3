"""Continues erasures: ends what runs at Commet, removes the person's data there, and finishes.

The steps are done in this order, because each needs the one before:
1. All usage is delivered, then every live subscription is canceled at once.
2. If a product gave the user's id, Commet gets another id for the customer. Deliveries name the
   customer by the old id, so they come first. (`contacts` overwrites address and name.)
3. When deliveries, invoices and disputes are closed, and at the latest 60 days after the request,
   the id and the texts that a product wrote into the ledger are replaced here. If Commet has not
   allowed the other steps by then, they are tried for as long as it takes.

A subscription that begins later (somebody pays on an old checkout page) makes the erasure due
again.
"""

from collections.abc import Callable
from dataclasses import dataclass

from aws_lambda_powertools import Logger

from billing.accounts import erasing
from billing.clock import Clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions import from_answer, mirror, refresh

_sql = Statements(__file__)

logger = Logger(child=True)

Deliver = Callable[[str, Deadline], bool]

_CALL_SECONDS = 10.0
# Commet refused the API key, and not the question.
_KEY_REFUSED = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Watched:
    """How many erasures this run continued, and how many it finished."""

    worked: int = 0
    finished: int = 0


def run(
    db: Database,
    commet: Commet,
    budget: Budget,
    *,
    deliver: Deliver,
    clock: Clock,
    deadline: Deadline,
) -> Watched:
    """Continues the erasures that are due, as time and the call budget allow.

    `deliver` sends all usage of a user to Commet, and returns whether nothing is left. If Commet
    refuses or does not answer, the step is tried again after at most an hour. Raises CommetRefused
    for a refused key.
    """
    work = _Work(
        db=db, commet=commet, budget=budget, deliver=deliver, clock=clock, deadline=deadline
    )
    worked = finished = 0
    db.execute(_sql["move_debts"])
    while deadline.remaining() > 0:
        row = db.one(_sql["lease"])
        if row is None:
            break
        worked += 1
        try:
            finished += work.go_on(row)
        except (CommetRefused, CommetUnavailable) as error:
            work.postpone(row["user_id"])
            fields = {"user_id": row["pseudonym"], "commet_code": error.commet_code}
            logger.warning("erasure.postponed", extra=fields)
            if isinstance(error, CommetRefused) and error.commet_status in _KEY_REFUSED:
                raise
    return Watched(worked, finished)


def stuck(db: Database) -> int:
    """Returns of how many erased users Commet still has something after a day: what runs, id or
    address.
    """
    return int(db.value(_sql["stuck"]) or 0)


class _Work:
    """The work on erasures, one after the other."""

    def __init__(
        self,
        *,
        db: Database,
        commet: Commet,
        budget: Budget,
        deliver: Deliver,
        clock: Clock,
        deadline: Deadline,
    ) -> None:
        self._db = db
        self._commet = commet
        self._budget = budget
        self._deliver = deliver
        self._clock = clock
        self._deadline = deadline

    def go_on(self, row: Row) -> bool:
        """Continues an erasure. Returns whether it is finished here. Commet's part may take
        longer.
        """
        user_id = row["user_id"]
        if row["overdue"] and not row["finished"]:
            return erasing.replace(self._db, user_id, self._deadline)
        if not self._end(user_id) or not self._rename(row):
            self.postpone(user_id)
            return False
        if row["finished"]:
            self._db.execute(_sql["done"], {"user_id": user_id})
            return False
        if self._db.value(_sql["is_closed"], {"user_id": user_id}):
            # For a large ledger, the next run continues when the lease has ended.
            return erasing.replace(self._db, user_id, self._deadline)
        self._db.execute(_sql["look_again"], {"user_id": user_id})
        return False

    def postpone(self, user_id: str) -> None:
        """Makes the erasure due again later. The pause grows to an hour."""
        self._db.execute(_sql["postpone"], {"user_id": user_id})

    def _end(self, user_id: str) -> bool:
        """Returns whether nothing of the user runs at Commet, and all usage is delivered."""
        live = self._live(user_id)
        if not self._deliver(user_id, self._deadline):
            return False
        for subscription_id in live:
            self._cancel(user_id, subscription_id)
        if live:
            limit = self._limit(3)
            refresh.refresh(self._db, self._commet, user_id, now=self._clock(), deadline=limit)
            if self._live(user_id):
                return False
        self._db.execute(_sql["ended"], {"user_id": user_id})
        return True

    def _live(self, user_id: str) -> list[str]:
        return [row["id"] for row in self._db.all(_sql["live"], {"user_id": user_id})]

    def _cancel(self, user_id: str, subscription_id: str) -> None:
        asked_at = self._clock()
        try:
            answer = self._commet.cancel_subscription(
                subscription_id, immediate=True, deadline=self._limit(1)
            )
        except CommetRefused as error:
            if error.commet_code != "subscription_already_canceled" and error.commet_status != 404:
                raise
            return
        change = from_answer.subscription_change(answer, asked_at)
        mirror.record_change(self._db, user_id, change, at=answer.updated_at, now=self._clock())

    def _rename(self, row: Row) -> bool:
        """Returns whether Commet has the pseudonym for the user's customer, or has no customer
        of the user.
        """
        if row["renamed"]:
            return True
        user_id, pseudonym = row["user_id"], row["pseudonym"]
        was_given = pseudonym != user_id or row["replaced"]
        customer = self._db.one(_sql["customer"], {"user_id": user_id})
        if customer is None or customer["awaited"]:
            return False
        if was_given and customer["id"] is not None:
            try:
                self._commet.update_customer(
                    customer["id"], external_id=pseudonym, deadline=self._limit(1)
                )
            except CommetRefused as error:
                if error.commet_status != 404:
                    raise
        self._db.execute(_sql["renamed"], {"user_id": user_id})
        return True

    def _limit(self, calls: int) -> Deadline:
        if not self._budget.wait(calls, self._deadline):
            raise CommetUnavailable
        return self._deadline.within(_CALL_SECONDS)
