"""Thresholds: how much has to be used or spent before an outgoing event says so.

The statements that book usage emit these events (`database/routines/thresholds.sql`). This module
stores the thresholds that operators, products and users add or change, and emits events about
refused usage. It also checks all users' thresholds again if a threshold of all users, or the
default ceiling, was changed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal
from uuid import uuid4

from billing.amounts import format_decimal
from billing.database import rounds
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import Conflict, FieldError, InvalidRequest, NotFound
from billing.usage.rules import Rules

_sql = Statements(__file__)

Measure = Literal["usage", "spend"]
SetBy = Literal["default", "operator", "product", "user"]

# How many thresholds a user may have, how many the product may add for a user, and how many there
# may be for all users.
MOST = 20

# For each refusal that emits an event, its measure.
_TOLD: dict[str | None, Measure] = {"limit_reached": "usage", "spend_limit_reached": "spend"}

_ROUND = "thresholds"
_START = {"after": ""}
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Level:
    """The quantity or cost that has to be reached: a percentage or an amount.

    `percent` is of the included quantity, or of the spend limit. `amount` is a quantity of the
    feature, or major units of the user's currency. `feature` is None for any feature, and for
    `spend`.
    """

    measure: Measure
    feature: str | None
    percent: int | None
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold. A default has no `id` and `created_at`. `user_id` is None for all users."""

    id: str | None
    user_id: str | None
    set_by: SetBy
    measure: Measure
    feature: str | None
    percent: int | None
    amount: Decimal | None
    created_at: datetime | None

    @property
    def mark(self) -> str:
        """The value as `threshold_reached` has it: "80%", or an amount."""
        return f"{self.percent}%" if self.amount is None else format_decimal(self.amount)


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold that was reached in the running period. `feature` is None for `spend`."""

    measure: Measure
    feature: str | None
    mark: str
    at: datetime

    def is_of(self, threshold: Threshold) -> bool:
        """Whether it is this threshold, which may be one of each feature."""
        same = (self.measure, self.mark) == (threshold.measure, threshold.mark)
        return same and threshold.feature in (None, self.feature)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A decision about usage that was sent as an answer. `code` is None if the usage was not
    refused.
    """

    user_id: str
    feature: str
    code: str | None
    occurred_at: datetime | None = None


def add(
    db: Database,
    user_id: str | None,
    threshold: Level,
    *,
    set_by: Literal["operator", "product", "user"],
    rules: Rules,
    now: datetime,
) -> tuple[Threshold, bool]:
    """Adds a threshold of a user, or of all users if `user_id` is None.

    Returns the threshold, and whether it is new. If an equal one exists, returns that one. If the
    threshold is reached already, an event is emitted at once; for a threshold of all users, the
    next run of `reconcile` emits the events. Raises InvalidRequest for a threshold that has no
    meaning, NotFound for an unknown user, and Conflict if there are MOST already.
    """
    _check(threshold)
    new_id = f"thr_{uuid4().hex}"
    row = db.one(
        _sql["add"],
        {
            "id": new_id,
            "user_id": user_id,
            "set_by": set_by,
            "measure": threshold.measure,
            "feature": threshold.feature,
            "percent": threshold.percent,
            "amount": threshold.amount,
            "most": MOST,
            "now": now,
            "spending": rules.spending,
        },
    )
    assert row is not None  # noqa: S101 - add_threshold returns one row
    if row["verdict"] == "unknown_user":
        raise NotFound("There is no user with this id.", code="unknown_user")
    if row["verdict"] == "too_many":
        raise Conflict(f"There are {MOST} thresholds already.", code="too_many_thresholds")
    return _threshold(row), row["verdict"] == "added"


def remove(
    db: Database, threshold_id: str, *, user_id: str | None, rules: Rules, now: datetime
) -> None:
    """Removes the user's own threshold. If `user_id` is None, one that a product or operator added.

    Raises NotFound if there is none with this id.
    """
    values = {
        "id": threshold_id,
        "user_id": user_id,
        "now": now,
        "spending": rules.spending,
    }
    if not db.value(_sql["remove"], values):
        raise _not_found()


def get(db: Database, threshold_id: str, *, user_id: str | None) -> Threshold:
    """Returns one threshold. If `user_id` is not None, only one for this user or for all users.

    Raises NotFound.
    """
    row = db.one(_sql["get"], {"id": threshold_id, "user_id": user_id})
    if row is None:
        raise _not_found()
    return _threshold(row)


