"""The public plans, and which of them are sold.

While Commet does not answer, the last catalogue is used, together with its age.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from psycopg.types.json import Jsonb
from pydantic import ValidationError

from billing.commet.answers import Plan
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.subscriptions.selling import base_currency, unoffered, unsupported

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

FRESH = timedelta(seconds=60)
RECENT = timedelta(seconds=10)

# How long a request that has an older catalogue waits for a newer one.
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The public plans of time `as_of`, in the order in which Commet shows them."""

    as_of: datetime
    public: list[Plan]

    @property
    def plans(self) -> list[Plan]:
        """The plans that are sold, which are those that this project supports."""
        return [plan for plan in self.public if unsupported(plan) is None]

    def find(self, code: str) -> Plan | None:
        """Returns the plan that is sold under this code, or None."""
        return next((plan for plan in self.plans if plan.code == code), None)

    def id_of(self, code: str) -> str | None:
        """Returns the id of the public plan with this code, sold or not."""
        return next((plan.id for plan in self.public if plan.code == code), None)


def catalogue(
    db: Database,
    commet: "Callable[[], Commet]",
    *,
    now: datetime,
    deadline: Deadline,
    max_age: timedelta = FRESH,
) -> Catalogue:
    """Returns the plans, at most `max_age` old if Commet answers, else the last catalogue.

    `commet` builds the client, if Commet has to be asked.
    Raises CommetUnavailable or CommetRefused only if no catalogue was ever stored.
    """
    known = _cached(db)
    if known and timedelta() <= now - known.as_of < max_age:
        return known
    # While Commet is slow or down, one request in ten seconds asks Commet, and the others do not
    # wait.
    if known and not db.one(_sql["lease_plans"]):
        return known
    try:
        plans = commet().plans(deadline.within(_PATIENCE_SECONDS) if known else deadline)
    except (CommetUnavailable, CommetRefused):
        if known is None:
            raise
        return known
    found = Catalogue(now, sorted((p for p in plans if p.is_public), key=lambda p: p.sort_order))
    db.execute(
        _sql["cache_plans"],
        {
            "catalogue": Jsonb([plan.model_dump(mode="json") for plan in found.public]),
            "as_of": now,
            "not_sold": [
                f"{plan.code}: {reason}" for plan in found.public if (reason := unsupported(plan))
            ],
        },
    )
    return found


def currency(db: Database, known: Catalogue, configured: str) -> str:
    """Returns the currency of the plans' plain prices: `configured`, unless Commet charges in
    another.
    """
    return base_currency(known.public, _charged(db), configured)


def note_currencies(db: Database, configured: str) -> None:
    """Records an alarm for each currency in which Commet charges and which the plans do not
    offer.
    """
    known = _cached(db)
    if known is None:
        return
    found = unoffered(known.public, _charged(db)) - {configured}
    if found:
        db.execute(_sql["note_currencies"], {"currencies": sorted(found)})


def _charged(db: Database) -> list[tuple[str, str]]:
    return [(row["plan_id"], row["currency"]) for row in db.all(_sql["charged"])]


def _cached(db: Database) -> Catalogue | None:
    row = db.one(_sql["cached_plans"])
    if row is None:
        return None
    try:
        return Catalogue(row["as_of"], [Plan.model_validate(plan) for plan in row["catalogue"]])
    except ValidationError:
        return None  # an earlier release stored the catalogue in another form
