"""Random lives, up to the last invoice: late and corrected usage, and what Commet bills of it all.

At the end everybody leaves. Then each `feature_overage` line of Commet's invoices is held against
our ledger: for every person and period what was billed is what was booked, less what our rows say
was withheld, parked or moved. Those rows name their amount, so that it adds up to the cent.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import Any, NamedTuple

from hypothesis import strategies as st

from billing.database.connection import Database
from billing.usage import corrections
from billing.usage.corrections import Correction
from tests.proof.histories import PEOPLE, SOMEBODY, step_of
from tests.proof.money import CATALOGUE, QUANTITIES, MoneyHistory

_CENT = Decimal("0.01")

BILLS = st.one_of(
    step_of("use_late", SOMEBODY, QUANTITIES, st.sampled_from([0.01, 0.2, 2, 20])),
    step_of("correct", SOMEBODY, st.sampled_from(["1", "0.5", "0.1"])),
    step_of("renew", SOMEBODY, QUANTITIES),
)


class Line(NamedTuple):
    """A `feature_overage` line: units as an invoice shows them, and the amount in major units."""

    subscription: str
    used: Decimal
    included: Decimal
    overage: Decimal
    amount: Decimal


class Price(NamedTuple):
    """What a plan includes of storage, and what a unit beyond costs; None: it has no overage."""

    plan: str  # its name
    included: Decimal
    unit: Decimal | None


@dataclass(frozen=True, slots=True)
class Period:
    """What our tables say of storage in one period. Quantities are in units.

    `booked` is the sum of the entries that are left in the ledger, `total` that of all entries.
    `withheld` was never delivered. `parked` was refused; credits lower it, because Commet has those
    units. `moved` was booked by Commet in another period, and `carried` in this one although it was
    counted in another. Of a trial or free plan, `paid` occurred when the user paid already.
    `known_amount` is what the parked rows say they are worth, None if one of them does not say it.
    `undecided` of them wait for a person or for Commet. Of `unplaced` deliveries it is not known in
    which period Commet booked them.
    """

    id: int
    user_id: str
    subscription_id: str
    plan_id: str
    starts_at: datetime
    is_free: bool
    is_trial: bool
    booked: Decimal
    total: Decimal
    withheld: Decimal
    unclaimed: Decimal
    parked: Decimal
    moved: Decimal
    paid: Decimal
    carried: Decimal
    unplaced: int
    undecided: int
    known_amount: Decimal | None

    @property
    def billed(self) -> Decimal:
        """How much Commet has to have."""
        return self.total - self.withheld - self.parked - self.moved + self.carried

    @property
    def price(self) -> Price:
        """The price of the plan, nothing in a trial or on a free plan."""
        price = prices()[self.plan_id]
        return price._replace(unit=None) if self.is_free or self.is_trial else price


class BillHistory(MoneyHistory):
    """A history that ends in invoices."""

    def use_late(self, who: str, quantity: str, days: float) -> None:
        """Usage is reported some days after it occurred."""
        self.use(who, quantity, days=days)

    def correct(self, who: str, part: str) -> None:
        """Some of the user's newest event was counted by mistake."""
        row = self._db.one(
            "select idempotency_key as key, quantity from usage_event"
            " where user_id = %s and kind = 'event' order by booked_at desc limit 1",
            [who],
        )
        if row is None:
            return
        wrong = Correction(
            user_id=who, feature="storage", quantity=-row["quantity"] * Decimal(part),
            idempotency_key=f"correct-{next(self._keys)}", reason="a mistake",
            corrects=row["key"],
        )  # fmt: skip
        corrections.correct(self._db, wrong, author="ana", rules=self.rules, now=self.clock())

    def renew(self, who: str, quantity: str) -> None:
        """Usage that is delivered in time, and then a month passes."""
        self.use(who, quantity)
        self.send()
        self.wait(32)

    def leave(self) -> None:
        """Everybody leaves at Commet, so that everything is billed."""
        for who in PEOPLE:
            for sub in self._subs(who):
                self._call("DELETE", f"/subscriptions/{sub['id']}/pause", None)  # it would bar that
                self._call("POST", f"/subscriptions/{sub['id']}/cancel", {"immediate": True})
            assert not self._may_use(who)

    def send(self) -> None:
        super().send()
        found = self._db.all(_STILL_TOO_MUCH, {"now": self.clock()})
        unheard = self._subscriptions_with_unheard_allowances() if found else set()
        assert [row for row in found if row["subscription_id"] not in unheard] == []

    def _subscriptions_with_unheard_allowances(self) -> set[str]:
        """Those of which Commet has begun an allowance that we have not heard of.

        Nothing is replaced then: the number that we would send is of an allowance that is over.
        """
        ours = Counter(row["subscription_id"] for row in self._db.all(_ALLOWANCES))
        return {
            sub["id"]
            for sub in self._control.state()["subscriptions"]
            if len(sub["past_allowances"]) + bool(sub["allowance"]) != ours[sub["id"]]
        }

    def bills(self) -> list[str]:
        """Where Commet's invoices say otherwise than our ledger, in words."""
        periods = periods_of(self._db)
        state = self._control.state()
        wrong = [
            f"period {p.id} of {p.user_id} has {p.total} and not {p.booked} of its entries"
            for p in periods if p.total != p.booked
        ]  # fmt: skip
        wrong += [
            f"{p.moved} of the free period {p.id} of {p.user_id} is billed"
            for p in periods if p.moved > p.paid and (p.is_free or p.is_trial)
        ]  # fmt: skip
        wrong += [f"{p.unclaimed} of {p.user_id} was never sent" for p in periods if p.unclaimed]
        for who in PEOPLE:
            wrong += wrong_lines([p for p in periods if p.user_id == who], state)
        return wrong + [line for p in periods for line in _wrong_amount(p, state["invoices"])]


