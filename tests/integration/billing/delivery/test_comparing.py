"""Comparing totals with Commet: what was left open is decided, what differs is seen."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.commet.answers import Consumption, FeatureAccess
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.comparing import (
    AccessReader,
    Compared,
    Doubt,
    compare,
    explain,
    repair,
)
from billing.delivery.outbox import redrive, resolve
from billing.delivery.sending import Summary, deliver
from billing.errors import CommetUnavailable
from billing.subscriptions.refresh import refresh
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.corrections import Correction, correct
from billing.usage.totals import FeatureUsage, usage_of_user
from standin.testing import StandIn, standin
from tests.integration.billing.conftest import RULES, Subscribe, add_user, start_checkout
from tests.integration.billing.delivery.test_outbox import Allowed, age, make_due, rows

_numbers = count()
AT_ONCE = timedelta(0)
END = datetime(2026, 10, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def commet_server() -> Iterator[StandIn]:
    """A stand-in of this module's own: its clock is moved."""
    with standin() as running:
        yield running


@dataclass
class Customer:
    """Somebody who pays for `storage` (100 included, $0.10 beyond), at Commet and here."""

    db: Database
    commet: Commet
    remote: StandIn
    id: str
    subscription: str

    @property
    def now(self) -> datetime:
        return self.remote.control.now()

    @property
    def consumption(self) -> Consumption:
        """What Commet says of storage."""
        answers = self.commet.feature_access(self.id, Deadline.after(20))
        (found,) = (a.consumption for a in answers if a.code == "storage")
        assert found is not None
        return found

    @property
    def theirs(self) -> Decimal:
        return self.consumption.units_used

    def use(self, quantity: str) -> None:
        event = UsageEvent(self.id, "storage", Decimal(quantity), f"key-{next(_numbers)}")
        (verdict,) = accept(self.db, [event], rules=RULES, now=self.now)
        assert verdict.status == "accepted"

    def take_back(self, quantity: str) -> None:
        """What a negative correction does to a total."""
        self.db.execute("update usage_total set total = total - %s", [Decimal(quantity)])

    def deliver(self, quiet: timedelta = AT_ONCE) -> Summary:
        return deliver(
            self.db, self.commet, self.remote.control.now, Deadline.after(60), AT_ONCE,
            budget=Allowed(), workers=2, quiet=quiet,
        )  # fmt: skip

    def compare(self, quiet: timedelta = AT_ONCE, reader: AccessReader | None = None) -> Compared:
        return compare(
            self.db, reader or self.commet, Allowed(), self.remote.control.now,
            Deadline.after(60), quiet=quiet, every=AT_ONCE,
        )  # fmt: skip

    def lose_an_answer(self, *, booked: bool) -> None:
        """The next call gets none, whether it had an effect or not; a day passes."""
        self.remote.control.fault(
            match={"method": "POST", "path": "/usage/events"},
            action={"reset": "after" if booked else "before"},
            times=1,
        )
        assert self.deliver().postponed == 1
        self.remote.control.clear_faults()
        age(self.db, timedelta(hours=24))
        assert self.deliver().parked == 1

    def turn(self) -> None:
        """The period ends, at Commet and, once something is used, here."""
        self.remote.control.advance(to=self.consumption.period.end + timedelta(hours=1))

    @property
    def states(self) -> list[tuple[object, ...]]:
        return [(r["state"], r["reason"], r["generation"]) for r in rows(self.db)]

    @property
    def drift(self) -> list[dict[str, object]]:
        return self.db.all("select * from usage_drift")


@pytest.fixture
def customer(db: Database, commet: Commet, remote: StandIn, subscribe: Subscribe) -> Customer:
    return sign_up(db, commet, remote, subscribe)


def sign_up(db: Database, commet: Commet, remote: StandIn, subscribe: Subscribe) -> Customer:
    user = f"usr_{next(_numbers)}"
    soon = Deadline.after(20)
    commet.create_customer(user_id=user, email=f"{user}@b.co", name=None, deadline=soon)
    subscription = commet.create_subscription(
        user_id=user, plan_code="usage_pro", billing_interval="monthly",
        success_url="https://app.example/", idempotency_key=user, deadline=soon,
    ).id  # fmt: skip
    remote.control.pay(subscription)
    made = Customer(db, commet, remote, user, subscription)
    period = made.consumption.period
    subscribe(user, starts_at=period.start, ends_at=period.end)
    return made


