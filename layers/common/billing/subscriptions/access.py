"""May this user use what they pay for? Somebody who has just paid is never told to pay."""

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

# What a request may spend on making sure of one user before it refuses, and of several; the mirror
# answers otherwise.
_BUDGET_SECONDS = 4.0
_SEVERAL_SECONDS = 6.0

# A request asks about so many users; the rest may come again.
_ASK_AT_MOST = 5

# Refusals that Commet may know better about: somebody may have paid, resumed or changed plans a
# second ago.
_UNSURE = frozenset(
    {"subscription_required", "access_unconfirmed", "limit_reached", "feature_not_in_plan"}
)


class Decision(Protocol):
    """What was decided about a user's request; `code` says why it was refused, if it was."""

    @property
    def code(self) -> str | None: ...


D = TypeVar("D", bound=Decision)


@dataclass(frozen=True, slots=True)
class Decided(Generic[D]):
    """The decisions, in the order asked.

    `unconfirmed`: the positions of refusals that Commet should have been asked about and has not
    answered, each with the time of the newest word on the user. Refusing these for good would be
    wrong: the user may have paid.
    """

    decisions: Sequence[D]
    unconfirmed: Mapping[int, datetime]


@dataclass(frozen=True, slots=True)
class Asked:
    """Users whose state Commet has told anew, and those it should have told and has not."""

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
        """The subscription that speaks for the user, and whether it gives access.

        Commet is asked first where there is no access, or where the user may have changed
        something there.
        """
        found = self._read(user_id)
        if found[1] and not mirror.in_doubt(self._db, user_id):
            return found
        return self._read(user_id) if self.ask(user_id, deadline) else found

    def decide(
        self,
        users: Sequence[str],
        decide: Callable[[Sequence[int]], Sequence[D]],
        deadline: Deadline,
    ) -> Decided[D]:
        """Decides for each of `users`, and asks Commet before refusing one for want of access.

        `decide` is given positions in `users` and answers a decision for each. It is called again
        for those that Commet has answered about. Commet is asked about five users at most.
        """
        decisions = list(decide(range(len(users))))
        unsure = [i for i, decision in enumerate(decisions) if decision.code in _UNSURE]
        if not unsure:
            return Decided(decisions, {})
        asked = self.ask_about({users[i] for i in unsure}, deadline)
        again = [i for i in unsure if users[i] in asked.answered]
        for i, decision in zip(again, decide(again) if again else (), strict=True):
            decisions[i] = decision
        unconfirmed = {
            i: asked.unconfirmed[u] for i in unsure if (u := users[i]) in asked.unconfirmed
        }
        return Decided(decisions, unconfirmed)

    def ask_about(self, users: Collection[str], deadline: Deadline) -> Asked:
        """Asks Commet about users who would be refused for want of access: at most five of them."""
        deadline = deadline.within(_SEVERAL_SECONDS)
        askable = mirror.askable(self._db, users, self._clock())
        answered = {user for user in askable[:_ASK_AT_MOST] if self.ask(user, deadline)}
        open_questions = mirror.unanswered(self._db, users, self._clock())
        unconfirmed = {
            user: as_of for user, as_of in open_questions.items() if user not in answered
        }
        return Asked(answered, unconfirmed)

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
            mirror.unclaim_refresh(self._db, user_id)
            return False
        try:
            deadline = deadline.within(_BUDGET_SECONDS)
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
