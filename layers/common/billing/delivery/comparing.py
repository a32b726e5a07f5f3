"""Compares Commet's totals with the sum of our deliveries, and acts on the result.

Commet's total is updated some time after its answers. So an exact comparison is made only if
nothing of the user and feature is in flight and nothing was sent for a while. While something is in
flight, there is drift only if Commet's total is impossible: no part of the deliveries in flight
would explain it. Commet's totals are JSON numbers, which keep 15 significant digits. So totals that
differ by less than one unit of the fifteenth digit are equal.

Totals also decide about deliveries in doubt:
- For a delivery that is unconfirmed for a day: does Commet's total include it?
- For a delivery sent around the end of a period: in which of the two periods did Commet book it?

Drift is recorded until the totals agree again. It is repaired only if an operator asks for that, by
replacing Commet's total (`begin_replacement`). If its period ends, drift becomes a credit, and a
person decides about it.
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

# The time from the start of one round through all users to the start of the next.
EVERY = timedelta(hours=6)
_AGAIN = timedelta(minutes=2)  # the time until a user with undecided deliveries is compared again
_ROUND = "drift"
_BEGINNING = {"after": ""}
_UNUSED = ""  # stands for all features without usage
_AT_ONCE = 8
_CALL_SECONDS = 10.0
_REPAIRS = 50
# If there are more deliveries in doubt than this, not every combination is tried: 12 make 4,096.
_MANY = 12
# Commet adds doubles, so its sums are rounded to the six decimals that quantities have.
_EXACT = Decimal("0.000001")
_DIGITS = 15  # any double keeps so many digits


class AccessReader(Protocol):
    """The part of the Commet client that reads totals."""

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]: ...


@dataclass(frozen=True, slots=True)
class SentTotal:
    """What we sent of one feature for the user's open period.

    comparing.sql explains the fields at `sent_totals`.
    """

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
    """A delivery in doubt: we do not know whether Commet booked it, or in which period.

    Commet books a delivery in the period of its timestamp, which ends at `ends_at`, or in the
    period that runs when Commet takes the delivery. Commet takes it at or after the first attempt
    with an unknown outcome (`tried_at`). It takes a delivery that is sent at or before
    `answered_at`.
    """

    period: int
    ends_at: datetime
    feature: str
    seq: int
    kind: str
    quantity: Decimal
    state: str  # 'sent': Commet has booked it, only the period is unknown
    tried_at: datetime | None
    answered_at: datetime | None
    event_id: str
    fresh: bool
    overdue: bool

    def was_answered_before(self, starts_at: datetime) -> bool:
        """Whether Commet took the delivery before a period that starts at `starts_at`, and so
        did not book it there.
        """
        return self.answered_at is not None and self.answered_at < starts_at - MARGIN

    def is_in_own_period_or(self, starts_at: datetime) -> bool:
        """Whether Commet booked the delivery in its own period or in the one that starts at
        `starts_at`.

        True if no other period lies between the two, or if the delivery was first tried after that
        start.
        """
        tried_since = self.tried_at is not None and self.tried_at >= starts_at - MARGIN
        return self.ends_at >= starts_at or tried_since

    @property
    def key(self) -> dict[str, object]:
        """The primary key of the delivery's row."""
        return {"period": self.period, "feature": self.feature, "seq": self.seq}


@dataclass(slots=True)
class Compared:
    """The results of one run of `compare`.

    `users`: number of users about whom Commet answered. `decided`: deliveries that are no longer in
    doubt. `differing`: totals with drift. `failed`: users about whom Commet gave no usable answer.
    """

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
    """Begins repairs that were asked for, decides deliveries in doubt, and continues the round.

    Compares as many users as time and call budget allow. The next run continues after the last of
    them. `quiet` is how long Commet's total may lag behind its answers. `every` is the time from
    the start of one round to the start of the next. Raises DatabaseUnavailable.
    """
    work = _Work(db, commet, budget=budget, clock=clock, deadline=deadline, quiet=quiet)
    work.begin_repairs()
    db.execute(_sql["close_drift"], {"limit": _REPAIRS})
    while (users := _users(db, _sql["users_in_doubt"], limit=_AT_ONCE)) and work.look_at(users):
        pass
    if work.goes_on:
        work.go_round(every)
    return work.done


def request(db: Database) -> None:
    """Makes the next run begin a round through all users, even if the last round was recent."""
    rounds.request(db, _ROUND, start=_BEGINNING)


def repair(db: Database, *, user_id: str | None = None) -> int:
    """Requests a repair of all drift in open periods, of one user or of all. Returns how many.

    A replacement is sent once nothing of its user and feature is in flight.
    """
    asked = db.all(_sql["ask_repair"], {"user_id": user_id})
    for row in asked:
        logger.info("usage.drift_repair_asked", **row)
    return len(asked)


def precision(total: Decimal) -> Decimal:
    """Returns how exactly Commet can state a total: 0.000001 up to 999,999,999.999999, then 15
    digits.
    """
    return max(_EXACT, Decimal(1).scaleb(total.adjusted() + 1 - _DIGITS))


