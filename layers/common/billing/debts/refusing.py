"""Refuses a checkout to a user who owes. Before that, asks Commet whether the debts were paid."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from billing.accounts.limits import Limit, Turn
from billing.amounts import format_money
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts import invoices, links, reading
from billing.errors import (
    CallBudgetSpent,
    CommetRefused,
    CommetUnavailable,
    Conflict,
    DebtOpen,
)

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

# How many times Commet may be asked about the debts of a user who wants to check out.
QUESTIONS = Limit(10, timedelta(hours=1))
# How long a person waits for the amounts of debts to be read.
_READ_SECONDS = 4.0


class Debtors:
    """Decides whether a user may check out. `app_url` is the address to return to after paying."""

    def __init__(
        self, db: Database, commet: "Commet", clock: Callable[[], datetime], app_url: str
    ) -> None:
        self._db = db
        self._commet = commet
        self._clock = clock
        self._app_url = app_url

    def check(self, user_id: str, deadline: Deadline) -> None:
        """Returns if the user owes less than the floor; raises otherwise.

        First asks Commet for the debts' amounts that are not known. Before it refuses, asks Commet
        whether the debts were paid. Raises DebtOpen; Conflict `debt_payment_processing` while a
        payment is processed, or `checkout_in_progress`; TooManyRequests if the user's questions of
        this hour are used up; CommetUnavailable if Commet does not answer whether the debts were
        paid; CommetRefused.
        """
        turn = Turn(self._db, f"debts:{user_id}", QUESTIONS, self._clock())
        sent = self._commet.sent
        try:
            self._check(user_id, turn, deadline)
        except CallBudgetSpent:
            if self._commet.sent == sent:
                turn.give_back()
            raise

    def _check(self, user_id: str, turn: Turn, deadline: Deadline) -> None:
        if self._has_unread(user_id):
            turn.take()
            # A debt whose amount is not known refuses nobody, so a failed question changes nothing.
            with suppress(CommetUnavailable, CommetRefused):
                limit = deadline.within(_READ_SECONDS)
                for find_out in (invoices.find, reading.find_out):
                    find_out(self._db, self._commet, user_id, now=self._clock(), deadline=limit)
        if not self.owes(user_id):
            return
        turn.take()
        statuses = links.ask(self._db, self._commet, user_id, now=self._clock(), deadline=deadline)
        invoices.find_collected(
            self._db, self._commet, user_id, now=self._clock(), deadline=deadline
        )
        if not self.owes(user_id):
            return
        if "processing" in statuses:
            raise Conflict(
                "The payment of the debt is being processed. Try again in a minute.",
                code="debt_payment_processing",
                retry_after=30,
            )
        raise self._refusal(user_id, deadline)

    def _refusal(self, user_id: str, deadline: Deadline) -> DebtOpen:
        owed = self._db.one(_sql["owed"], {"user_id": user_id})
        if owed is None:  # the debts have ended in this moment
            raise Conflict(
                "The debt is being settled. Try again in a few seconds.",
                code="checkout_in_progress",
                retry_after=2,
            )
        amount: Decimal = owed["amount"]
        currency: str = owed["currency"]
        url = self._recovery_url(owed["past_due"], deadline)
        if url is None:
            link = links.offer(
                self._db,
                self._commet,
                user_id,
                success_url=self._app_url,
                now=self._clock(),
                deadline=deadline,
            )
            if link is not None:
                amount, currency, url = link.total, link.currency, link.url
        return DebtOpen(format_money(amount, currency), currency, url)

    def _recovery_url(self, subscription_id: str | None, deadline: Deadline) -> str | None:
        """Returns Commet's page on which a past due subscription is paid; None if there is none."""
        if subscription_id is None:
            return None
        with suppress(CommetRefused):  # the subscription is no longer past due
            return self._commet.create_recovery_link(subscription_id, deadline).url
        return None

    def _has_unread(self, user_id: str) -> bool:
        return bool(self._db.value(_sql["has_unread"], {"user_id": user_id}))

    def owes(self, user_id: str) -> bool:
        """Returns whether the user's open debts reach the floor."""
        return bool(self._db.value(_sql["has_debt"], {"user_id": user_id}))
