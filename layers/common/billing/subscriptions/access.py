"""May this user use what they pay for? Somebody who has just paid is never told to pay."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from billing.commet.call_budget import Budget
from billing.config import Settings
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions import mirror
from billing.subscriptions.mirror import Subscription

if TYPE_CHECKING:
    from billing.commet.client import Commet

# What a request may spend on making sure of one user before it refuses, and of several; the mirror
# answers otherwise.
_BUDGET_SECONDS = 4.0
_SEVERAL_SECONDS = 6.0

# A request asks about so many users; the rest may come again.
_ASK_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Doubts:
    """What came of asking about users who would be refused.

    Of `answered` the mirror may say something else now. To refuse the `unconfirmed` for good would
    be wrong: they may have paid. With each, how old the newest that is known of them is.
    """

    answered: Collection[str]
    unconfirmed: Mapping[str, datetime]


class Access:
    """Answers from the mirror, and asks Commet before it refuses.

    `commet` is called only then: building the client costs the import of httpx.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        commet: "Callable[[], Commet]",
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._settings = settings
        self._commet = commet
        self._clock = clock
        self._budget = Budget(db, settings.commet_calls_per_second)

    def standing(self, user_id: str, deadline: Deadline) -> tuple[Subscription | None, bool]:
        """The subscription that speaks for the user, and whether it gives access."""
        found = self._read(user_id)
        if found[1] or not self.ask(user_id, deadline):
            return found
        return self._read(user_id)

    def settle(self, users: Collection[str], deadline: Deadline) -> Doubts:
        """Asks about users who would be refused for want of access: at most five of them."""
        deadline = deadline.within(_SEVERAL_SECONDS)
        askable = mirror.askable(self._db, users, self._clock())
        answered = {user for user in askable[:_ASK_AT_MOST] if self.ask(user, deadline)}
        open_questions = mirror.unanswered(self._db, users, self._clock())
        unconfirmed = {
            user: as_of for user, as_of in open_questions.items() if user not in answered
        }
        return Doubts(answered, unconfirmed)

    def ask(self, user_id: str, deadline: Deadline) -> bool:
        """Asks Commet about the user where something may have changed; whether it answered.

        At most once in ten seconds per user, whoever asks; not at all without a row that could
        have changed, nor beyond the budget of the whole stack.
        """
        now = self._clock()
        if not mirror.claim_refresh(self._db, user_id, now):
            return False
        from billing.subscriptions import refresh  # late: brings in httpx

        rows = mirror.refreshable(self._db, user_id)
        if not self._budget.take(refresh.calls(rows)):
            mirror.release_refresh(self._db, user_id)
            return False
        try:
            deadline = deadline.within(_BUDGET_SECONDS)
            truth = refresh.ask(self._commet(), user_id, rows, now=now, deadline=deadline)
            refresh.write(self._db, rows, truth)
        except CommetUnavailable as error:
            if error.asked_retry_after is not None:
                self._budget.pause(error.asked_retry_after)
            return False
        except CommetRefused:
            return False
        return True

    def _read(self, user_id: str) -> tuple[Subscription | None, bool]:
        found = mirror.current(self._db, user_id)
        return found, found is not None and found.gives_access(self._settings.live_statuses)