def periods_of(db: Database) -> list[Period]:
    """All periods, oldest first."""
    return [Period(**row) for row in db.all(_PERIODS)]


def wrong_lines(periods: Sequence[Period], state: dict[str, Any]) -> list[str]:
    """How a user's lines at Commet differ from what these periods of theirs have to be billed.

    `state` has the stand-in's records. Nothing is compared while it is not known where Commet has
    booked some of the usage.
    """
    if not periods or any(p.unplaced for p in periods):
        return []
    who = periods[0].user_id
    ids = {c["id"] for c in state["customers"] if c["external_id"] == who}
    invoices = [i for i in state["invoices"] if i["customer_id"] in ids]
    actual = Counter(line for invoice in invoices for line in _billed(invoice))
    expected = Counter(line for p in periods for line in _lines(p))
    unpaid = [p for p in periods if any(_is_unpaid(p, invoice) for invoice in invoices)]
    missing = (expected - actual) - Counter(line for p in unpaid for line in _lines(p))
    subscriptions = [s for s in state["subscriptions"] if s["customer_id"] in ids]
    if (not missing and actual <= expected) or _is_unheard_of(periods, subscriptions, state):
        return []
    return [f"{who}: billed {dict(actual - expected)} and not {dict(expected - actual)}"]


def _is_unheard_of(
    periods: Sequence[Period], subscriptions: Sequence[dict[str, Any]], state: dict[str, Any]
) -> bool:
    """Whether usage was booked in an allowance of whose plan we heard only after it was over.

    Then the change of plan was in no webhook, and reconcile did not run, until the next allowance.
    The usage is in our period before the change, or in one of the old plan. In all it has to be the
    same.
    """
    used = {meter["id"]: Decimal(str(meter["used"])) for meter in state["meters"]}
    ours = Counter((p.subscription_id, p.starts_at) for p in periods)
    theirs: Counter[tuple[str, datetime]] = Counter()
    counts: dict[tuple[str, datetime], Decimal] = defaultdict(Decimal)
    for sub in subscriptions:
        for allowance in filter(None, (*sub["past_allowances"], sub["allowance"])):
            begin = (sub["id"], _moment(allowance["start"]))
            theirs[begin] += 1
            counts[begin] += used.get(f"{allowance['id']}:storage", Decimal(0))
    unheard_of = any(counts[begin] and theirs[begin] != ours[begin] for begin in theirs) or any(
        p.billed and _has_other_plan(p, state["invoices"]) for p in periods
    )
    return unheard_of and sum(counts.values()) == sum(p.billed for p in periods)


