"""The outbox: deliveries of usage to Commet, from the claim to their end.

A claim turns the growth of a total into a delivery and stores its body. From then on, the same body
is sent under the same event id, until Commet takes it or refuses it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from aws_lambda_powertools import Logger
from psycopg.types.json import Jsonb

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline

_sql = Statements(__file__)

logger = Logger(child=True)

# This long before the end of a period, growth is claimed without waiting for the interval, so that
# Commet bills it in that period.
CLOSING = timedelta(minutes=15)
LEASE = timedelta(seconds=60)
# How long Commet keeps an idempotency key.
KEY_LIFETIME = timedelta(hours=24)
# How long comparing totals may leave a delivery undecided before a person has to decide.
PATIENCE = timedelta(hours=1)
# How much Commet's clock and ours may differ, including the time an answer takes to arrive.
MARGIN = timedelta(minutes=1)
# How long Commet's total may lag behind its answers.
QUIET = timedelta(minutes=1)

# Rows per statement. A statement must end within five seconds, also on a busy database.
_CLAIM_LIMIT = 10_000
_REDRIVE_LIMIT = 10_000
_FIRST_PAUSE_SECONDS = 2.0
# Codes of refusals by which Commet says that the mirror is wrong about the user.
_CONTRADICTS = frozenset(
    {
        "no_active_subscription",
        "customer_not_found",
        "feature_not_found",
        "feature_not_in_plan",
        "feature_disabled",
    }
)
_LONGEST_PAUSE_SECONDS = 600.0
_CLAIM_SECONDS = 60.0
# How many users with valuable overage are claimed early in one run.
_EARLY_LIMIT = 1_000
# How long after a user's visit to Commet's portal any overage of the user is due at once. A session
# of the portal lasts 30 minutes, and an open page may be used for longer.
_DEPARTURE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A leased delivery. No other run sends it until the lease ends."""

    period: int
    feature: str
    seq: int
    user_id: str
    kind: str
    event_id: str
    generation: int
    body: str
    attempts: int
    starts_at: datetime  # of its period
    ends_at: datetime  # the end of its period, earlier if a plan change closed it
    # The first of the earlier attempts that may have had an effect; None if there was none.
    uncertain_before: datetime | None
    is_early: bool  # whether its interval is not over yet

    @property
    def idempotency_key(self) -> str:
        """Event id and generation. A redrive raises the generation, and so changes the key.

        Commet would answer the old key with the old refusal.
        """
        return f"{self.event_id}:{self.generation}"

    @property
    def calls(self) -> int:
        """How many calls an attempt makes. Before a replacement there is a question to Commet."""
        return 2 if self.kind == "replacement" else 1


class Outcome(Enum):
    """The kinds of results of one attempt."""

    SENT = "sent"
    POSTPONED = "postponed"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one attempt to send a delivery, and what follows from it.

    `reason`: why the delivery is parked. `no_effect`: Commet has certainly not processed the
    attempt. `wait_seconds`: the pause that Commet asked for. `stop`: every other delivery of this
    run would fail for the same reason. `contradicts`: Commet's answer says that the mirror may be
    wrong about the user.
    """

    delivery: Delivery
    outcome: Outcome
    remote_id: str | None = None
    reason: str | None = None
    no_effect: bool = False
    wait_seconds: float | None = None
    stop: bool = False
    contradicts: bool = False


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the outbox, for metrics.

    `outbox_age_seconds`: the age of the oldest pending delivery, since it became due or since its
    first attempt without an answer. `parked_deliveries`: how many deliveries wait for a person,
    including those that comparing totals should have decided by now. `usage_drift`: how many totals
    have drift.
    """

    outbox_age_seconds: float
    parked_deliveries: int
    usage_drift: int


def claim(
    db: Database,
    *,
    now: datetime,
    interval: timedelta,
    deadline: Deadline | None = None,
) -> int:
    """Turns the growth of totals into deliveries. Returns how many.

    `interval` is the least time between two deliveries of one total. It does not apply around the
    end of a period, nor to users whose overage has become valuable. Stops at `deadline`, by default
    after a minute.
    """
    deadline = deadline or Deadline.after(_CLAIM_SECONDS)
    valuable = db.all(_sql["take_overage_due"], {"limit": _EARLY_LIMIT})
    claimed = _claim(db, now, interval, limit=0, early=valuable) if valuable else 0
    while True:
        count = _claim(db, now, interval, limit=_CLAIM_LIMIT)
        claimed += count
        if count < _CLAIM_LIMIT or deadline.remaining() <= 0:
            _mark_fully_claimed(db, deadline)
            return claimed


def claim_of_user(db: Database, user_id: str, *, now: datetime, interval: timedelta) -> int:
    """Turns all growth of one user into deliveries, due or not. Returns how many."""
    early = [{"user_id": user_id, "value": None}]
    return _claim(db, now, interval, limit=0, early=early)


def _claim(
    db: Database, now: datetime, interval: timedelta, *, limit: int, early: Sequence[Row] = ()
) -> int:
    values = {
        "now": now,
        "interval": interval,
        "closing": CLOSING,
        "limit": limit,
        "users": [row["user_id"] for row in early],
        "values": [row["value"] for row in early],
    }
    return int(db.value(_sql["claim"], values))


def _mark_fully_claimed(db: Database, deadline: Deadline) -> None:
    """Marks totals of closed periods that have nothing left to claim, so that claims skip them."""
    while deadline.remaining() > 0:
        if len(db.all(_sql["mark_fully_claimed"], {"limit": _CLAIM_LIMIT})) < _CLAIM_LIMIT:
            return