def doubt(quantity: str, state: str = "parked") -> Doubt:
    return Doubt(
        1,
        END,
        "f",
        1,
        "event",
        Decimal(quantity),
        state,
        None,
        None,
        "e",
        fresh=False,
        overdue=False,
    )


class TestExplain:
    def test_none_one_or_all(self) -> None:
        """The difference says which of the deliveries Commet has."""
        doubts = [doubt("1"), doubt("2"), doubt("4")]
        assert explain(Decimal(0), doubts) == frozenset()
        assert explain(Decimal(4), doubts) == frozenset({2})
        assert explain(Decimal(7), doubts) == frozenset({0, 1, 2})

    def test_nothing_fits(self) -> None:
        """No guess is made."""
        assert explain(Decimal(3), [doubt("1"), doubt("4")]) is None
        assert explain(Decimal(1), []) is None

    def test_several_fit(self) -> None:
        """Two of the same size, or one as large as two: which it was cannot be told."""
        assert explain(Decimal(1), [doubt("1"), doubt("1")]) is None
        assert explain(Decimal(3), [doubt("1"), doubt("2"), doubt("3")]) is None

    def test_around_the_end_of_a_period(self) -> None:
        """What was sent later is in the later period, so equal sizes are told apart."""
        doubts = [doubt("1", "sent"), doubt("1", "sent"), doubt("1", "sent")]
        assert explain(Decimal(2), doubts) == frozenset({1, 2})

    def test_around_the_end_of_a_period_out_of_order(self) -> None:
        """Unless only another order explains it."""
        assert explain(Decimal(1), [doubt("1", "sent"), doubt("2", "sent")]) == frozenset({0})

    @given(st.lists(st.integers(1, 50).map(str), max_size=20), st.data())
    def test_never_wrong(self, quantities: list[str], data: st.DataObject) -> None:
        """Whatever is answered adds up."""
        doubts = [doubt(q, data.draw(st.sampled_from(["sent", "parked"]))) for q in quantities]
        difference = data.draw(st.integers(0, 200).map(Decimal))
        answer = explain(difference, doubts)
        assert answer is None or sum(doubts[i].quantity for i in answer) == difference


class TestUnconfirmed:
    def test_commet_has_it(self, customer: Customer) -> None:
        """Its total says so: sent, without another call."""
        customer.use("1.5")
        customer.lose_an_answer(booked=True)
        assert customer.states == [("parked", "unconfirmed", 1)]
        assert customer.compare().decided == 1
        assert customer.states == [("sent", None, 1)]
        assert customer.deliver() == Summary(drained=True)
        assert customer.theirs == Decimal("1.5")
        assert customer.drift == []

    def test_turned_away_afterwards(self, customer: Customer) -> None:
        """Booked, and then too much was asked of Commet: the doubt is as old as the first."""
        customer.use("5")
        report = {"method": "POST", "path": "/usage/events"}
        customer.remote.control.fault(match=report, action={"reset": "after"}, times=1)
        customer.remote.control.fault(
            match=report, action={"status": 429, "retry_after": 60}, times=1
        )
        assert customer.deliver().postponed == 1
        (first,) = rows(customer.db)
        make_due(customer.db)
        assert customer.deliver().postponed == 1
        (second,) = rows(customer.db)
        assert customer.theirs == 5
        assert second["attempts"] == 2
        assert second["uncertain_since"] == first["uncertain_since"] is not None

    def test_commet_has_it_not(self, customer: Customer) -> None:
        """Sent again, under another key, and then it is there once."""
        customer.use("1.5")
        customer.lose_an_answer(booked=False)
        assert customer.compare().decided == 1
        assert customer.states == [("pending", None, 2)]
        assert customer.deliver().sent == 1
        assert customer.theirs == Decimal("1.5")

    def test_commet_has_something_else(self, customer: Customer) -> None:
        """Neither with nor without: compared again for an hour, then a human's, and a drift."""
        customer.use("1.5")
        customer.lose_an_answer(booked=False)
        customer.commet.track_usage(
            json.dumps({"featureCode": "storage", "customerId": customer.id, "value": 7}),
            idempotency_key="by-hand", deadline=Deadline.after(20),
        )  # fmt: skip
        assert customer.compare().differing == 1
        assert customer.states == [("parked", "unconfirmed", 1)]
        assert [r["compare_at"] is None for r in rows(customer.db)] == [False]
        age(customer.db, timedelta(hours=2))
        customer.db.execute("update usage_delivery set compare_at = now()")
        customer.compare()
        assert [r["compare_at"] is None for r in rows(customer.db)] == [True]
        assert [(d["ours"], d["theirs"]) for d in customer.drift] == [(0, 7)]

    def test_while_more_is_on_its_way(self, customer: Customer) -> None:
        """Nothing is concluded from a total that moves."""
        customer.use("1")
        customer.lose_an_answer(booked=True)
        customer.use("2")
        customer.deliver()
        assert customer.compare(quiet=timedelta(minutes=5)).decided == 0
        assert customer.states == [("parked", "unconfirmed", 1), ("sent", None, 1)]
        customer.db.execute("update usage_delivery set compare_at = now() where state = 'parked'")
        assert customer.compare().decided == 1
        assert customer.states == [("sent", None, 1), ("sent", None, 1)]

    def test_commet_is_silent(self, customer: Customer) -> None:
        """Asked again later; nothing is decided and nothing lost."""
        customer.use("1")
        customer.lose_an_answer(booked=True)
        customer.remote.control.fault(
            match={"path": "/feature-access"}, action={"status": 503}, times=None
        )
        assert customer.compare() == Compared(failed=1)
        customer.remote.control.clear_faults()
        customer.db.execute("update usage_delivery set compare_at = now()")
        assert customer.compare().decided == 1

    def test_in_a_period_that_is_over(self, customer: Customer) -> None:
        """Not in the new total: in the old one or nowhere, which only a human can find out."""
        customer.use("5")
        customer.lose_an_answer(booked=True)
        customer.turn()
        customer.use("1")
        customer.deliver()
        customer.compare()
        first, second = rows(customer.db)
        assert (first["state"], first["reason"]) == ("parked", "unconfirmed")
        assert first["compare_at"] is None
        assert second["state"] == "sent"
        assert redrive(customer.db) == 0
        assert resolve(
            customer.db, user_id=customer.id, event_id=str(first["event_id"]),
            note="Found on the invoice", delivered=True,
        )  # fmt: skip
        assert customer.states == [("sent", "unconfirmed", 1), ("sent", None, 1)]