def explain(
    difference: Decimal, doubts: Sequence[Doubt], *, within: Decimal = _EXACT
) -> frozenset[int] | None:
    """Returns which deliveries in doubt Commet has booked in this period, by position in `doubts`.

    `difference` is Commet's total less the quantity that we know it booked. The result is the one
    combination of deliveries that adds up to `difference`, with an error of less than `within`. It
    is None if there is no such combination, or more than one. Deliveries of less than `within`
    count as booked, because Commet's total cannot show them.

    Commet answered deliveries sent around the end of a period in order: the first ones belong to
    the earlier period, and the others to this one. So combinations that keep this order are tried
    first.
    """
    weightless = frozenset(i for i, d in enumerate(doubts) if abs(d.quantity) < within)
    sent = [i for i, d in enumerate(doubts) if d.state == "sent" and i not in weightless]
    unconfirmed = [i for i, d in enumerate(doubts) if d.state != "sent" and i not in weightless]
    in_order = (
        frozenset(sent[cut:]) | chosen
        for cut in range(len(sent) + 1)
        for chosen in _subsets(unconfirmed)
    )
    for combinations_tried in (in_order, _subsets(sent + unconfirmed) if sent else iter(())):
        fitting = {
            combination
            for combination in combinations_tried
            if abs(sum((doubts[i].quantity for i in combination), -difference)) < within
        }
        if len(fitting) == 1:
            return fitting.pop() | weightless
        if fitting:
            return None
    return None


def _subsets(positions: Sequence[int]) -> Iterator[frozenset[int]]:
    """Yields all subsets. For more than `_MANY` positions, only the empty and the full subset."""
    sizes = range(len(positions) + 1) if len(positions) <= _MANY else (0, len(positions))
    return map(frozenset, chain.from_iterable(combinations(positions, size) for size in sizes))