def _has_other_plan(period: Period, invoices: Sequence[dict[str, Any]]) -> bool:
    """Whether the period began on another plan than that of Commet's last invoice before it."""
    return _plan_at_commet(period, invoices) not in (None, prices()[period.plan_id].plan)


def _plan_at_commet(period: Period, invoices: Sequence[dict[str, Any]]) -> str | None:
    """The plan's name on Commet's last invoice before the period, None if there is no invoice."""
    before = [
        (_moment(invoice["created_at"]), str(invoice["plan_name"]))
        for invoice in invoices
        if invoice["subscription_id"] == period.subscription_id
        and invoice["invoice_type"] != "overage"
        and invoice["status"] != "void"
        and _moment(invoice["created_at"]) <= period.starts_at
    ]
    return max(before)[1] if before else None


def _billed(invoice: dict[str, Any]) -> list[Line]:
    """What an invoice bills of usage. A declined change of plan is billed again: nothing."""
    if (invoice["invoice_type"], invoice["status"]) == ("plan_change", "void"):
        return []
    return [
        Line(
            invoice["subscription_id"], Decimal(line["used_amount"]),
            Decimal(line["included_amount"]), Decimal(line["overage_amount"]),
            Decimal(line["amount"]).scaleb(-2),
        )
        for line in invoice["lines"] if line["line_type"] == "feature_overage"
    ]  # fmt: skip


def _is_unpaid(period: Period, invoice: dict[str, Any]) -> bool:
    """Whether the invoice is of the renewal that began the period, and was never paid.

    Commet bills no usage of such a period when the subscription ends. Here overage is taken in it
    only before the mirror has heard of the declined payment: a minute, while reconcile runs.
    """
    return (
        invoice["subscription_id"] == period.subscription_id
        and invoice["status"] in ("void", "uncollectible")
        and invoice["invoice_type"] == "recurring"
        and _moment(invoice["period_start"]) <= period.starts_at < _moment(invoice["period_end"])
    )


def _lines(period: Period) -> list[Line]:
    """The line that a period's usage has to have: none if it was within the included quantity."""
    _, included, unit = period.price
    beyond = max(Decimal(0), period.billed - included)
    if unit is None or beyond == 0:
        return []
    amount = (beyond * unit / 10000).quantize(_CENT, ROUND_HALF_UP)
    return [Line(period.subscription_id, _shown(period.billed), included, _shown(beyond), amount)]


def _wrong_amount(period: Period, invoices: Sequence[dict[str, Any]]) -> list[str]:
    """Whether what was billed, and the amounts of the rows that say otherwise, make up the ledger.

    Only where nothing was moved between periods, or may have been. If the period began on a plan
    that Commet had changed unheard, the terms of Commet's plan are right too: they are the period's
    terms if the change is heard late, but before the end of the subscription.
    """
    own = period.price
    elsewhere = period.moved or period.carried or period.unplaced
    if not period.parked or period.undecided or elsewhere or own.unit is None:
        return []
    theirs = _plan_at_commet(period, invoices)
    known = period.known_amount
    at_prices = [own, *(p for p in prices().values() if p.plan == theirs and p.plan != own.plan)]
    due = [_worth(period.total - period.withheld, price) for price in at_prices]
    billed = [_worth(period.billed, price) for price in at_prices]
    if known is not None and any(b + known == d for b, d in zip(billed, due, strict=True)):
        return []
    return [
        f"period {period.id} of {period.user_id}: {due[0]} is due, {billed[0]} was billed, and the"
        f" rows in between say {known}"
    ]