def lease(
    db: Database, limit: int = 1, *, early_limit: int = 0, user_id: str | None = None
) -> list[Delivery]:
    """Leases up to `limit` deliveries for `LEASE`. Those that have been due longest come first.

    If fewer are due, the rest of `limit`, but at most `early_limit`, goes to deliveries that were
    claimed before their interval was over, the most valuable first. With `user_id`, only deliveries
    of that user are leased, of both kinds. Leaves out deliveries whose idempotency key Commet may
    forget before the lease ends.
    """
    rows = db.all(
        _sql["lease"],
        {
            "lease": LEASE,
            "key_lifetime": KEY_LIFETIME,
            "limit": limit,
            "early_limit": early_limit,
            "user_id": user_id,
        },
    )
    return [Delivery(**row) for row in rows]


def any_early(db: Database) -> bool:
    """Whether a delivery is pending that was claimed before its interval was over."""
    return bool(db.value(_sql["any_early"]))


def expect_departure(db: Database, user_id: str) -> None:
    """Makes any overage of the user due at once for two hours, because the user may leave at
    Commet.
    """
    db.execute(_sql["expect_departure"], {"user_id": user_id, "lasting": _DEPARTURE})


def record(
    db: Database,
    results: Sequence[Result],
    *,
    now: datetime,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Writes the results of attempts into the outbox. `now` is not before any of Commet's
    answers.
    """
    sent = [r for r in results if r.outcome is Outcome.SENT]
    # A replacement also changes its total. Each replacement has a statement of its own, so that no
    # two statements wait for each other's totals.
    replacements = [[r] for r in sent if r.delivery.kind == "replacement"]
    for batch in ([r for r in sent if r.delivery.kind != "replacement"], *replacements):
        if batch:
            answered = [_row(r, remote_id=r.remote_id) for r in batch]
            values = {"rows": Jsonb(answered), "answered_at": now, "margin": MARGIN}
            db.execute(_sql["mark_sent"], values)
    later = [_postponed(r, jitter) for r in results if r.outcome is Outcome.POSTPONED]
    if later:
        db.execute(_sql["postpone"], {"rows": Jsonb(later)})
    parked = [r for r in results if r.outcome is Outcome.PARKED]
    named = ("user_id", "feature", "event_id", "kind")
    log_parked([{n: getattr(r.delivery, n) for n in named} | {"reason": r.reason} for r in parked])
    # A refused replacement is deleted. If it was a repair, the drift remains.
    undone = [r for r in parked if r.delivery.kind == "replacement" and r.reason != "unconfirmed"]
    for result in undone:
        undo_replacement(db, _row(result), reason=result.reason)
    rows = [_row(r, reason=r.reason) for r in parked if r not in undone]
    if rows:
        db.execute(_sql["park"], {"rows": Jsonb(rows)})
    doubted = {r.delivery.user_id for r in parked if r.contradicts or r.reason in _CONTRADICTS}
    if doubted:
        db.execute(_sql["doubt_subscriptions"], {"users": sorted(doubted)})


def log_parked(rows: Sequence[Row]) -> int:
    """Logs each parked delivery (docs/operations.md has the fields). Returns how many there are."""
    for row in rows:
        logger.warning("delivery.parked", **row)
    return len(rows)


def undo_replacement(db: Database, key: Mapping[str, object], *, reason: str | None) -> None:
    """Deletes a replacement that Commet did not make. If it was a repair, the drift gets `reason`.

    `key` names the delivery by period, feature and seq.
    """
    db.execute(_sql["undo_replacement"], {**key, "reason": reason})


def _row(result: Result, **values: object) -> dict[str, object]:
    delivery = result.delivery
    return {
        "period": delivery.period,
        "feature": delivery.feature,
        "seq": delivery.seq,
        "generation": delivery.generation,
    } | values


def _postponed(result: Result, jitter: Callable[[], float]) -> dict[str, object]:
    delivery = result.delivery
    doubled: float = _FIRST_PAUSE_SECONDS * 2.0 ** min(delivery.attempts - 1, 30)
    pause = min(doubled, _LONGEST_PAUSE_SECONDS) * (0.5 + jitter() / 2)
    before = delivery.uncertain_before
    return _row(
        result,
        seconds=max(pause, result.wait_seconds or 0),
        no_effect=result.no_effect,
        uncertain_before=before.isoformat() if before else None,
    )


def gauges(db: Database) -> Gauges:
    """Returns the present state of the outbox."""
    row = db.one(_sql["gauges"], {"undecided": KEY_LIFETIME + PATIENCE})
    assert row is not None  # noqa: S101 - the statement always returns one row
    return Gauges(**row)


def redrive(
    db: Database,
    *,
    user_id: str | None = None,
    event_id: str | None = None,
    reason: str | None = None,
) -> int:
    """Makes parked deliveries pending again, for example after a plan upgrade. Returns how many.

    The arguments limit the choice to one user, one event id or one reason. Deliveries that Commet
    may have counted already (`unconfirmed`) and those of a subscription that is over
    (`lost_to_cancellation`) are included only if `event_id` or `reason` names them. Deliveries are
    left out while a total of their user and feature is being replaced.
    """
    values = {"user_id": user_id, "event_id": event_id, "reason": reason, "limit": _REDRIVE_LIMIT}
    driven = 0
    while True:
        count = int(db.value(_sql["redrive"], values))
        driven += count
        if count < _REDRIVE_LIMIT:
            return driven


def resolve(
    db: Database, *, user_id: str, event_id: str, note: str, delivered: bool = False
) -> bool:
    """Resolves a parked delivery: a person has dealt with it, and `note` says how.

    `delivered` marks the delivery as sent, because somebody found that Commet has it. A credit
    cannot be delivered. Returns False if there is no such parked delivery.
    """
    values = {"user_id": user_id, "event_id": event_id, "note": note, "delivered": delivered}
    return bool(db.value(_sql["resolve"], values))
