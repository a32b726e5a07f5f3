"""The public plans. While Commet does not answer, the last catalogue is used, with its age."""

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

# A request that already has a catalogue waits so long for a newer one.
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The plans in the order in which Commet shows them, as of `as_of`."""

    as_of: datetime
    plans: list[Plan]

    def find(self, code: str) -> Plan | None:
        """The public plan with this code, or None."""
        return next((plan for plan in self.plans if plan.code == code), None)


def catalogue(
    db: Database, commet: Commet, *, now: datetime, deadline: Deadline, max_age: timedelta = FRESH
) -> Catalogue:
    """The plans, at most `max_age` old where Commet answers, else the last catalogue.

    Raises CommetUnavailable or CommetRefused only where no catalogue was ever stored.
    """
    known = _cached(db)
    if known and timedelta() <= now - known.as_of < max_age:
        return known
    # While Commet is slow or down, one request in ten seconds asks, and the others do not wait.
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
        return None  # an earlier release stored the catalogue in another form
