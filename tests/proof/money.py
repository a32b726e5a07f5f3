"""Random lives of people who use, owe, dispute, try and change plans: the steps about money.

Each step compares at once what can be compared at once: credit is given only in good standing and
below the ceiling, a change of plan is charged once, a refusal after a visit to the portal is right.
What needs all webhooks, or reconcile, is compared at the end (`differences`).
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from pathlib import Path
from typing import Any, Literal

from hypothesis import strategies as st

from billing.accounts.accounts import User
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database, Row
from billing.deadline import Deadline
from billing.debts import keeping
from billing.debts.refusing import Debtors
from billing.delivery.flushing import flush
from billing.delivery.sending import deliver
from billing.errors import BillingError, CommetUnavailable, DebtOpen, Unavailable
from billing.subscriptions import mirror
from billing.subscriptions.access import Access
from billing.subscriptions.checkout import Started
from billing.subscriptions.plan_changes import Performed, PlanChanges, Preview
from billing.subscriptions.portal import portal_url
from billing.usage import accepting, spending
from billing.usage.accepting import Allowance, UsageEvent, Verdict
from billing.usage.rules import Rules
from standin.testing import Receiver, StandIn
from tests.proof.crashing import Unlimited
from tests.proof.crossing import Crossings
from tests.proof.histories import (
    ACCESS,
    PAYS,
    PEOPLE,
    SETTINGS,
    SOMEBODY,
    History,
    Post,
    Step,
    step_of,
)

# The plans of the stand-in, and one more, which begins with a trial.
CATALOGUE = Path(__file__).with_name("catalogue.json")
HOME = "https://app.example/"

_seed = st.integers(0, 9999)
_intervals = st.sampled_from(["monthly", "yearly"])
QUANTITIES = st.sampled_from(["1", "3.5", "40", "99", "130", "900", "1030.25"])
_amounts = st.sampled_from([None, "0", "2", "8.50", "1000"])

# What a person may do in the portal, or Commet's dashboard, with an own subscription.
_visited = st.one_of(
    step_of("cancel", SOMEBODY, st.booleans()),
    step_of("uncancel", SOMEBODY),
    step_of("reactivate", SOMEBODY),
    step_of("pause", SOMEBODY, st.sampled_from(["immediate", "period_end"]), st.just(None)),
    step_of("end_pause", SOMEBODY),
    step_of("change_plan", SOMEBODY, st.sampled_from(["pln_free", "pln_usagemax"]), _intervals),
    step_of("pay", SOMEBODY, st.just(PAYS)),
)
VISIT = step_of("visit", SOMEBODY, _visited, st.booleans())
_use = step_of("use", SOMEBODY, QUANTITIES)
MONEY = st.one_of(
    _use, _use, _use, step_of("send"),
    step_of("use_up_credit", SOMEBODY, QUANTITIES),
    step_of("limit", SOMEBODY, _amounts, st.sampled_from(["product", "user"])),
    step_of("try_out", SOMEBODY, _intervals),
    step_of("dispute", SOMEBODY, st.booleans()),
    step_of("resolve_dispute", SOMEBODY, st.sampled_from(["won", "lost"])),
    step_of("refund", SOMEBODY, st.booleans()),
    step_of("never_pay", SOMEBODY),
    step_of("pay_debts", SOMEBODY),
    step_of("change_here", SOMEBODY, st.sampled_from(["free", "usage_pro", "usage_max", "tryout"]),
         _intervals, st.sampled_from([0, 1, 5]), st.booleans()),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Charge:
    """A payment that Commet took, in minor units."""

    invoice_type: str
    total: int


class MoneyHistory(History):
    """A history with usage. `ceiling` is the amount of OverageCeiling; None: there is none."""

    def __init__(
        self,
        db: Database,
        remote: StandIn,
        hooks: Receiver,
        commet: Commet,
        post: Post,
        *,
        ceiling: Decimal | None = None,
    ) -> None:
        super().__init__(db, remote, hooks, commet, post)
        self._keys: Iterator[int] = count()
        self._ceiling = ceiling
        self.settings = replace(
            SETTINGS, overage_ceiling={"usd": ceiling}, deliver_at_once_from={"usd": None}
        )
        self.rules = Rules(frozenset(ACCESS), ceilings={"usd": ceiling}, at_once={"usd": None})
        self._own: dict[str, set[str]] = {each: set() for each in PEOPLE}  # by our own checkouts
        self.crossings = Crossings(db, self.clock, ceiling)
        keeping.keep_floor(db, SETTINGS.debt_floor, Deadline.after(20))

    def run(self, step: Step) -> None:
        super().run(step)
        self.crossings.look()

    def heard(self) -> None:
        self.crossings.look()

    # --- usage -----------------------------------------------------------------------------

    def use(self, who: str, quantity: str, *, days: float = 0) -> str | None:
        """The product reports usage, `days` after it occurred; the code of a refusal."""
        event = UsageEvent(
            who, "storage", Decimal(quantity), f"use-{next(self._keys)}",
            self.clock() - timedelta(days=days) if days else None,
        )  # fmt: skip

        def decide(_: object) -> list[Verdict]:
            return accepting.accept(self._db, [event], rules=self.rules, now=self.clock())

        decided = self._access().decide([who], decide, Deadline.after(20))
        (verdict,) = decided.decisions
        self.crossings.look()
        if verdict.status == "accepted":
            self._check_credit(event)
        return verdict.code

    def use_up_credit(self, who: str, quantity: str) -> None:
        """Reports usage beyond what is included, again and again, until it is refused."""
        for _ in range(6):
            if self.use(who, quantity) is not None:
                return

    def limit(self, who: str, amount: str | None, by: Literal["product", "user"]) -> None:
        """Sets a spending limit."""
        with suppress(BillingError):
            spending.set_limit(
                self._db, who, None if amount is None else Decimal(amount), by=by,
                rules=self.rules, now=self.clock(),
            )  # fmt: skip
            self.crossings.look(changed=who)

    def _check_credit(self, event: UsageEvent) -> None:
        """What has been accepted beyond the included quantity was given in good standing only."""
        now = self.clock()
        row = self._db.one(_BOOKED, {"user": event.user_id, "key": event.idempotency_key})
        assert row is not None
        if row["included"] is None:  # unlimited
            return
        used = row["total"] + row["carried"]
        beyond = _beyond(used, row["included"]) - _beyond(used - event.quantity, row["included"])
        if beyond == 0:
            return
        assert row["unit_price"], "usage beyond the limit of a plan without overage"
        assert not row["is_free"]
        assert not row["is_trial"]
        standing = {name: row[name] for name in ("has_dispute", "has_debt")}
        assert standing == {"has_dispute": False, "has_debt": False}
        # A pause ends access, but not the period: what occurred before it is late usage.
        before_pause = row["status"] == "paused" and (event.occurred_at or now) < now
        if not row["is_over"] and not before_pause:
            assert row["status"] == "active"
            assert row["billing_interval"] is not None
            assert not (row["cancel_at_period_end"] and row["period_end"] <= self.clock())
        spent = _beyond(used, row["included"]) * row["unit_price"] / 10000
        limits = [row["own_spend_limit"]]
        limits.append(self._ceiling if row["spend_limit"] is None else row["spend_limit"])
        assert all(spent <= limit for limit in limits if limit is not None), (spent, limits)

    def send(self) -> None:
        """Runs of deliver_usage, until nothing is left; all back-off is over."""
        for _ in range(10):
            self._db.execute("update usage_delivery set due_at = now() where state = 'pending'")
            self._db.execute("update usage_total set replace_after = null")
            done = deliver(
                self._db, self.commet, self.clock, Deadline.after(60), timedelta(0),
                budget=Unlimited(), workers=4, quiet=timedelta(0), jitter=lambda: 0.0,
            )  # fmt: skip
            if done.drained and not done.postponed:
                return
        raise AssertionError("deliveries never end")

    # --- checkouts, trials, changes of plan ------------------------------------------------

    def subscribe(self, who: str, plan: str, interval: str) -> Started | None:
        """Through our own checkout, which refuses debtors, and offers no second trial."""
        had_trial = self._trials(who) > 0
        known = {sub["id"] for sub in self._subs(who)}
        try:
            Debtors(self._db, self.commet, self.clock, HOME).check(who, Deadline.after(20))
        except BillingError:
            return None
        assert not self._has_debt(who)
        started = super().subscribe(who, plan, interval)
        if started and started.subscription.id not in known:
            self._own[who].add(started.subscription.id)
            made = next(s for s in self._subs(who) if s["id"] == started.subscription.id)
            assert not (had_trial and made["trial_days"]), "a second trial is offered"
        return started

    def try_out(self, who: str, interval: str) -> None:
        """Begins a trial, and leaves it at once."""
        self.subscribe(who, "tryout", interval)
        self.pay(who, PAYS)
        self.cancel(who, immediate=True)

    def change_here(
        self,
        who: str,
        plan: str,
        interval: str,
        lost: int,
        again: bool,  # noqa: FBT001 - drawn
    ) -> None:
        """Changes plans by our own door; `lost` answers of Commet never arrive.

        The confirmation is sent until there is an answer, and maybe once more.
        """
        current = mirror.current(self._db, who)
        if current is None:
            return
        user = User(who, f"{who}@example.com", None)
        changes = PlanChanges(self._db, self.commet, self.clock, self._flush, "usd")
        order: dict[str, Any] = {
            "plan_code": plan, "billing_interval": None if plan == "free" else interval,
        }  # fmt: skip
        before = self._charges(who)
        try:
            asked = changes.ask(
                user, current, **order, success_url=HOME, deadline=Deadline.after(20)
            )
        except BillingError:
            return
        assert self._charges(who) == before
        if not isinstance(asked, Preview):
            return
        rule = None
        if lost:
            rule = self._control.fault(
                match={"path": "/subscriptions/*/change-plan"}, action={"reset": "after"},
                times=lost,
            )  # fmt: skip
        done: list[Performed | str] = []
        for _ in range(8):
            try:
                done.append(
                    changes.perform(user, asked.confirmation, **order, deadline=Deadline.after(20))
                )
            except (CommetUnavailable, Unavailable):
                continue  # the same request finds out
            except BillingError as error:
                done.append(error.code)
            if len(done) > again:
                break
        if rule:
            self._control.clear_faults(rule)
        assert len(set(map(repr, done))) == 1, done
        charges = list((self._charges(who) - before).elements())
        if isinstance(done[0], Performed) and done[0].charged:
            assert charges == [Charge("plan_change", done[0].charged)]
            assert done[0].charged == asked.due_now
        else:
            assert charges == []

    # --- what happens to payments ----------------------------------------------------------

    def dispute(self, who: str, whole: bool) -> None:  # noqa: FBT001 - drawn
        """The newest payment is disputed, all of it or a part."""
        for txn in self._payments(who):
            if txn["status"] == "succeeded" and not txn["dispute"]:
                left = _total(txn) - txn["refunded_amount"]
                self._control.dispute(txn["id"], amount=None if whole else (left + 1) // 2)
                return

    def resolve_dispute(self, who: str, outcome: Literal["won", "lost"]) -> None:
        """The oldest open dispute ends."""
        for txn in self._payments(who)[::-1]:
            if txn["dispute"] and txn["dispute"]["outcome"] is None:
                self._control.resolve_dispute(txn["id"], outcome=outcome)
                return

    def refund(self, who: str, whole: bool) -> None:  # noqa: FBT001 - drawn
        """The newest payment is given back, all of it or a part."""
        for txn in self._payments(who):
            if txn["status"] == "succeeded":
                left = _total(txn) - txn["refunded_amount"]
                self._control.refund(txn["id"], amount=None if whole else (left + 1) // 2)
                return

    def never_pay(self, who: str) -> None:
        """A month with overage is declined, and so is every further try."""
        self.use(who, "130")
        self.send()
        self.card(who, fails=True)
        self.wait(32)
        self.wait(8)

    def pay_debts(self, who: str) -> None:
        """A debtor tries to check out, and pays at the address of the refusal."""
        try:
            Debtors(self._db, self.commet, self.clock, HOME).check(who, Deadline.after(20))
        except DebtOpen as refusal:
            for payment in self._control.state()["payments"]:
                if refusal.pay_url and refusal.pay_url.endswith(payment["token"]):
                    self._control.pay_link(payment["id"])
        except BillingError:
            return

    # --- a visit to the portal ---------------------------------------------------------------

    def visit(self, who: str, meanwhile: Step, patient: bool) -> None:  # noqa: FBT001 - drawn
        """Something is done in the portal, and every webhook about it is lost.

        The next request about this user is right, or says that it does not know.
        """
        try:
            portal_url(
                self._db, self.commet, User(who, f"{who}@example.com", None), return_url=HOME,
                before=lambda: self._flush(who, Deadline.after(20)),
                now=self.clock(), deadline=Deadline.after(20),
            )  # fmt: skip
        except BillingError:
            return
        self.run(Step("nothing"))
        getattr(self, meanwhile.do)(who, *meanwhile.args[1:])
        self._control.settle()
        self._taken = len(self._hooks.received)
        if patient:  # nobody has asked for ten seconds
            self._db.execute("update subscriptions set checked_at = null where user_id = %s", [who])
            self._db.execute(
                "update users set asked_at = null, answered_at = answered_at - interval '1 minute'"
                " where id = %s",
                [who],
            )
            _, has_access = self._access().standing(who, Deadline.after(20))
            assert has_access == self._may_use(who), "access after a visit"
        self._check_refusal(who)

    def _check_refusal(self, who: str) -> None:
        def decide(_: object) -> list[Allowance]:
            return [
                accepting.check(
                    self._db, user_id=who, feature="storage", quantity=Decimal(1),
                    rules=self.rules, now=self.clock(),
                )
            ]  # fmt: skip

        decided = self._access().decide([who], decide, Deadline.after(20))
        (allowance,) = decided.decisions
        if decided.unconfirmed or allowance.code == "access_unconfirmed":
            return
        if allowance.code == "subscription_required":
            assert not self._may_use(who), "somebody who may use is refused"
        if allowance.code in ("limit_reached", "feature_not_in_plan"):
            listed = self._call("GET", "/feature-access", None, customerId=who)["data"]
            has_overage = any(
                f["code"] == "storage" and f["consumption"]["overage"]["enabled"] for f in listed
            )
            active = any(s["status"] == "active" for s in self._subs(who))
            assert not (has_overage and active), f"{allowance.code}, but overage is billed"

    def _told_access(self, who: str) -> bool:
        """What the last outgoing event about the user's access said; nobody has it before."""
        return bool(
            self._db.value(
                "select type = 'access.granted' from outgoing_event"
                " where user_id = %s and type in ('access.granted', 'access.ended')"
                " order by sequence desc limit 1",
                [who],
            )
        )

    def _may_use(self, who: str) -> bool:
        return any(sub["status"] in ACCESS for sub in self._subs(who))

    # --- the end -------------------------------------------------------------------------------

    def make_due(self) -> None:
        super().make_due()
        self._db.execute("update invoice_search set due_at = now()")
        self._db.execute("update debt set due_at = now() where due_at is not null")
        self._db.execute("update debt_link set due_at = now() where due_at is not null")
        self._db.execute("update payment_trouble set asked_at = null")
        # Commet shows everything that it took.
        self._db.execute("update usage_delivery set sent_at = sent_at - interval '2 minutes'")
        self._db.execute(
            "update usage_delivery set compare_at = now() where compare_at is not null"
        )

    def differences(self) -> list[str]:
        return [*super().differences(), *self._wrong_money()]

    def _wrong_money(self) -> list[str]:
        """Where disputes, debts, trials and the access that was told are otherwise than Commet's
        records say, in words.
        """
        wrong = []
        for who in PEOPLE:
            wrong += [
                f"{who}: {name} {ours} and not {theirs}"
                for name, ours, theirs in (
                    ("access told", self._told_access(who), self._may_use(who)),
                    ("has_dispute", self._flag(who, "has_dispute"), self._is_disputed(who)),
                    ("debts", self._debts(who), self._owed(who)),
                    ("has_debt", self._flag(who, "has_debt"), self._has_debt(who)),
                    ("debts paid", self._paid(who), self._links_paid(who)),
                )
                if ours != theirs
            ]
            if self._trials(who) > 1:
                wrong.append(f"{who} had {self._trials(who)} trials")
        return wrong

    def _flag(self, who: str, column: str) -> bool:
        return bool(self._db.value(f"select {column} from users where id = %s", [who]))  # noqa: S608

    def _is_disputed(self, who: str) -> bool:
        return any(self._dispute_state(txn) == "open" for txn in self._payments(who))

    def _dispute_state(self, txn: dict[str, Any]) -> str | None:
        """How a dispute has to stand here: None, open, won or lost.

        A lost webhook leaves a trace only at Commet's transaction. It does not say that a dispute
        was begun, and says the same of one that is open and one that was lost.
        """
        if not txn["dispute"]:
            return None
        heard = self._heard_of(txn["id"])
        if "payment.dispute_resolved" in heard:
            return str(txn["dispute"]["outcome"])
        if "payment.disputed" not in heard:
            return None
        return "open" if txn["status"] == "disputed" else "won"

    def _is_known(self, invoice: dict[str, Any]) -> bool:
        """Whether an invoice that was never paid is known here, or has to be.

        If its subscription ended and began anew unheard, its invoices are looked through when the
        subscription ends again.
        """
        sub = self._call("GET", f"/subscriptions/{invoice['subscription_id']}", None)
        heard = self._heard_of(invoice["id"]) & {"invoice.voided", "payment.retry_failed"}
        found = "select exists (select from debt where kind = 'voided_invoice' and source = %s)"
        return (
            bool(heard)
            or sub["status"] == "canceled"
            or bool(self._db.value(found, [invoice["id"]]))
        )

    def _heard_of(self, source: str) -> set[str]:
        """The webhooks about a transaction or an invoice that have arrived."""
        told = map(json.loads, self._arrived)
        return {
            each["event"]
            for each in told
            if source in (each["data"].get("paymentTransactionId"), each["data"].get("invoiceId"))
        }

    def _debts(self, who: str) -> "Counter[tuple[str, Decimal | None]]":
        """The open debts here; usage that was lost is one sum."""
        rows = self._db.all(
            "select kind, amount from debt where user_id = %s and ended_at is null", [who]
        )
        return _summed([(row["kind"], row["amount"]) for row in rows])

    def _owed(self, who: str) -> "Counter[tuple[str, Decimal | None]]":
        """What docs/subscriptions.md makes of Commet's records, without what is paid."""
        paid = [p["id"] for p in self._link_payments(who)]
        settled = self._db.all(_PAID_DEBTS, {"user": who, "payments": paid})
        ended = {(row["kind"], row["source"]) for row in settled}
        owed: list[tuple[str, Decimal | None]] = [
            ("voided_invoice", amount)
            for invoice in self._invoices(who)
            if (amount := _unpaid_overage(invoice))
            and ("voided_invoice", invoice["id"]) not in ended
            and self._is_known(invoice)
        ]
        owed += [
            ("lost_dispute", Decimal(txn["dispute"]["amount"]).scaleb(-2))
            for txn in self._payments(who)
            if self._dispute_state(txn) == "lost" and ("lost_dispute", txn["id"]) not in ended
        ]
        for row in self._db.all(_LOST, {"user": who, "paid": [r["id"] for r in settled]}):
            worth = _worth(row, row["counted"] + row["lost"]) - _worth(row, row["counted"])
            if worth:
                owed.append(("lost_usage", worth.quantize(Decimal("0.01"), ROUND_HALF_UP)))
        return _summed(owed)

    def _has_debt(self, who: str) -> bool:
        rows = self._db.all(
            "select amount from debt where user_id = %s and ended_at is null", [who]
        )
        return sum(row["amount"] or 0 for row in rows) >= 5

    def _paid(self, who: str) -> Decimal:
        """What was taken for debts, as our rows say."""
        return Decimal(
            self._db.value(
                "select coalesce(sum(net), 0) from debt_link where user_id = %s and state = 'paid'",
                [who],
            )
        )

    def _links_paid(self, who: str) -> Decimal:
        return Decimal(sum(p["amount"] for p in self._link_payments(who))).scaleb(-2)

    def _link_payments(self, who: str) -> list[dict[str, Any]]:
        """The payment links of the user that were paid at Commet."""
        ids = self._customer_ids(who)
        return [
            payment
            for payment in self._control.state()["payments"]
            if payment["customer_id"] in ids and payment["status"] == "succeeded"
        ]

    def _trials(self, who: str) -> int:
        """How many trials have begun in the user's own checkouts."""
        begun = {
            event["data"]["subscriptionId"]
            for event in self._control.events("trial.started", limit=10_000)
        }
        return len(begun & self._own[who])

    # --- the wire ------------------------------------------------------------------------------

    def _access(self) -> Access:
        return Access(self._db, self.settings, lambda: self.commet, self.clock)

    def _flush(self, user_id: str, deadline: Deadline) -> bool:
        self._db.execute(
            "update usage_delivery set due_at = now() where state = 'pending' and user_id = %s",
            [user_id],
        )
        return flush(
            self._db, self.commet, user_id, clock=self.clock, interval=timedelta(minutes=5),
            budget=Budget(self._db, SETTINGS.commet_calls_per_second), deadline=deadline,
        )  # fmt: skip

    def _customer_ids(self, who: str) -> set[str]:
        state = self._control.state()
        return {c["id"] for c in state["customers"] if c["external_id"] == who}

    def _payments(self, who: str) -> list[dict[str, Any]]:
        """Newest first."""
        ids = self._customer_ids(who)
        return [t for t in self._control.state()["transactions"] if t["customer_id"] in ids]

    def _invoices(self, who: str) -> list[dict[str, Any]]:
        """Newest first."""
        ids = self._customer_ids(who)
        return [i for i in self._control.state()["invoices"] if i["customer_id"] in ids]

    def _charges(self, who: str) -> "Counter[Charge]":
        """What Commet took, payment by payment."""
        kinds = {invoice["id"]: invoice["invoice_type"] for invoice in self._invoices(who)}
        return Counter(
            Charge(kinds[txn["invoice_id"]], _total(txn))
            for txn in self._payments(who)
            if txn["paid_at"] and txn["invoice_id"]
        )