class TestWhereItWasBooked:
    def deliver_late(self, customer: Customer) -> None:
        """5 are sent in time, 2 after the period is over, and 1 belongs to the next."""
        customer.use("5")
        customer.deliver()
        customer.use("2")
        customer.turn()
        customer.use("1")
        customer.deliver()

    def test_in_the_next_period(self, customer: Customer) -> None:
        """Commet counts what comes now in the period of now; that is found out and kept."""
        late = customer
        self.deliver_late(late)
        assert late.theirs == 3
        assert [r["billed_period"] is None for r in rows(late.db)] == [False, True, False]
        assert late.compare().decided == 1
        old, new = sorted({int(str(r["period"])) for r in rows(late.db)})
        assert [r["billed_period"] for r in rows(late.db)] == [old, new, new]
        assert late.compare() == Compared(users=1)
        assert late.drift == []

    def test_in_its_own_period(self, db: Database, subscribe: Subscribe) -> None:
        """Or by its timestamp, in the period that is over."""
        with standin(usage_period="timestamp") as remote:
            ours = Commet(remote.base_url, lambda *, fresh=False: remote.api_key, live=False)  # noqa: ARG005
            late = sign_up(db, ours, remote, subscribe)
            self.deliver_late(late)
            assert late.theirs == 1
            assert late.compare().decided == 1
            first, second, _ = rows(db)
            assert second["billed_period"] == first["period"]
            assert late.drift == []
            ours._http.close()

    def test_two_periods_ago(self, customer: Customer) -> None:
        """Sent in a period that was over before anybody compared: nothing tells any more."""
        customer.use("5")
        customer.turn()
        customer.deliver()
        customer.turn()
        customer.use("1")
        customer.deliver()
        assert customer.compare().decided == 1
        late, current = rows(customer.db)
        assert (late["state"], late["billed_period"], late["compare_at"]) == ("sent", None, None)
        assert current["billed_period"] == current["period"]
        assert customer.drift == []

    def test_confirmed_two_periods_later(self, customer: Customer) -> None:
        """Booked by an attempt nobody answered, in the period between: not taken for its own."""
        customer.use("5")
        customer.turn()
        customer.remote.control.fault(
            match={"path": "/usage/events"}, action={"reset": "after"}, times=1
        )
        assert customer.deliver().postponed == 1
        customer.turn()
        make_due(customer.db)
        assert customer.deliver().sent == 1
        customer.use("1")
        customer.deliver()
        assert customer.compare().decided == 1
        late, _ = rows(customer.db)
        assert late["billed_period"] is None


