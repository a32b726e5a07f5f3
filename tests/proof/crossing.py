"""Which thresholds are reached: as outgoing events alone tell it, and as the ledger says.

The ledger's side is computed here from its entries, from what Commet booked of earlier periods and
from the terms. It shares nothing with the routines that tell thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.database.connection import Database, Row
from billing.events import log
from billing.events.log import OutgoingEvent

# Plans of the stand-in have one metered feature.
FEATURE = "storage"
DEFAULTS = (80, 100)
TYPES = {"usage.threshold_reached": "usage", "spend.threshold_reached": "spend"}

# A period, a measure, and the threshold: "80%", or an amount.
Place = tuple[int, str, str]


@dataclass(frozen=True, slots=True)
class Use:
    """What the ledger says of a running period: what is used, what that costs, and of how much."""

    row: Row
    used: Decimal
    spent: Decimal
    included: Decimal | None
    limit: Decimal | None

    @property
    def terms(self) -> tuple[Any, ...]:
        """What decides how much overage costs."""
        row = self.row
        return row["included"], row["unlimited"], row["overage_enabled"], row["unit_price"]

    def of(self, measure: str) -> Decimal:
        return self.used if measure == "usage" else self.spent

    def whole(self, measure: str) -> Decimal | None:
        """What percentages are of; None where there are none."""
        return self.included if measure == "usage" else self.limit


class Crossings:
    """Follows the events, and holds them against the ledger whenever `look` is called.

    `reached` is what the events alone say: a threshold is reached from its event on, until less is
    used, or until it costs less. Two things happen at Commet and leave no trace in the ledger:
    usage of an earlier period is booked in this one, and terms of spending change. Thresholds are
    compared with these when usage is next booked. `unsure` has the thresholds that lie ahead again
    for such a reason: they may be told again, or not.
    """

    def __init__(
        self, db: Database, clock: Callable[[], datetime], ceiling: Decimal | None = None
    ) -> None:
        self._db = db
        self._clock = clock
        self._ceiling = ceiling
        self._read = 0
        self._before: dict[int, Use] = {}
        self.reached: dict[Place, Decimal] = {}
        self.unsure: set[Place] = set()
        self.told = 0

    def look(self, *, changed: str | None = None) -> None:
        """Compares. `changed`: the user of whom a threshold or a limit was just changed."""
        told = self._news()
        wrong = []
        uses = self._uses()
        levels = self._levels()
        for event in told:
            wrong += self._hear(event, uses, levels)
        for use in uses:
            for measure in ("usage", "spend"):
                wrong += self._compare(
                    use, measure, levels, evaluated=use.row["user_id"] == changed
                )
        self._before = {use.row["id"]: use for use in uses}
        assert wrong == [], wrong

    # --- what the events say -------------------------------------------------------------------

    def _news(self) -> list[OutgoingEvent]:
        while log.place(self._db):
            pass
        events = log.after(self._db, self._read, 100_000, list(TYPES))
        self._read = events[-1].place if events else self._read
        self.told += len(events)
        return events

    def _hear(self, event: OutgoingEvent, uses: list[Use], levels: list[Row]) -> list[str]:
        """Takes one event in; says what is wrong about it."""
        data, measure = event.data, TYPES[event.type]
        mark = _mark(data["threshold"])
        dates = (data["period_start"], data["period_end"])
        running = [u for u in uses if u.row["user_id"] == event.user_id and _dates(u) == dates]
        if not running:
            return []  # of a period that was over before we looked
        (use,) = running
        place = (use.row["id"], measure, mark)
        value = self._in_effect(use, measure, levels).get(mark)
        if value is None or use.of(measure) < value:
            return [f"{event.user_id}: {mark} of {measure} was told at {use}"]
        if place in self.reached and place not in self.unsure:
            return [f"{event.user_id}: {mark} of {measure} was told twice, at {use}"]
        self.reached[place] = value
        self.unsure.discard(place)
        return []

    # --- what the ledger says ------------------------------------------------------------------

    def _compare(self, use: Use, measure: str, levels: list[Row], *, evaluated: bool) -> list[str]:
        """Which thresholds are reached and were not told. Forgets those that are not any more."""
        period = use.row["id"]
        before = self._before.get(period)
        grew = use.row["added"] > (before.row["added"] if before else 0)
        fell = before is not None and use.row["taken"] > before.row["taken"]
        if measure == "usage":
            fell = fell or (before is not None and before.included != use.included)
        else:
            grew = grew and use.spent > (before.spent if before else 0)
            fell = fell or (before is not None and before.terms != use.terms)
        values = self._in_effect(use, measure, levels)
        wrong = []
        for mark, value in values.items():
            place = (period, measure, mark)
            if value <= use.of(measure):
                if place in self.reached:
                    self.reached[place] = value
                elif grew or evaluated:
                    wrong.append(f"{mark} of {measure} was not told at {use}")
            elif place in self.reached:
                self.unsure.add(place)
                if fell or evaluated:
                    self.reached.pop(place)
                    self.unsure.discard(place)
        for place, value in self.reached.items():
            hidden = place[:2] == (period, measure) and place[2] not in values
            # It may be in effect again, and then it depends on what was used meanwhile.
            if hidden and use.of(measure) < value:
                self.unsure.add(place)
        return wrong

    def _uses(self) -> list[Use]:
        found = []
        for row in self._db.all(_USES, {"feature": FEATURE, "now": self._clock()}):
            quantity = row["booked"] + row["carried"]
            price = row["unit_price"] or Decimal(0)
            included = row["included"] or Decimal(0)
            pays = row["overage_enabled"] and not row["unlimited"]
            limits = [row["own_spend_limit"]]
            limits.append(self._ceiling if row["spend_limit"] is None else row["spend_limit"])
            known = [limit for limit in limits if limit is not None]
            found.append(
                Use(
                    row,
                    used=quantity + row["before"],
                    spent=max(Decimal(0), quantity - included) * price / 10000 * bool(pays),
                    included=None if row["unlimited"] else included,
                    limit=min(known) if known else None,
                )
            )
        return found

    def _levels(self) -> list[Row]:
        return self._db.all("select * from threshold")

    def _in_effect(self, use: Use, measure: str, levels: list[Row]) -> dict[str, Decimal]:
        """The thresholds of a user by their names, and what each of them is in numbers.

        The user's own ones, and those of the narrowest of the product's and operator's that has
        any.
        """
        who = use.row["user_id"]
        mine = [
            row
            for row in levels
            if row["measure"] == measure
            and row["user_id"] in (None, who)
            and row["feature"] in (None, FEATURE)
        ]
        own = [row for row in mine if row["set_by"] == "user"]
        chosen: list[Row] = [{"percent": each, "amount": None} for each in DEFAULTS]
        for set_by, feature in (
            ("operator", None), ("operator", FEATURE), ("product", None), ("product", FEATURE),
        ):  # fmt: skip
            narrower = [r for r in mine if (r["set_by"], r["feature"]) == (set_by, feature)]
            chosen = narrower or chosen
        whole = use.whole(measure)
        values = {}
        for row in own + chosen:
            if row["amount"] is not None:
                values[_text(row["amount"])] = row["amount"]
            elif whole:
                values[f"{row['percent']}%"] = whole * row["percent"] / 100
        return values


def _mark(threshold: dict[str, Any]) -> str:
    if "percent" in threshold:
        return f"{threshold['percent']}%"
    return _text(Decimal(threshold["amount"]))


def _text(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _dates(use: Use) -> tuple[str, str]:
    return _rfc3339(use.row["starts_at"]), _rfc3339(use.row["ends_at"])


def _rfc3339(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


# `added` and `taken` tell how many entries there are above and below zero. `before` was used in
# free periods that were left early, and whose included quantity is not given again.
_USES = """
select p.id, p.user_id, p.starts_at at time zone 'UTC' as starts_at,
       p.ends_at at time zone 'UTC' as ends_at,
       u.spend_limit, u.own_spend_limit,
       e.included, e.unlimited, e.overage_enabled, e.unit_price,
       own.booked, own.added, own.taken, own.carried,
       case when p.is_free then (
           select coalesce(sum(b.booked + b.carried), 0)
           from earlier_free_period f
           cross join lateral (
               select (
                   select coalesce(sum(quantity), 0) from usage_event
                   where period = f.earlier and feature = %(feature)s
               ) as booked,
               (
                   select coalesce(sum(quantity), 0) from usage_delivery
                   where billed_period = f.earlier and period <> f.earlier
                     and feature = %(feature)s and state = 'sent'
               ) as carried
           ) as b
           where f.period = p.id and f.until > %(now)s
       ) else 0 end as before
from usage_period p
join users u on u.id = p.user_id
left join entitlements e on e.user_id = p.user_id and e.feature = %(feature)s
cross join lateral (
    select coalesce(sum(n.quantity), 0) as booked,
           count(*) filter (where n.quantity > 0) as added,
           count(*) filter (where n.quantity < 0) as taken,
           (
               select coalesce(sum(d.quantity), 0) from usage_delivery d
               where d.billed_period = p.id and d.period <> p.id and d.feature = %(feature)s
                 and d.state = 'sent'
           ) as carried
    from usage_event n
    where n.period = p.id and n.feature = %(feature)s
) as own
where p.closed_at is null
order by p.id
"""