class _Work:
    """One run of `compare`."""

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
        """Begins the repairs that were asked for, if nothing of their total is in flight."""
        values = {"now": self._clock(), "quiet": self._quiet, "margin": MARGIN}
        for drift in self._db.all(_sql["to_be_repaired"], {"limit": _REPAIRS}):
            for row in self._db.all(_sql["begin_repair"], values | drift):
                if row["repair"] == "sent":
                    logger.info("usage.drift_repair_begun", **row)
                    self.done.repairs_begun += 1
                else:
                    logger.warning("usage.drift_repair_refused", **row)

    def go_round(self, every: timedelta) -> None:
        """Compares all users in turn, starting where the last run stopped."""
        found = rounds.take_up(self._db, _ROUND, start=_BEGINNING, every=every, now=self._clock())
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
        """Compares these users' totals. Returns False if there was not enough time or call
        budget.
        """
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
        before = {user: self._sent_totals(user) for user in users}
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
        self, user: str, before: Mapping[str, SentTotal], answers: Sequence[FeatureAccess]
    ) -> None:
        after = self._sent_totals(user)
        all_doubts = self._doubts(user)
        rows = self._db.all(_sql["pending"], {"user_id": user})
        pending = {row["feature"] for row in rows}
        answered = {a.code: a.consumption for a in answers if a.consumption}
        undecided = False
        for feature in {*answered, *(d.feature for d in all_doubts)}:
            doubts = [d for d in all_doubts if d.feature == feature]
            consumption = answered.get(feature)
            ours = after.get(feature, after.get(_UNUSED))
            if (
                ours is None
                or consumption is None
                or consumption.model != "metered"
                or consumption.period.start != ours.starts_at
            ):
                # Commet reports another period, plan or kind of feature, so nothing can be
                # compared.
                undecided |= self._still_in_doubt(doubts)
                continue
            theirs = consumption.units_used.quantize(_EXACT)
            ours_before = before.get(feature, before.get(_UNUSED))
            moving = ours.in_flight or feature in pending or any(d.fresh for d in doubts)
            if ours_before == ours and not moving:
                undecided |= self._compare_exactly(user, feature, ours, doubts, theirs)
            else:
                undecided |= bool(doubts)
                if not _possible(ours_before, ours, doubts, theirs):
                    self._differs(user, feature, ours, theirs)
        if undecided:
            self._later(user)

    def _compare_exactly(
        self, user: str, feature: str, ours: SentTotal, doubts: Sequence[Doubt], theirs: Decimal
    ) -> bool:
        """Compares totals while nothing is in flight. Returns whether to compare the user again."""
        replacements = [d for d in doubts if d.kind == "replacement"]
        if replacements:
            self._decide_replacement(ours, replacements, theirs)
            return len(doubts) > len(replacements)
        past = [d for d in doubts if d.was_answered_before(ours.starts_at)]
        self._decide(ours, past, frozenset())
        doubts = [d for d in doubts if d not in past]
        booked = explain(theirs - ours.sent, doubts, within=precision(theirs))
        if booked is None:
            self._differs(user, feature, ours, theirs)
            return self._still_in_doubt(doubts)
        self._decide(ours, doubts, booked)
        self._agrees(user, feature, ours.period)
        return False

    def _decide(self, ours: SentTotal, doubts: Sequence[Doubt], booked: frozenset[int]) -> None:
        """Decides deliveries in doubt. `booked` has the positions of those that Commet booked
        in the open period.
        """
        for position, doubt in enumerate(doubts):
            if position in booked:
                self._do("place", _sql["place"], doubt, billed_period=ours.period)
            elif (
                doubt.state == "sent"
                and doubt.period != ours.period
                and doubt.is_in_own_period_or(ours.starts_at)
            ):
                self._do("place", _sql["place"], doubt, billed_period=doubt.period)
            elif doubt.state == "sent":
                # Commet booked it in a period whose total it does not report: its own, or one
                # between that and the open one. If its own is the open one, whose dates we had
                # guessed, Commet booked it in an earlier one.
                self._do("give_up", _sql["give_up"], doubt)
            elif doubt.period == ours.period:
                self._do("resend", _sql["resend"], doubt)
            else:
                # Commet booked it in an earlier period, or not at all. Commet reports no earlier
                # totals.
                self._do("give_up", _sql["give_up"], doubt)
            self.done.decided += 1

    def _decide_replacement(
        self, ours: SentTotal, doubts: Sequence[Doubt], theirs: Decimal
    ) -> None:
        """Decides whether Commet made a replacement. Nothing else of the total was sent since."""
        for doubt in doubts:
            replaced = abs(ours.sent + doubt.quantity - theirs) < precision(theirs)
            if doubt.period == ours.period and replaced:
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
        """Gives up overdue deliveries. Returns whether others remain, to be compared again."""
        for doubt in doubts:
            if doubt.overdue:
                self._do("give_up", _sql["give_up"], doubt)
        return any(not doubt.overdue for doubt in doubts)

    def _undecidable(self, user: str, refusal: CommetRefused) -> None:
        """Handles Commet's refusal to report totals, for example of a customer without a plan."""
        logger.info("usage.not_compared", user_id=user, commet_code=refusal.commet_code)
        if self._still_in_doubt(self._doubts(user)):
            self._later(user)

    def _differs(self, user: str, feature: str, ours: SentTotal, theirs: Decimal) -> None:
        fields: dict[str, Any] = {"period": ours.period, "feature": feature, "user_id": user}
        is_new = self._db.value(
            _sql["note_drift"],
            fields | {"ours": ours.sent, "theirs": theirs, "now": self._clock()},
        )
        if is_new:
            self._db.execute(_sql["mark_subscription"], {"user_id": user})
        self.done.differing += 1
        logger.warning(
            "usage.drift", **fields, ours=str(ours.sent), theirs=str(theirs), new=bool(is_new)
        )

    def _agrees(self, user: str, feature: str, period: int) -> None:
        fields: dict[str, Any] = {"period": period, "feature": feature}
        if self._db.all(_sql["forget_drift"], fields):
            logger.info("usage.drift_gone", user_id=user, **fields)

    def _later(self, user: str) -> None:
        self._db.execute(_sql["ask_later"], {"user_id": user, "after": _AGAIN})

    def _sent_totals(self, user: str) -> dict[str, SentTotal]:
        """Returns what we sent, by feature, and 0 for `_UNUSED`. Empty if the user has no open
        period.
        """
        rows = self._db.all(_sql["sent_totals"], {"user_id": user, "quiet": self._quiet})
        totals = {row["feature"] or _UNUSED: SentTotal(**row) for row in rows}
        if totals and _UNUSED not in totals:
            first = next(iter(totals.values()))
            nothing = Decimal(0)
            totals[_UNUSED] = SentTotal(
                first.period, first.starts_at, None, nothing, nothing, 0, nothing, in_place=True
            )
        return totals

    def _doubts(self, user: str) -> list[Doubt]:
        values = {
            "user_id": user,
            "quiet": self._quiet,
            "key_lifetime": KEY_LIFETIME,
            "patience": PATIENCE,
        }
        return [Doubt(**row) for row in self._db.all(_sql["in_doubt"], values)]


def _possible(
    before: SentTotal | None, after: SentTotal, doubts: Sequence[Doubt], theirs: Decimal
) -> bool:
    """Returns whether Commet's total is possible, given what was in flight while we asked Commet.

    `before` and `after` are what we had sent before and after the question.
    """
    if before is None or before.period != after.period or after.feature is None:
        return True
    if not (before.in_place and after.in_place):
        return True
    least = before.sent - max(before.fresh, Decimal(0))
    in_doubt = sum((max(d.quantity, Decimal(0)) for d in doubts), Decimal(0))
    most = after.sent + after.maybe + in_doubt
    unclear = precision(theirs)
    return least - unclear < theirs < most + unclear


def _users(db: Database, statement: str, **values: object) -> list[str]:
    return [row["user_id"] for row in db.all(statement, values)]