class TestChangesHeardOfLate:
    """A plan changed at Commet, and for an hour nobody here knew."""

    @pytest.fixture
    def buyer(self, db: Database, commet: Commet, remote: StandIn) -> Customer:
        user = add_user(db, f"usr_{next(_numbers)}")
        subscription = start_checkout(db, commet, user)
        remote.control.pay(subscription)
        bought = Customer(db, commet, remote, user, subscription)
        self.learn(bought)
        return bought

    def learn(self, customer: Customer) -> None:
        soon = Deadline.after(20)
        refresh(customer.db, customer.commet, customer.id, now=customer.now, deadline=soon)

    def change(self, customer: Customer, plan: str) -> None:
        httpx.post(
            f"{customer.remote.base_url}/subscriptions/{customer.subscription}/change-plan",
            json={"newPlanId": plan},
            headers={"x-api-key": customer.remote.api_key},
            trust_env=False,
        ).raise_for_status()

    def storage(self, customer: Customer) -> FeatureUsage:
        usage = usage_of_user(customer.db, user_id=customer.id, currency="usd", now=customer.now)
        (storage,) = (u for u in usage if u.feature == "storage")
        return storage

    def hear_late(self, customer: Customer) -> None:
        """160 are used and delivered, an hour later the news comes, and then 7 are used."""
        customer.use("160")
        customer.deliver()
        customer.remote.control.advance(seconds=3600)
        self.learn(customer)
        customer.use("7")
        customer.deliver()

    def holds(self, customer: Customer) -> None:
        """We show what Commet bills, and nothing of it was told or taken away twice."""
        customer.compare()
        storage = self.storage(customer)
        assert (storage.used, storage.carried) == (Decimal(167), Decimal(160))
        assert sum(day.quantity for day in storage.daily) == 7
        assert customer.theirs == 167
        assert (customer.drift, customer.compare().differing) == ([], 0)
        assert repair(customer.db) == 0

    def test_an_upgrade(self, buyer: Customer) -> None:
        """What was sent since it is billed with it; what was sent before on the same day is not."""
        buyer.use("5")
        buyer.deliver()
        self.change(buyer, "pln_usagemax")
        self.hear_late(buyer)
        self.holds(buyer)
        before, moved, since = rows(buyer.db)
        assert before["billed_period"] == before["period"]
        assert moved["billed_period"] == since["period"] != moved["period"]

    @pytest.mark.parametrize("changed", [True, False])
    def test_until_the_month_after_the_next(self, buyer: Customer, *, changed: bool) -> None:
        """Where Commet booked usage is unknown if it began a period that we never hear of.

        Usage that was answered before Commet last told which period runs is not in doubt. None is
        if months began as the calendar says.
        """
        buyer.use("5")
        buyer.deliver()
        buyer.remote.control.advance(days=10)
        self.learn(buyer)
        if changed:
            self.change(buyer, "pln_usagemax")
        buyer.use("160")
        buyer.deliver()
        buyer.remote.control.advance(days=60)
        self.learn(buyer)
        buyer.compare()
        before, since = rows(buyer.db)
        assert before["billed_period"] == before["period"]
        assert since["billed_period"] == (None if changed else since["period"])

    @pytest.mark.parametrize("changes", [[], ["pln_usagemax"], ["pln_usagemax", "pln_usagepro"]])
    def test_while_we_guess_a_month(self, buyer: Customer, changes: list[str]) -> None:
        """Months began on another day than we guessed, and we never hear of one of them.

        After the second change, which takes effect a month later, the plan is the same again.
        """
        buyer.remote.control.advance(days=10)
        self.learn(buyer)
        for plan in changes:
            self.change(buyer, plan)
        buyer.remote.control.advance(days=25)
        buyer.use("90")
        buyer.deliver()
        (sent,) = rows(buyer.db)
        assert sent["billed_period"] == sent["period"]
        buyer.remote.control.advance(days=15)
        self.learn(buyer)
        (sent,) = rows(buyer.db)
        assert (sent["billed_period"], sent["compare_at"] is None) == (
            (None, False) if changes else (sent["period"], True)
        )
        for _ in range(3):  # the later ones see what the first has decided
            buyer.compare()
        assert (buyer.drift, repair(buyer.db), buyer.deliver().sent) == ([], 0, 0)

    def test_an_answer_in_the_moment_of_the_news(self, buyer: Customer) -> None:
        """Taken for placed, because neither saw the other: doubted when totals are compared."""
        self.change(buyer, "pln_usagemax")
        self.hear_late(buyer)
        buyer.db.execute(
            "update usage_delivery set billed_period = period, compare_at = null, doubted_at = null"
        )
        self.holds(buyer)
        # Placed by code that knows nothing of it, in the middle of an upgrade.
        buyer.db.execute("update usage_total set carried = 0")
        self.holds(buyer)

    def test_clocks_that_differ(self, buyer: Customer) -> None:
        """By ours, Commet's new period begins after we heard of it."""
        buyer.use("5")
        buyer.deliver()
        period = buyer.db.value("select id from usage_period")
        buyer.db.execute(
            "select record_period(%s, %s, 'pln_usagemax', false, %s, %s, %s)",
            [
                buyer.id, buyer.subscription, buyer.now + timedelta(seconds=2),
                buyer.now + timedelta(days=30), buyer.now,
            ],
        )  # fmt: skip
        (sent,) = rows(buyer.db)
        assert (sent["period"], sent["billed_period"]) == (period, None)
        assert sent["compare_at"] is not None

    def test_what_a_correction_of_it_is_worth(self, buyer: Customer) -> None:
        """As much as in the period that billed it: there 1,000 are included."""
        buyer.use("100")
        buyer.deliver()
        self.change(buyer, "pln_usagemax")
        event = UsageEvent(buyer.id, "storage", Decimal(60), "wrong")
        accept(buyer.db, [event], rules=RULES, now=buyer.now)
        buyer.deliver()
        buyer.remote.control.advance(seconds=3600)
        self.learn(buyer)
        buyer.compare()
        corrected = correct(
            buyer.db,
            Correction(buyer.id, "storage", Decimal(-50), "put right", "a", corrects="wrong"),
            author="a", rules=RULES, now=buyer.now,
        )  # fmt: skip
        assert corrected.booking is not None
        assert corrected.booking.needs_credit is not None
        credit = corrected.booking.needs_credit
        assert (credit.quantity, credit.amount) == (Decimal(50), Decimal(0))
        buyer.deliver()
        (parked,) = (row for row in rows(buyer.db) if row["kind"] == "credit")
        assert (parked["excess"], parked["amount"]) == (50, 0)

    def test_a_downgrade_at_the_end_of_the_period(self, buyer: Customer) -> None:
        """The next period was opened here by the clock, with the plan as it was."""
        self.change(buyer, "pln_usagemax")
        self.learn(buyer)
        self.change(buyer, "pln_usagepro")
        self.learn(buyer)
        buyer.turn()
        self.hear_late(buyer)
        self.holds(buyer)

    def test_what_cannot_be_placed_is_not_erased(self, buyer: Customer) -> None:
        """Somebody else told Commet too: no number of ours is known to be right."""
        self.change(buyer, "pln_usagemax")
        self.hear_late(buyer)
        buyer.commet.track_usage(
            json.dumps({"featureCode": "storage", "customerId": buyer.id, "value": 3}),
            idempotency_key="else", deadline=Deadline.after(20),
        )  # fmt: skip
        assert buyer.compare().differing == 1
        repair(buyer.db)
        assert buyer.compare().repairs_begun == 0  # it may still be told
        buyer.db.execute(
            "update usage_delivery set doubted_at = now() - interval '1 hour', compare_at = now()"
            " where compare_at is not null"
        )
        buyer.compare()
        assert [row["compare_at"] for row in rows(buyer.db)] == [None, None]
        assert buyer.compare().repairs_begun == 0
        assert [(row["repair"], row["reason"]) for row in buyer.drift] == [("refused", "in_doubt")]
        buyer.db.execute(
            "update usage_total set claims_paused_until = null"
        )  # the attempt before is over
        buyer.use("1")
        buyer.deliver()
        assert buyer.theirs == 171

    def test_a_limit_counts_what_was_carried(self, buyer: Customer) -> None:
        """Included once, not once before the news and once after it."""
        self.change(buyer, "pln_usagemax")
        self.hear_late(buyer)
        buyer.compare()
        buyer.db.execute("update entitlements set overage_enabled = false, included = 168")
        with pytest.raises(AssertionError):
            buyer.use("2")
        buyer.use("1")
        allowed = check(
            buyer.db, user_id=buyer.id, feature="storage", quantity=Decimal(1), rules=RULES,
            now=buyer.now,
        )  # fmt: skip
        assert (allowed.code, allowed.remaining) == ("limit_reached", Decimal(0))