def _worth(used: Decimal, price: Price) -> Decimal:
    """What the overage of that usage costs, not rounded."""
    return max(Decimal(0), used - price.included) * (price.unit or 0) / 10000


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _shown(units: Decimal) -> Decimal:
    return units.quantize(Decimal(1), ROUND_HALF_UP)


@cache
def prices() -> dict[str, Price]:
    """What the plans of the stand-in say of storage, by id."""
    plans: list[dict[str, Any]] = json.loads(CATALOGUE.read_text())["plans"]
    found = {}
    for plan in plans:
        storage = next(f for f in plan["features"] if f["code"] == "storage")
        overage = storage.get("overage", {})
        unit = Decimal(overage["unitPrice"]) if overage.get("enabled") else None
        found[plan["id"]] = Price(plan["name"], Decimal(storage["includedAmount"]), unit)
    return found


# Running totals below what Commet was sent, although nothing keeps them from being lowered there.
_ALLOWANCES = "select subscription_id from usage_period"
_STILL_TOO_MUCH = """
select p.user_id, p.subscription_id, t.total, t.claimed
from usage_total t
join usage_period p on p.id = t.period
join current_subscription s on s.user_id = p.user_id and s.status = 'active'
where t.total < t.claimed and p.closed_at is null
  and p.ends_at > %(now)s::timestamptz + interval '1 hour'
  and not exists (
      select from usage_delivery d
      where d.user_id = p.user_id
        and (d.state = 'parked' or d.state = 'sent' and d.billed_period is null)
  )
"""

# The storage of every period. Credits are parked rows with a quantity below zero.
_PERIODS = """
select p.id, p.user_id, p.subscription_id, p.plan_id, p.starts_at, p.is_free, p.is_trial,
       (
           select coalesce(sum(e.quantity), 0) from usage_event e
           where e.period = p.id and e.feature = 'storage'
       ) as booked,
       coalesce(t.total, 0) as total, coalesce(t.withheld, 0) as withheld,
       coalesce(greatest(t.total - t.claimed - t.withheld, 0), 0) as unclaimed,
       (
           select coalesce(sum(e.quantity), 0)
           from usage_period n
           join usage_event e on e.period = p.id and e.feature = 'storage'
           where n.free_period = p.id and e.occurred_at >= n.paid_from
       ) as paid,
       d.parked, d.moved, d.unplaced, d.undecided, d.known_amount, c.carried
from usage_period p
left join usage_total t on t.period = p.id and t.feature = 'storage'
cross join lateral (
    select coalesce(sum(n.quantity) filter (where n.state = 'parked'), 0) as parked,
           coalesce(sum(n.quantity) filter (
               where n.state = 'sent' and n.billed_period <> n.period), 0) as moved,
           count(*) filter (where n.state = 'sent' and n.billed_period is null) as unplaced,
           count(*) filter (
               where n.state = 'parked'
                 and n.reason not in ('lost_to_cancellation', 'needs_credit')) as undecided,
           case when bool_and(n.amount is not null) filter (where n.state = 'parked')
                then sum(case n.kind when 'credit' then -n.amount else n.amount end)
                     filter (where n.state = 'parked') end as known_amount
    from usage_delivery n where n.period = p.id and n.feature = 'storage'
) as d
cross join lateral (
    select coalesce(sum(n.quantity), 0) as carried from usage_delivery n
    where n.billed_period = p.id and n.period <> p.id and n.feature = 'storage'
      and n.state = 'sent'
) as c
order by p.id
"""