def _beyond(used: Decimal, included: Decimal) -> Decimal:
    return max(Decimal(0), used - included)


def _worth(row: Row, used: Decimal) -> Decimal:
    if row["included"] is None:
        return Decimal(0)
    worth: Decimal = _beyond(used, row["included"]) * row["unit_price"] / 10000
    return worth


def _total(txn: dict[str, Any]) -> int:
    return int(txn["subtotal"] + txn["tax_amount"])


def _summed(
    debts: list[tuple[str, Decimal | None]],
) -> "Counter[tuple[str, Decimal | None]]":
    """The debts one by one; usage that was lost is one sum, for its debts may be split."""
    lost = [amount or Decimal(0) for kind, amount in debts if kind == "lost_usage"]
    others = [each for each in debts if each[0] != "lost_usage"]
    return Counter(others + ([("lost_usage", sum(lost, Decimal(0)))] if lost else []))


def _unpaid_overage(invoice: dict[str, Any]) -> Decimal:
    """What usage on this invoice was never paid and never will be, with its part of the tax."""
    if invoice["status"] not in ("void", "uncollectible"):
        return Decimal(0)
    if invoice["invoice_type"] == "plan_change":
        return Decimal(0)
    lines = invoice["lines"]
    asked = Decimal(sum(line["amount"] for line in lines))
    overage = Decimal(sum(li["amount"] for li in lines if li["line_type"] == "feature_overage"))
    net = max(min(overage, asked), Decimal(0))
    if not net:
        return net
    tax = Decimal(invoice["tax_amount"] * net / asked).quantize(Decimal(1), ROUND_HALF_UP)
    return (net + tax).scaleb(-2)