class TestDrift:
    def elsewhere(self, customer: Customer, value: float) -> None:
        """Somebody reports usage at Commet that never came through here."""
        customer.commet.track_usage(
            json.dumps({"featureCode": "storage", "customerId": customer.id, "value": value}),
            idempotency_key=f"else-{next(_numbers)}", deadline=Deadline.after(20),
        )  # fmt: skip

    def test_agreeing(self, customer: Customer) -> None:
        """Fractions too, although Commet adds doubles."""
        for quantity in ("0.1", "0.2", "0.000001"):
            customer.use(quantity)
            customer.deliver()
        assert customer.compare() == Compared(users=1)
        assert customer.drift == []

    def test_differing_until_it_agrees_again(self, customer: Customer) -> None:
        """Noted with both numbers, and gone by itself when they are equal again."""
        customer.use("10")
        customer.deliver()
        self.elsewhere(customer, 2.5)
        assert customer.compare() == Compared(users=1, differing=1)
        assert [(d["ours"], d["theirs"]) for d in customer.drift] == [(10, Decimal("12.5"))]
        customer.db.execute("update usage_delivery set quantity = 12.5")
        customer.compare()
        assert customer.drift == []

    def test_what_is_in_flight_is_no_drift(self, customer: Customer) -> None:
        """An answer that got lost may have arrived or not; both are fine, a third number is not."""
        customer.use("10")
        customer.deliver()
        customer.use("3")
        customer.remote.control.fault(
            match={"path": "/usage/events"}, action={"reset": "after"}, times=1
        )
        customer.deliver()
        assert customer.theirs == 13
        assert customer.compare().differing == 0
        self.elsewhere(customer, 1)
        assert customer.compare().differing == 1

    def test_what_commet_shows_late_is_no_drift(self, customer: Customer) -> None:
        """Its pipeline is asynchronous: right after sending, both numbers are fine."""
        customer.remote.control.fault(
            match={"customer": customer.id}, usage={"late_seconds": 3600}, times=None
        )
        customer.use("10")
        customer.deliver()
        assert customer.theirs == 0
        assert customer.compare(quiet=timedelta(minutes=1)).differing == 0
        assert customer.compare().differing == 1

    def test_repaired_when_told_to(self, customer: Customer) -> None:
        """Whole units by replacing the total, the fraction as usage; then all agrees."""
        customer.use("10.25")
        customer.deliver()
        self.elsewhere(customer, 4)
        customer.compare()
        assert repair(customer.db) == 1
        assert customer.compare().repairs_begun == 1
        assert customer.deliver().sent == 1
        assert customer.theirs == 10
        assert customer.deliver().sent == 1
        assert customer.theirs == Decimal("10.25")
        assert customer.compare() == Compared(users=1)
        assert customer.drift == []
        self.balanced(customer)

    def test_repairs_wait_for_what_is_in_flight(self, customer: Customer) -> None:
        """Replacing a total while usage is on its way would swallow it."""
        customer.use("10")
        customer.deliver()
        self.elsewhere(customer, 4)
        customer.compare()
        customer.use("1")
        customer.remote.control.fault(
            match={"path": "/usage/events"}, action={"reset": "before"}, times=1
        )
        customer.deliver()
        repair(customer.db)
        assert customer.compare().repairs_begun == 0
        customer.use("2")
        make_due(customer.db)
        assert customer.deliver() == Summary(sent=1, drained=True)  # and the 2 are held back
        assert customer.compare().repairs_begun == 1
        customer.deliver()
        assert customer.theirs == 13
        self.balanced(customer)

    def test_a_lost_answer_to_a_repair(self, customer: Customer) -> None:
        """Sent again under its key, and nothing else of the feature goes out in between."""
        customer.use("10")
        customer.deliver()
        self.elsewhere(customer, 4)
        customer.compare()
        repair(customer.db)
        customer.compare()
        customer.remote.control.fault(match={"method": "PUT"}, action={"reset": "after"}, times=1)
        customer.use("5")
        assert customer.deliver().postponed == 1
        assert customer.theirs == 10
        make_due(customer.db)
        assert customer.deliver() == Summary(sent=1, drained=True)
        assert customer.deliver().sent == 1
        assert customer.theirs == 15
        self.balanced(customer)

    @pytest.mark.parametrize("booked", [True, False])
    def test_a_repair_unconfirmed_for_a_day(self, customer: Customer, *, booked: bool) -> None:
        """The total says whether it was done; where it was not, it never was."""
        customer.use("10")
        customer.deliver()
        customer.use("5.5")
        customer.deliver()
        customer.take_back("3")
        self.elsewhere(customer, 4)
        customer.compare()
        repair(customer.db)
        customer.compare()
        customer.remote.control.fault(
            match={"method": "PUT"}, action={"reset": "after" if booked else "before"}, times=1
        )
        assert customer.deliver().postponed == 1
        age(customer.db, timedelta(hours=25))
        assert customer.deliver().parked == 1
        customer.compare()
        kinds = [(r["kind"], r["state"]) for r in rows(customer.db)]
        assert kinds[2:] == ([("replacement", "sent")] if booked else [])
        self.balanced(customer)

    def test_commet_refuses_a_repair(self, customer: Customer) -> None:
        """As if it had never been; the difference stays, with the reason."""
        customer.use("10")
        customer.deliver()
        self.elsewhere(customer, 4)
        customer.compare()
        repair(customer.db)
        customer.compare()
        customer.remote.control.fault(
            match={"method": "PUT"}, action={"code": "feature_disabled"}, times=1
        )
        assert customer.deliver().parked == 1
        assert [(d["repair"], d["reason"]) for d in customer.drift] == [
            ("refused", "feature_disabled")
        ]
        customer.use("1")
        assert customer.deliver().sent == 1
        self.balanced(customer)

    def test_a_period_that_is_over(self, customer: Customer) -> None:
        """What still differs then is a credit with its money value, for a human."""
        customer.use("110")
        customer.deliver()
        self.elsewhere(customer, 20)
        customer.compare()
        customer.turn()
        customer.use("1")
        customer.deliver()
        customer.deliver()
        assert repair(customer.db) == 0
        customer.compare()
        assert customer.drift == []
        (credit,) = (r for r in rows(customer.db) if r["kind"] == "credit")
        assert (credit["reason"], credit["quantity"], credit["excess"]) == ("needs_credit", 0, 20)
        assert (credit["amount"], credit["currency"]) == (2, "usd")
        self.balanced(customer)

    def test_a_round_goes_on_where_it_stopped(
        self, db: Database, commet: Commet, remote: StandIn, subscribe: Subscribe
    ) -> None:
        """With too little budget for everybody, the next run takes the others; then it is over."""
        people = [sign_up(db, commet, remote, subscribe) for _ in range(10)]
        for each in people:
            each.use("1")
        people[0].deliver()
        seen = []
        for _ in range(3):
            done = compare(
                db, commet, Allowed(8), remote.control.now, Deadline.after(60),
                quiet=AT_ONCE, every=timedelta(hours=1),
            )  # fmt: skip
            seen.append(done.users)
        assert seen == [8, 2, 0]

    def balanced(self, customer: Customer) -> None:
        """Claimed is what deliveries add up to, whatever was replaced."""
        wrong = customer.db.all(
            "select * from usage_total t where claimed <> (select coalesce(sum(quantity), 0)"
            " from usage_delivery d where d.period = t.period and d.feature = t.feature)"
        )
        assert wrong == []


