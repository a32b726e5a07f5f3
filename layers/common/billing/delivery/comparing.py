"""Does Commet count what it was told? Comparing totals, and what follows from it.

Commet counts behind our backs, so a number of its own is only held against ours when nothing of
that user and feature is in flight and nothing was sent for a while; while something is, only a
number that no state of it explains counts as a difference.

Totals also decide what answers left open:
- a delivery unconfirmed for a day: is it in Commet's total or not?
- one sent around the end of a period: which of the two did Commet book it in?

A difference is noted and stays noted until the totals agree again. It is repaired, by replacing
Commet's total (`begin_replacement`), only when an operator asks for that. When its period ends it
becomes a credit for a human.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain, combinations
from typing import Any, Protocol

from aws_lambda_powertools import Logger

from billing.clock import Clock
from billing.commet.answers import FeatureAccess
from billing.database import rounds
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.delivery import outbox
from billing.delivery.outbox import KEY_LIFETIME, MARGIN, PATIENCE, QUIET
from billing.delivery.sending import CallBudget
from billing.errors import CommetRefused, CommetUnavailable

_sql = Statements(__file__)

logger = Logger(child=True)

# A round through everybody begins this long after the last one began.
EVERY = timedelta(hours=6)
_AGAIN = timedelta(minutes=2)
_ROUND = "drift"
_EMPTY = ""  # stands for features of which nothing was used
_AT_ONCE = 8
_CALL_SECONDS = 10.0
_REPAIRS = 50
# Two to this power sums are tried.
_MANY = 12
# Commet adds doubles.
_EXACT = Decimal("0.000001")


class AccessReader(Protocol):
    """The part of the Commet client that is used here."""

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]: ...


@dataclass(frozen=True, slots=True)
class Book:
    """What Commet was told of one feature in the user's open period (`books` in drift.sql)."""

    period: int
    starts_at: datetime
    feature: str | None
    sent: Decimal
    fresh: Decimal
    in_flight: int
    maybe: Decimal
    in_place: bool


@dataclass(frozen=True, slots=True)
class Doubt:
    """A delivery of which it is not known whether, or where, Commet booked it.

    Commet books in the period of the timestamp, which ends at `ends_at`, or in the one that runs
    when it is told: not before the first attempt that may have told it (`tried_at`), and of what is
    `sent` not after `answered_at`.
    """

    period: int
    ends_at: datetime
    feature: str
    seq: int
    kind: str
    quantity: Decimal
    state: str  # 'sent': certainly booked, but in which period?
    tried_at: datetime | None
    answered_at: datetime | None
    event_id: str
    fresh: bool
    overdue: bool

    def was_over_before(self, starts_at: datetime) -> bool:
        """Whether it was answered before a period that starts then, which so cannot hold it."""
        return self.answered_at is not None and self.answered_at < starts_at - MARGIN

    def is_there_or_in(self, starts_at: datetime) -> bool:
        """Whether it is in its own period or the one that starts then: none lies between."""
        tried_since = self.tried_at is not None and self.tried_at >= starts_at - MARGIN
        return self.ends_at >= starts_at or tried_since

    @property
    def key(self) -> dict[str, object]:
        """What names its row."""
        return {"period": self.period, "feature": self.feature, "seq": self.seq}


@dataclass(slots=True)
class Compared:
    """What one run of `compare` did: users asked about, deliveries decided, differences found."""

    users: int = 0
    decided: int = 0
    differing: int = 0
    repairs_begun: int = 0
    failed: int = 0


def compare(
    db: Database,
    commet: AccessReader,
    budget: CallBudget,
    clock: Clock,
    deadline: Deadline,
    *,
    quiet: timedelta = QUIET,
    every: timedelta = EVERY,
) -> Compared:
    """Decides what is in doubt, begins what repairs were asked for, and goes on with the round.

    Takes as many users as time and budget allow; the next run goes on where this one stopped.
    Raises DatabaseUnavailable.
    """
    work = _Work(db, commet, budget=budget, clock=clock, deadline=deadline, quiet=quiet)
    work.begin_repairs()
    db.execute(_sql["close_drift"], {"limit": _REPAIRS})
    while (users := _users(db, _sql["users_in_doubt"], limit=_AT_ONCE)) and work.look_at(users):
        pass
    if work.goes_on:
        work.go_round(every)
    return work.done