# The entry that was just booked, its total, and what decides whether overage is given.
_BOOKED = """
select t.total, t.carried, w.included, w.unit_price,
       p.is_free, p.is_trial, p.closed_at is not null as is_over,
       s.status, s.billing_interval, s.cancel_at_period_end, s.period_end,
       u.has_dispute, u.has_debt, u.spend_limit, u.own_spend_limit
from usage_event b
join users u on u.id = b.user_id
join usage_period p on p.id = b.period
join usage_total t on t.period = b.period and t.feature = b.feature
join usage_terms w on w.period = b.period and w.feature = b.feature
join current_subscription s on s.user_id = b.user_id
where b.user_id = %(user)s and b.idempotency_key = %(key)s
"""

# The debts on links that were paid at Commet.
_PAID_DEBTS = """
select d.id, d.kind, d.source
from debt d
join debt_link l on d.id = any (l.debts)
where d.user_id = %(user)s and l.payment_id = any (%(payments)s)
"""

# Usage that Commet refused because the subscription had ended, and what it counted before.
_LOST = """
select d.period, min(w.included) as included, min(w.unit_price) as unit_price,
       coalesce(sum(d.quantity) filter (where d.state = 'sent' and d.billed_period = d.period), 0)
           + min(w.carried) as counted,
       sum(d.quantity) filter (where d.reason = 'lost_to_cancellation') as lost
from usage_delivery d
join usage_terms w on w.period = d.period and w.feature = d.feature
where d.user_id = %(user)s and (d.debt is null or d.debt <> all (%(paid)s::bigint[]))
group by d.period, d.feature
having count(*) filter (where d.reason = 'lost_to_cancellation' and d.resolved_at is null) > 0
"""
