"""Decides whether a user has access. Asks Commet before it refuses a user without access.

The user may have paid a second ago, and the webhook about it may not have arrived.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from billing.commet.call_budget import Budget
from billing.config import Settings
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions import mirror
from billing.subscriptions.mirror import Subscription

if TYPE_CHECKING:
    from billing.commet.client import Commet

# How long one request may wait for Commet's answer about one user, and about several users. If
# there is no answer by then, the mirror decides.
_ONE_USER_SECONDS = 4.0
_SEVERAL_USERS_SECONDS = 6.0

# One request asks about at most this many users. The caller may ask again about the others.
_ASK_AT_MOST = 5

# Commet is asked before a refusal with one of these codes, because the user may have paid, resumed
# or changed plans a second ago.
_UNSURE = frozenset(
    {
        "subscription_required",
        "access_unconfirmed",
        "limit_reached",
        "payment_overdue",
        "feature_not_in_plan",
    }
)


class Decision(Protocol):
    """The decision about a user's request. `code` is the reason of a refusal, else None."""

    @property
    def code(self) -> str | None: ...


D = TypeVar("D", bound=Decision)


@dataclass(frozen=True, slots=True)
class Decided(Generic[D]):
    """The decisions, in the order of the users.

    `unconfirmed` has the positions of refusals about which Commet should have answered and has not.
    Each has the time of our newest information about the user. They must not be sent as refusals,
    because the user may have paid.
    """

    decisions: Sequence[D]
    unconfirmed: Mapping[int, datetime]


@dataclass(frozen=True, slots=True)
class Asked:
    """Users about whom Commet has answered, and users about whom an answer is missing.

    `unconfirmed` gives, for each user, the time of our newest information.
    """

    answered: Collection[str]
    unconfirmed: Mapping[str, datetime]


class Access:
    """Answers from the mirror, and asks Commet before it refuses.

    `commet` builds the client. It is called only if Commet has to be asked, because the client's
    module imports httpx.
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
        """Returns the user's current subscription or None, and whether it gives access.

        Asks Commet first if the subscription gives no access, or if the user may have changed the
        subscription at Commet.
        """
        found = self._read(user_id)
        if found[1] and not mirror.in_doubt(self._db, user_id):
            return found
        self.ask(user_id, deadline)
        # read again even if Commet was not asked: a webhook may have come
        return self._read(user_id)

    def decide(
        self,
        users: Sequence[str],
        decide: Callable[[Sequence[int]], Sequence[D]],
        deadline: Deadline,
    ) -> Decided[D]:
        """Returns a decision for each of `users`. Asks Commet before it refuses a user without
        access.

        `decide` gets positions in `users` and returns a decision for each. Refusals are decided a
        second time, except those about which Commet should have answered and has not: after the
        first decision, a webhook or the answer to another request may have changed the mirror.
        Commet is asked about at most five users.
        """
        decisions = list(decide(range(len(users))))
        unsure = [i for i, decision in enumerate(decisions) if decision.code in _UNSURE]
        if not unsure:
            return Decided(decisions, {})
        asked = self.ask_about({users[i] for i in unsure}, deadline)
        unconfirmed = {
            i: asked.unconfirmed[u] for i in unsure if (u := users[i]) in asked.unconfirmed
        }
        again = [i for i in unsure if i not in unconfirmed]
        for i, decision in zip(again, decide(again) if again else (), strict=True):
            decisions[i] = decision
        return Decided(decisions, unconfirmed)

    def ask_about(self, users: Collection[str], deadline: Deadline) -> Asked:
        """Asks Commet about at most five of `users`, who would be refused because they have no
        access.
        """
        deadline = deadline.within(_SEVERAL_USERS_SECONDS)
        askable = mirror.askable(self._db, users, self._clock())
        answered = {user for user in askable[:_ASK_AT_MOST] if self.ask(user, deadline)}
        unanswered = mirror.unanswered(self._db, users, self._clock())
        unconfirmed = {user: as_of for user, as_of in unanswered.items() if user not in answered}
        return Asked(answered, unconfirmed)

    def ask(self, user_id: str, deadline: Deadline) -> bool:
        """Asks Commet about the user and writes the answer into the mirror.

        Returns whether Commet answered. Commet is not asked if no row of the user can have changed,
        if anybody asked about the user in the last ten seconds, or if the stack's call budget is
        used up.
        """
        now = self._clock()
        if not mirror.lease_refresh(self._db, user_id, now):
            return False
        from billing.subscriptions import refresh  # imported late, because it imports httpx

        rows = mirror.refreshable(self._db, user_id)
        if not self._budget.take(refresh.calls(rows)):
            mirror.unlease_refresh(self._db, user_id)
            return False
        try:
            deadline = deadline.within(_ONE_USER_SECONDS)
            truth = refresh.ask(self._commet(), user_id, rows, now=now, deadline=deadline)
            refresh.write(self._db, rows, truth)
            mirror.note_answer(self._db, user_id)
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