def repair(db: Database, *, user_id: str | None = None) -> int:
    """Asks for Commet's totals to be replaced by ours where they differ; how many.

    Only in periods that are open; the replacement is sent as soon as nothing is in flight.
    """
    asked = db.all(_sql["ask_repair"], {"user_id": user_id})
    for row in asked:
        logger.info("usage.drift_repair_asked", **row)
    return len(asked)


def explain(difference: Decimal, doubts: Sequence[Doubt]) -> frozenset[int] | None:
    """Which of the doubts, by position, Commet has in this period; None where that cannot be told.

    Of those sent around the end of a period the first belong to the one before and the rest to the
    one after, so such answers are tried first. An answer counts only if it is the only one.
    """
    weightless = frozenset(i for i, d in enumerate(doubts) if d.quantity == 0)
    late = [i for i, d in enumerate(doubts) if d.state == "sent" and i not in weightless]
    unsure = [i for i, d in enumerate(doubts) if d.state != "sent" and i not in weightless]
    orderly = (
        frozenset(late[cut:]) | chosen
        for cut in range(len(late) + 1)
        for chosen in _subsets(unsure)
    )
    for answers in (orderly, _subsets(late + unsure) if late else iter(())):
        fitting = {
            answer
            for answer in answers
            if sum((doubts[i].quantity for i in answer), Decimal(0)) == difference
        }
        if len(fitting) == 1:
            return fitting.pop() | weightless
        if fitting:
            return None
    return None


def _subsets(positions: Sequence[int]) -> Iterator[frozenset[int]]:
    sizes = range(len(positions) + 1) if len(positions) <= _MANY else (0, len(positions))
    return map(frozenset, chain.from_iterable(combinations(positions, size) for size in sizes))


