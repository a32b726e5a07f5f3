"""May this user use what they pay for? Somebody who has just paid is never told to pay."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from billing import subscriptions
from billing.config import Settings
from billing.db import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions import Subscription

if TYPE_CHECKING:
    from billing.commet import Commet

# What a request may spend on making sure before it refuses; the mirror answers otherwise.
_BUDGET_SECONDS = 4.0


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

    def standing(self, user_id: str, deadline: Deadline) -> tuple[Subscription | None, bool]:
        """The subscription that speaks for the user, and whether it gives access."""
        found = self._read(user_id)
        if found[1] or not self.ask(user_id, deadline):
            return found
        return self._read(user_id)

    def ask(self, user_id: str, deadline: Deadline) -> bool:
        """Asks Commet about the user where something may have changed; whether it answered.

        At most once in ten seconds per user, whoever asks, and not at all without a row that
        could have changed.
        """
        if not subscriptions.claim_refresh(self._db, user_id, self._clock()):
            return False
        from billing.refresh import refresh  # late: brings in httpx

        try:
            refresh(
                self._db,
                self._commet(),
                user_id,
                now=self._clock(),
                deadline=deadline.within(_BUDGET_SECONDS),
            )
        except (CommetUnavailable, CommetRefused):
            return False
        return True

    def _read(self, user_id: str) -> tuple[Subscription | None, bool]:
        found = subscriptions.current(self._db, user_id)
        return found, found is not None and found.gives_access(self._settings.live_statuses)