@dataclass
class FifteenDigits:
    """Commet with totals that have the digits which every JSON number keeps, and no more."""

    commet: Commet

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
        return [self._rounded(each) for each in self.commet.feature_access(user_id, deadline)]

    def _rounded(self, access: FeatureAccess) -> FeatureAccess:
        if access.consumption is None:
            return access
        used = Decimal(f"{access.consumption.units_used:.15g}")
        consumption = access.consumption.model_copy(update={"units_used": used})
        return access.model_copy(update={"consumption": consumption})


class TestLargeTotals:
    """Above 999,999,999 Commet's JSON numbers tell 15 significant digits of a total."""

    @pytest.mark.parametrize(
        "quantities",
        [
            ["5000000000", "0.123456", "0.000001"],
            ["5000000000.12345", "0.000005", "999999999.999999"],
            ["123456789012345", "0.654321", "0.1"],
            ["999999999999998", "0.999999"],
        ],
    )
    def test_agreeing(self, customer: Customer, quantities: list[str]) -> None:
        """Whatever is left out of the number. All of it was delivered."""
        for quantity in quantities:
            customer.use(quantity)
            customer.deliver()
            assert customer.compare(reader=FifteenDigits(customer.commet)) == Compared(users=1)
        sent = customer.db.value("select sum(quantity) from usage_delivery where state = 'sent'")
        assert sent == sum(map(Decimal, quantities))
        assert customer.drift == []

    @pytest.mark.parametrize(
        ("quantity", "more"), [("5000000000", "0.000009"), ("123456789012345", "0.9")]
    )
    def test_a_wandering_digit(self, customer: Customer, quantity: str, more: str) -> None:
        """Commet adds doubles, so digits after the fifteenth may be any."""
        customer.use(quantity)
        customer.deliver()
        customer.db.execute("update usage_delivery set quantity = quantity + %s", [Decimal(more)])
        assert customer.compare(reader=FifteenDigits(customer.commet)) == Compared(users=1)

    @pytest.mark.parametrize(
        ("quantity", "more"),
        [("999999999", "0.000001"), ("5000000000", "0.00001"), ("123456789012345", "1")],
    )
    def test_differing(self, customer: Customer, quantity: str, more: str) -> None:
        """By one unit of the fifteenth digit."""
        customer.use(quantity)
        customer.deliver()
        customer.db.execute("update usage_delivery set quantity = quantity + %s", [Decimal(more)])
        assert customer.compare(reader=FifteenDigits(customer.commet)) == Compared(
            users=1, differing=1
        )

    @pytest.mark.parametrize("booked", [True, False])
    def test_in_doubt(self, customer: Customer, *, booked: bool) -> None:
        """Decided by the digits that Commet's number has."""
        customer.use("123456789012345")
        customer.use("0.654321")
        customer.deliver()
        customer.deliver()
        customer.use("17.5")
        customer.lose_an_answer(booked=booked)
        assert customer.compare(reader=FifteenDigits(customer.commet)) == Compared(
            users=1, decided=1
        )
        assert rows(customer.db)[-1]["state"] == ("sent" if booked else "pending")