class _Work:
    """One run."""

    def __init__(
        self,
        db: Database,
        commet: AccessReader,
        *,
        budget: CallBudget,
        clock: Clock,
        deadline: Deadline,
        quiet: timedelta,
    ) -> None:
        self._db = db
        self._commet = commet
        self._budget = budget
        self._clock = clock
        self._deadline = deadline
        self._quiet = quiet
        self._seen: set[str] = set()
        self.done = Compared()
        self.goes_on = True

    def begin_repairs(self) -> None:
        """Replacements that were asked for, where nothing is in flight."""
        values = {"now": self._clock(), "quiet": self._quiet, "margin": MARGIN}
        for asked in self._db.all(_sql["to_be_repaired"], {"limit": _REPAIRS}):
            for row in self._db.all(_sql["begin_repair"], values | asked):
                if row["repair"] == "sent":
                    logger.info("usage.drift_repair_begun", **row)
                    self.done.repairs_begun += 1
                else:
                    logger.warning("usage.drift_repair_refused", **row)

    def go_round(self, every: timedelta) -> None:
        """Everybody in turn, from where the last run stopped."""
        found = rounds.take_up(self._db, _ROUND, start={"after": ""}, every=every)
        if found is None:
            return
        after = found.position["after"]
        while True:
            users = _users(self._db, _sql["users_after"], after=after, limit=_AT_ONCE)
            if not self.look_at([user for user in users if user not in self._seen]):
                rounds.leave(self._db, _ROUND)
                return
            if len(users) < _AT_ONCE:
                rounds.finish(self._db, _ROUND)
                return
            after = users[-1]
            rounds.advance(self._db, _ROUND, {"after": after})

    def look_at(self, users: Sequence[str]) -> bool:
        """Compares these users' totals; False where there was no time or no budget for it."""
        if not self.goes_on:
            return False
        if not users:
            return True
        if self._deadline.remaining() < _CALL_SECONDS / 2 or not self._budget.wait(
            len(users), self._deadline.within(_CALL_SECONDS / 2)
        ):
            self.goes_on = False
            return False
        self._seen.update(users)
        limit = self._deadline.within(_CALL_SECONDS)
        for user in users:
            self._db.execute(_sql["make_ready"], {"user_id": user})
        before = {user: self._books(user) for user in users}
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="compare") as pool:
            answers = {u: pool.submit(self._commet.feature_access, u, limit) for u in users}
        failures: list[CommetUnavailable] = []
        for user, answer in answers.items():
            try:
                self._compare(user, before[user], answer.result())
            except CommetRefused as refusal:
                self._undecidable(user, refusal)
            except CommetUnavailable as failure:
                failures.append(failure)
                self._later(user)
        self.done.users += len(users) - len(failures)
        self.done.failed += len(failures)
        pauses = [f.asked_retry_after for f in failures if f.asked_retry_after is not None]
        if pauses:
            self._budget.pause(max(pauses))
        if pauses or len(failures) == len(users):
            self.goes_on = False
        return True

    def _compare(
        self, user: str, before: Mapping[str, Book], answers: Sequence[FeatureAccess]
    ) -> None:
        after = self._books(user)
        doubts = self._doubts(user)
        rows = self._db.all(_sql["pending"], {"user_id": user})
        pending = {row["feature"] for row in rows}
        told = {a.code: a.consumption for a in answers if a.consumption}
        undecided = False
        for feature in {*told, *(d.feature for d in doubts)}:
            unsure = [d for d in doubts if d.feature == feature]
            consumption = told.get(feature)
            book = after.get(feature, after.get(_EMPTY))
            if (
                book is None
                or consumption is None
                or consumption.model != "metered"
                or consumption.period.start != book.starts_at
            ):
                # Another period, plan or kind of feature: there is nothing to hold it against.
                undecided |= self._still_in_doubt(unsure)
                continue
            theirs = consumption.units_used.quantize(_EXACT)
            was = before.get(feature, before.get(_EMPTY))
            moving = book.in_flight or feature in pending or any(d.fresh for d in unsure)
            if was == book and not moving:
                undecided |= self._weigh(user, feature, book, unsure, theirs)
            else:
                undecided |= bool(unsure)
                if not _possible(was, book, unsure, theirs):
                    self._differs(user, feature, book, theirs)
        if undecided:
            self._later(user)

    def _weigh(
        self, user: str, feature: str, book: Book, doubts: Sequence[Doubt], theirs: Decimal
    ) -> bool:
        """What an exact number of Commet's says; whether it is worth asking again."""
        sets = [d for d in doubts if d.kind == "replacement"]
        if sets:
            self._decide_replacement(book, sets, theirs)
            return len(doubts) > len(sets)
        past = [d for d in doubts if d.was_over_before(book.starts_at)]
        self._decide(book, past, frozenset())
        doubts = [d for d in doubts if d not in past]
        booked = explain(theirs - book.sent, doubts)
        if booked is None:
            self._differs(user, feature, book, theirs)
            return self._still_in_doubt(doubts)
        self._decide(book, doubts, booked)
        self._agrees(user, feature, book.period)
        return False

    def _decide(self, book: Book, doubts: Sequence[Doubt], booked: frozenset[int]) -> None:
        for position, doubt in enumerate(doubts):
            if position in booked:
                self._do("place", _sql["place"], doubt, billed_period=book.period)
            elif doubt.state == "sent" and doubt.is_there_or_in(book.starts_at):
                self._do("place", _sql["place"], doubt, billed_period=doubt.period)
            elif doubt.state == "sent":
                # In its own period or one between that and this: neither total is told any more.
                self._do("give_up", _sql["give_up"], doubt)
            elif doubt.period == book.period:
                self._do("resend", _sql["resend"], doubt)
            else:
                # In the period before or nowhere, and that one's total Commet no longer tells.
                self._do("give_up", _sql["give_up"], doubt)
            self.done.decided += 1

    def _decide_replacement(self, book: Book, doubts: Sequence[Doubt], theirs: Decimal) -> None:
        """A replaced total is there or not: nothing else of it was sent meanwhile."""
        for doubt in doubts:
            if doubt.period == book.period and book.sent + doubt.quantity == theirs:
                self._do("place", _sql["place"], doubt, billed_period=doubt.period)
                self._db.execute(_sql["resume_claims"], doubt.key)
            else:
                outbox.undo_replacement(self._db, doubt.key, reason="unconfirmed")
            self.done.decided += 1

    def _do(self, decision: str, statement: str, doubt: Doubt, **values: Any) -> None:
        self._db.execute(statement, doubt.key | values)
        logger.info(
            "usage.doubt_decided",
            decision=decision,
            event_id=doubt.event_id,
            period=doubt.period,
            feature=doubt.feature,
            quantity=str(doubt.quantity),
            **values,
        )

    def _still_in_doubt(self, doubts: Sequence[Doubt]) -> bool:
        """Whether it is worth comparing them again; those that are overdue are given up."""
        for doubt in doubts:
            if doubt.overdue:
                self._do("give_up", _sql["give_up"], doubt)
        return any(not doubt.overdue for doubt in doubts)

    def _undecidable(self, user: str, refusal: CommetRefused) -> None:
        """Commet has no totals of a customer who may use nothing."""
        logger.info("usage.not_compared", user_id=user, commet_code=refusal.commet_code)
        if self._still_in_doubt(self._doubts(user)):
            self._later(user)

    def _differs(self, user: str, feature: str, book: Book, theirs: Decimal) -> None:
        fields: dict[str, Any] = {"period": book.period, "feature": feature, "user_id": user}
        is_new = self._db.value(
            _sql["note_drift"],
            fields | {"ours": book.sent, "theirs": theirs, "now": self._clock()},
        )
        self.done.differing += 1
        logger.warning(
            "usage.drift", **fields, ours=str(book.sent), theirs=str(theirs), new=bool(is_new)
        )

    def _agrees(self, user: str, feature: str, period: int) -> None:
        fields: dict[str, Any] = {"period": period, "feature": feature}
        if self._db.all(_sql["forget_drift"], fields):
            logger.info("usage.drift_gone", user_id=user, **fields)

    def _later(self, user: str) -> None:
        self._db.execute(_sql["ask_later"], {"user_id": user, "after": _AGAIN})

    def _books(self, user: str) -> dict[str, Book]:
        """By feature; an empty one for all others, where the user has an open period."""
        rows = self._db.all(_sql["books"], {"user_id": user, "quiet": self._quiet})
        books = {row["feature"] or _EMPTY: Book(**row) for row in rows}
        if books and _EMPTY not in books:
            some = next(iter(books.values()))
            nothing = Decimal(0)
            books[_EMPTY] = Book(
                some.period, some.starts_at, None, nothing, nothing, 0, nothing, in_place=True
            )
        return books

    def _doubts(self, user: str) -> list[Doubt]:
        values = {
            "user_id": user,
            "quiet": self._quiet,
            "key_lifetime": KEY_LIFETIME,
            "patience": PATIENCE,
        }
        return [Doubt(**row) for row in self._db.all(_sql["in_doubt"], values)]


def _possible(was: Book | None, book: Book, doubts: Sequence[Doubt], theirs: Decimal) -> bool:
    """With something in flight: whether any state of it explains Commet's number."""
    if was is None or was.period != book.period or book.feature is None:
        return True
    if not (was.in_place and book.in_place):
        return True
    least = was.sent - max(was.fresh, Decimal(0))
    most = book.sent + book.maybe + sum((max(d.quantity, Decimal(0)) for d in doubts), Decimal(0))
    return least <= theirs <= most


def _users(db: Database, statement: str, **values: object) -> list[str]:
    return [row["user_id"] for row in db.all(statement, values)]
