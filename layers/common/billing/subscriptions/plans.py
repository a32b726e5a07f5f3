"""The public plans; while Commet is silent, the last good catalogue with its age."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.types.json import Jsonb
from pydantic import ValidationError

from billing.commet.answers import Plan
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable

_sql = Statements(__file__)

FRESH = timedelta(seconds=60)
RECENT = timedelta(seconds=10)

# With a catalogue at hand nobody waits long for a newer one.
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Plans in the order Commet shows them, as of a moment."""

    as_of: datetime
    plans: list[Plan]

    def find(self, code: str) -> Plan | None:
        """The public plan with this code."""
        return next((plan for plan in self.plans if plan.code == code), None)


def catalogue(
    db: Database, commet: Commet, *, now: datetime, deadline: Deadline, max_age: timedelta = FRESH
) -> Catalogue:
    """The plans, at most `max_age` old where Commet answers, else the last we know.

    Raises CommetUnavailable or CommetRefused only where there never was an answer.
    """
    known = _cached(db)
    if known and timedelta() <= now - known.as_of < max_age:
        return known
    # While Commet is slow or down one request in ten seconds finds out, and no other waits.
    if known and not db.one(_sql["claim_plans"]):
        return known
    try:
        plans = commet.plans(deadline.within(_PATIENCE_SECONDS) if known else deadline)
    except (CommetUnavailable, CommetRefused):
        if known is None:
            raise
        return known
    found = Catalogue(now, sorted((p for p in plans if p.is_public), key=lambda p: p.sort_order))
    db.execute(
        _sql["cache_plans"],
        {
            "catalogue": Jsonb([plan.model_dump(mode="json") for plan in found.plans]),
            "as_of": now,
        },
    )
    return found


def _cached(db: Database) -> Catalogue | None:
    row = db.one(_sql["cached_plans"])
    if row is None:
        return None
    try:
        return Catalogue(row["as_of"], [Plan.model_validate(plan) for plan in row["catalogue"]])
    except ValidationError:
        return None  # kept by an earlier release, which knew plans by another shape