def change(
    db: Database,
    threshold_id: str,
    *,
    percent: int | None,
    amount: Decimal | None,
    user_id: str | None,
    rules: Rules,
    now: datetime,
) -> Threshold:
    """Gives the user's own threshold another percentage or amount, and returns it.

    If `user_id` is None, changes one that a product or operator added. If the threshold is reached
    already, an event is emitted as by `add`. Raises NotFound, InvalidRequest for a value that has
    no meaning, and Conflict if there is an equal threshold already.
    """
    found = get(db, threshold_id, user_id=user_id)
    _check(Level(found.measure, found.feature, percent, amount))
    row = db.one(
        _sql["change"],
        {
            "id": threshold_id,
            "user_id": user_id,
            "percent": percent,
            "amount": amount,
            "now": now,
            "spending": rules.spending,
        },
    )
    assert row is not None  # noqa: S101 - change_threshold returns one row
    if row["verdict"] == "not_found":
        raise _not_found()
    if row["verdict"] == "exists":
        raise Conflict("There is an equal threshold already.", code="threshold_exists")
    return _threshold(row)


def of(db: Database, user_id: str | None) -> list[Threshold]:
    """Returns the thresholds added for a user, including own ones. If `user_id` is None, those
    of all users.
    """
    return [_threshold(row) for row in db.all(_sql["of"], {"user_id": user_id})]


def applying_to(db: Database, user_id: str) -> list[Threshold]:
    """Returns the thresholds that apply to a user: own ones, and the most specific of the
    others.
    """
    return [_threshold(row) for row in db.all(_sql["applying"], {"user_id": user_id})]


def reached_by(db: Database, user_id: str) -> list[Reached]:
    """Returns the thresholds that a user's running period has reached, the first one first."""
    rows = db.all(_sql["reached"], {"user_id": user_id})
    return [Reached(r["measure"], r["feature"], r["mark"], r["reached_at"]) for r in rows]


def tell_refused(db: Database, refusals: Iterable[Refusal], *, rules: Rules, now: datetime) -> None:
    """Emits an event, once per period, if usage was refused because a limit was reached.

    Pass only refusals that were sent as answers: Commet is asked before that, and the usage may
    then be accepted.
    """
    told = list(dict.fromkeys(each for each in refusals if each.code in _TOLD))
    if not told:
        return
    measures = [_TOLD[each.code] for each in told]
    db.execute(
        _sql["tell_refused"],
        {
            "users": [each.user_id for each in told],
            "measures": measures,
            "features": [
                each.feature if measure == "usage" else ""
                for each, measure in zip(told, measures, strict=True)
            ],
            "occurred": [each.occurred_at for each in told],
            "spending": rules.spending,
            "now": now,
        },
    )


def follow(db: Database, rules: Rules, clock: Callable[[], datetime], deadline: Deadline) -> int:
    """Checks all users' thresholds if a threshold of all users, or OverageCeiling, was changed.

    Returns the number of users whose thresholds it checked. The next run continues after the last
    of them.
    """
    db.execute(_sql["note_ceilings"], {"spending": rules.spending})
    found = rounds.take_up(db, _ROUND, start=_START, every=timedelta(days=36500), now=clock())
    if found is None:
        return 0
    after, looked = str(found.position["after"]), 0
    while deadline.remaining() > 0:
        values = {"after": after, "limit": _BATCH, "now": clock(), "spending": rules.spending}
        rows = db.all(_sql["look_again"], values)
        looked += len(rows)
        if len(rows) < _BATCH:
            rounds.finish(db, _ROUND)
            return looked
        after = rows[-1]["user_id"]
        rounds.advance(db, _ROUND, {"after": after})
    rounds.leave(db, _ROUND)
    return looked


def _check(threshold: Level) -> None:
    wrong = None
    if (threshold.percent is None) == (threshold.amount is None):
        wrong = FieldError("percent", "one_of_two", "Send percent or amount, and not both.")
    elif threshold.measure == "spend" and threshold.feature is not None:
        wrong = FieldError("feature", "not_for_spend", "What is spent is of all features.")
    elif threshold.measure == "usage" and threshold.feature is None and threshold.amount:
        wrong = FieldError("feature", "missing", "Name the feature: an amount is of one feature.")
    if wrong:
        raise InvalidRequest(errors=[wrong])


def _not_found() -> NotFound:
    return NotFound("There is no threshold with this id.", code="threshold_not_found")


def _threshold(row: Row) -> Threshold:
    return Threshold(
        id=row["id"],
        user_id=row["user_id"],
        set_by=row["set_by"],
        measure=row["measure"],
        feature=row["feature"],
        percent=row["percent"],
        amount=row["amount"],
        created_at=row["created_at"],
    )