class TestCorrections:
    def test_once_it_is_quiet(self, customer: Customer) -> None:
        """What was taken back and not used again is set right while the period is open."""
        customer.use("20.5")
        customer.deliver()
        customer.take_back("5")
        assert customer.deliver(timedelta(minutes=1)) == Summary(drained=True)
        customer.remote.control.advance(seconds=61)
        assert customer.deliver().sent == 1
        assert customer.theirs == 15
        assert customer.deliver().sent == 1
        assert customer.theirs == Decimal("15.5")
        assert customer.compare() == Compared(users=1)

    def test_used_again(self, customer: Customer) -> None:
        """Deliveries go on when the total passes what was sent; nothing else is needed."""
        customer.use("20")
        customer.deliver()
        customer.take_back("5")
        customer.use("7")
        customer.deliver()
        assert customer.theirs == 22

    def test_after_the_period(self, customer: Customer) -> None:
        """Commet takes no correction of it: a credit, with what was billed too much."""
        customer.use("130")
        customer.deliver()
        customer.turn()
        customer.take_back("35")
        customer.use("1")
        customer.deliver()
        customer.deliver()
        (credit,) = (r for r in rows(customer.db) if r["kind"] == "credit")
        assert (credit["state"], credit["reason"]) == ("parked", "needs_credit")
        assert (credit["excess"], credit["amount"]) == (35, 3)
        assert customer.db.value("select fully_claimed from usage_total order by period limit 1")
        assert redrive(customer.db) == 0


class TestUnreachable:
    def test_asked_for_a_pause(self, customer: Customer) -> None:
        """The whole stack waits."""

        class Busy:
            def feature_access(self, *_: object) -> list[object]:
                raise CommetUnavailable(retry_after=30, commet_code="rate_limited")

        customer.use("1")
        budget = Allowed()
        compare(
            customer.db, Busy(), budget, lambda: customer.now, Deadline.after(60),  # type: ignore[arg-type]
            quiet=AT_ONCE, every=AT_ONCE,
        )  # fmt: skip
        assert budget.pauses == [30]
