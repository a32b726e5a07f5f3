"""Which period late usage belongs to, and what it costs: from the front door to the invoice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from billing import wiring
from billing.delivery import outbox
from billing.subscriptions import from_answer, mirror
from billing.usage.accepting import UsageEvent, accept
from standin.testing import StandIn, standin
from tests.integration.billing.conftest import RULES, own_database
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import environment  # noqa: F401 - a fixture
from tests.integration.functions.test_debts import (  # noqa: F401 - fixtures
    KEY,
    Person,
    _shop,
    box,
)
from tests.standin.contract.catalogues import with_price

pytestmark = pytest.mark.handlers

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def remote(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """A stand-in of the test's own, at noon. Its `usage_max` has a trial: of two weeks, if the test
    names no other days."""
    catalogue = with_price(tmp_path, "usage_max", trialDays=getattr(request, "param", 14))
    with standin(catalogue=catalogue) as running:
        noon = running.control.now().replace(hour=12, minute=0, second=0, microsecond=0)
        running.control.advance(to=noon + timedelta(days=1))
        yield running


class Customer(Person):
    """Somebody on one plan, with what the dashboard, the export and Commet's invoices say."""

    plan = "usage_pro"

    def checkout(self, plan: str | None = None) -> Answer:
        return super().checkout(plan or self.plan)

    def report(self, quantity: object, key: str, at: datetime | None = None) -> str:
        """The status of an event, or the code it is refused with."""
        body = {
            "user_id": self.id, "feature": "storage", "quantity": str(quantity),
            "idempotency_key": key,
        }  # fmt: skip
        answer = call(
            "POST", "/usage", body | ({"occurred_at": at.isoformat()} if at else {}), token=KEY
        )
        return str(answer.json["results"][0]["status"] if answer.status < 300 else answer.code)

    def correct(self, quantity: int, corrects: str) -> Answer:
        body = {
            "user_id": self.id, "feature": "storage", "quantity": str(quantity),
            "idempotency_key": "fix", "corrects": corrects, "reason": "a loop",
        }  # fmt: skip
        return call("POST", "/usage/corrections", body, token=KEY)

    def compare(self) -> None:
        """Reconcile asks for Commet's totals, minutes after the last delivery."""
        wiring.database().execute(
            "update usage_delivery set sent_at = sent_at - interval '3 min',"
            " compare_at = compare_at - interval '3 min'"
        )
        self.run()

    def used(self) -> str:
        (storage,) = call("GET", f"/users/{self.id}/dashboard", token=KEY).json["usage"]
        return str(storage["used"])

    def entries(self) -> dict[str, Any]:
        found = call("GET", f"/usage/events?user_id={self.id}", token=KEY).json["events"]
        return {entry["idempotency_key"]: entry for entry in found}

    def commet(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            method, f"{self._remote.base_url}{path}", headers={"x-api-key": self._remote.api_key},
            json=body,
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json()

    def overage_billed(self) -> int:
        """What all of Commet's invoices say about overage, in cents."""
        state = self._remote.control.state()
        return sum(
            line["amount"]
            for invoice in state["invoices"]
            for line in invoice["lines"]
            if line["line_type"] == "feature_overage"
        )

    def renew(self) -> None:
        """A month later."""
        self._remote.control.advance(days=32)
        self.hear()
        self.run()

    def parked(self) -> list[tuple[str, str, Decimal | None, bool]]:
        rows = wiring.database().all(
            "select reason, quantity, amount, debt is not null as owed from usage_delivery"
            " where state = 'parked' order by seq"
        )
        return [(r["reason"], str(r["quantity"].normalize()), r["amount"], r["owed"]) for r in rows]


class OnTrial(Customer):
    plan = "usage_max"


class OnFree(Customer):
    """Whose plan is not paid for: it begins with the checkout."""

    plan = "free"

    def pay(self) -> None:
        """Nothing."""

    def upgrade(self) -> None:
        """Pays for `usage_pro`; five seconds pass."""
        self.pay_for_pro()
        self.hear()
        self._remote.control.advance(seconds=5)

    def pay_for_pro(self) -> None:
        """Pays for `usage_pro`, and no webhook has come yet."""
        path = f"/subscriptions/{self.subscription}/change-plan"
        asked = self.commet("POST", path, {"newPlanId": "pln_usagepro"})
        card = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
        origin = {"Origin": self._remote.public_url}
        assert httpx.post(asked["checkoutUrl"], data=card, headers=origin).status_code < 400


@pytest.fixture
def customer(remote: StandIn, box: Any) -> Customer:  # noqa: F811
    return Customer(remote, box)


class TestALoweredTotal:
    """150 GB were sent and 50 of them taken back, long before the period ends."""

    @pytest.fixture
    def lowered(self, customer: Customer) -> Customer:
        customer.report(150, "wrong")
        customer.deliver()
        answer = customer.correct(-50, "wrong")
        assert (answer.status, answer.json["needs_credit"]) == (202, None)
        return customer

    def quiet(self, customer: Customer, remote: StandIn) -> None:
        """Nothing was booked or sent for a minute."""
        wiring.database().execute("update usage_delivery set sent_at = sent_at - interval '2 min'")
        remote.control.advance(seconds=61)
        customer.deliver()

    def leave(self, customer: Customer, way: str) -> None:
        if way == "cancel":
            customer.cancel()
        else:
            path = f"/subscriptions/{customer.subscription}/change-plan"
            customer.commet("POST", path, {"newPlanId": "pln_usagemax"})
        customer.hear()
        customer.run()

    @pytest.mark.parametrize("way", ["cancel", "upgrade"])
    def test_an_early_end_bills_what_was_used(
        self, lowered: Customer, remote: StandIn, way: str
    ) -> None:
        """Once the total was quiet, Commet's total is ours, and nothing has to be given back."""
        self.quiet(lowered, remote)
        self.leave(lowered, way)
        lowered.deliver()
        assert lowered.overage_billed() == 0
        assert lowered.entries()["fix"]["needs_credit"] is False
        assert lowered.parked() == []

    @pytest.mark.parametrize("way", ["cancel", "upgrade"])
    def test_before_it_was_quiet(self, lowered: Customer, way: str) -> None:
        """Commet bills 50 beyond; the export and the repeated correction say what to give back."""
        self.leave(lowered, way)
        assert lowered.overage_billed() == 500
        lowered.deliver()
        lowered.compare()
        assert lowered.parked() == [("needs_credit", "-5E+1", Decimal(5), False)]
        assert lowered.entries()["fix"]["needs_credit"] is True
        again = lowered.correct(-50, "wrong").json
        assert (again["status"], again["needs_credit"]["quantity"]) == ("duplicate", "50")
        assert again["needs_credit"]["amount"] == "5.00"

    @pytest.mark.parametrize("days", [0, 10])
    def test_after_an_upgrade_that_nobody_heard_of(
        self, lowered: Customer, remote: StandIn, days: int
    ) -> None:
        """The new allowance is not told the total of the old one, also if both began on one day.

        Else Commet would bill the 100 GB a second time.
        """
        remote.control.advance(seconds=days * 86400 + 1)
        path = f"/subscriptions/{lowered.subscription}/change-plan"
        lowered.commet("POST", path, {"newPlanId": "pln_usagemax"})
        self.quiet(lowered, remote)
        assert remote.control.requests(method="PUT", path="/usage") == []
        lowered.run()  # Commet is asked at once which plan it is
        lowered.deliver()
        lowered.compare()
        used = wiring.commet().feature_access(lowered.id, _soon())[0].consumption
        assert used is not None
        assert used.units_used == 0
        assert lowered.overage_billed() == 500
        assert lowered.parked() == [("needs_credit", "-5E+1", Decimal(5), False)]

    def test_while_usage_goes_on(self, lowered: Customer, remote: StandIn) -> None:
        """Usage that passes what was sent is delivered; no replacement is made."""
        lowered.report(60, "more")
        remote.control.advance(seconds=61)
        lowered.deliver()
        assert remote.control.requests(method="PUT", path="/usage") == []
        sent = wiring.commet().feature_access(lowered.id, _soon())[0].consumption
        assert sent is not None
        assert sent.units_used == 160

    def test_that_is_refused(self, lowered: Customer, remote: StandIn) -> None:
        """Commet is not asked again each minute."""
        remote.control.fault(
            match={"method": "PUT", "path": "/usage"}, action={"status": 400}, times=None
        )
        for _ in range(3):
            self.quiet(lowered, remote)
        assert len(remote.control.requests(method="PUT", path="/usage")) == 1


class TestTheWorthOfACredit:
    def test_once_the_placement_is_known(self, customer: Customer, remote: StandIn) -> None:
        """Sent around the end of a period, usage may be billed in either: comparing tells."""
        remote.control.advance(to=_next_end() - 30 * SECOND)
        customer.report(150, "wrong")
        customer.deliver()
        remote.control.advance(seconds=120)
        customer.hear()
        customer.run()
        told = customer.correct(-50, "wrong").json["needs_credit"]
        assert (told["quantity"], told["amount"]) == ("50", None)
        customer.deliver()
        assert customer.parked() == [("needs_credit", "-5E+1", None, False)]
        customer.compare()
        assert customer.correct(-50, "wrong").json["needs_credit"]["amount"] == "5.00"
        assert customer.parked() == [("needs_credit", "-5E+1", Decimal(5), False)]

    def test_of_usage_that_commet_refused_after_all(self, customer: Customer) -> None:
        """Nothing of it was billed, so nothing has to be given back, and nothing is owed for it."""
        customer.report(100, "right")
        customer.deliver()
        customer.report(50, "wrong")
        wiring.database().execute(
            "update usage_total set claimed_at = claimed_at - interval '1 hour'"
        )
        outbox.claim(
            wiring.database(), now=wiring.clock()(), interval=timedelta(0)
        )  # claimed, and not sent before the cancellation
        customer.cancel()
        customer.hear()
        told = customer.correct(-50, "wrong").json["needs_credit"]
        assert told["quantity"] == "50"
        customer.deliver()
        assert customer.correct(-50, "wrong").json["needs_credit"] is None
        assert customer.entries()["fix"]["needs_credit"] is False
        assert [row for row in customer.parked() if row[2]] == []
        assert [debt for debt in customer.debts() if debt[2] is None] == []


class TestAnUpgradeOnTheFirstDay:
    """Both plans' periods begin at the same midnight, and no webhook has come yet."""

    @pytest.fixture
    def upgraded(self, customer: Customer, remote: StandIn) -> Customer:
        customer.report(150, "before")
        customer.deliver()
        remote.control.advance(seconds=60)
        path = f"/subscriptions/{customer.subscription}/change-plan"
        customer.commet("POST", path, {"newPlanId": "pln_usagemax"})
        db = wiring.database()
        db.execute("update usage_delivery set sent_at = sent_at - interval '3 min'")
        db.execute("update subscriptions set checked_at = now()")  # so that nobody asks about it
        remote.control.advance(seconds=7 * 3600)
        customer.run()
        assert db.value("select ours - theirs from usage_drift") == 150  # Commet's is of Max
        assert db.value("select refresh_due is not null from subscriptions")  # Commet is asked next
        return customer

    def drift(self) -> int:
        return int(wiring.database().value("select count(*) from usage_drift"))

    def close(self, customer: Customer) -> None:
        """What is left of the period that is over is delivered and compared."""
        for _ in range(2):
            customer.run()
            customer.deliver()
            customer.compare()

    def test_what_was_billed_is_not_billed_again(self, upgraded: Customer) -> None:
        upgraded.hear()
        self.close(upgraded)
        assert (self.drift(), upgraded.parked()) == (0, [])
        assert upgraded.overage_billed() == 500

    def test_a_repair_does_not_bill_it_again(self, upgraded: Customer) -> None:
        """The webhook is lost, and an operator asks for the repair at once."""
        upgraded.lose()
        wiring.database().execute("update subscriptions set checked_at = now() - interval '1 hour'")
        upgraded.run(command="repair_drift")
        self.close(upgraded)
        (storage, *_) = wiring.commet().feature_access(upgraded.id, _soon())
        assert storage.consumption is not None
        assert storage.consumption.units_used == 0
        assert (self.drift(), upgraded.parked()) == (0, [])


class TestBeforeTheSubscription:
    def test_is_not_billed(self, customer: Customer, remote: StandIn) -> None:
        """150 GB dated 27 days before the sign-up are refused, and no invoice has them."""
        now = remote.control.now()
        assert customer.report(150, "old", now - timedelta(days=27)) == "before_subscription"
        assert customer.entries() == {}
        customer.deliver()
        customer.renew()
        assert customer.overage_billed() == 0

    def test_the_whole_first_day_counts(self, customer: Customer, remote: StandIn) -> None:
        """From midnight on, with five minutes for clocks that are wrong."""
        midnight = remote.control.now().replace(hour=0, minute=0, second=0)
        edge = midnight - timedelta(minutes=5)
        assert customer.report(1, "first", edge) == "accepted"
        assert customer.report(1, "before", edge - SECOND) == "before_subscription"

    def test_over_a_renewal(self, customer: Customer, remote: StandIn) -> None:
        """Access goes on, so what occurred in the month before counts in the running period."""
        began = remote.control.now()
        customer.renew()
        assert customer.report(1, "late", began + timedelta(days=2)) == "accepted"
        assert customer.entries()["late"]["late"] is True
        assert customer.used() == "1"

    def test_after_a_gap(self, customer: Customer, remote: StandIn) -> None:
        """Whoever left and came back days later is not billed for what lies between or before."""
        before = remote.control.now()
        customer.cancel()
        customer.hear()
        remote.control.advance(days=5)
        customer.sign_in()
        started = customer.checkout()
        remote.control.pay(started.json["subscription"]["id"])
        customer.hear()
        for number, moment in enumerate((before, before + timedelta(days=2))):
            assert customer.report(150, f"k{number}", moment) == "before_subscription"
        assert customer.report(1, "now") == "accepted"

    def test_between_a_cancellation_and_the_reactivation(
        self, customer: Customer, remote: StandIn
    ) -> None:
        """One subscription, and yet nobody had access."""
        customer.cancel()
        customer.hear()
        customer.run()
        remote.control.advance(days=5)
        gap = remote.control.now()
        remote.control.advance(days=5)
        customer.commet("POST", f"/subscriptions/{customer.subscription}/reactivate", {})
        customer.hear()
        customer.run()
        assert customer.report(150, "gap", gap) == "before_subscription"
        assert customer.report(150, "now") == "accepted"

    @pytest.mark.parametrize("mode", ["immediate", "period_end"])
    def test_in_a_pause(self, customer: Customer, remote: StandIn, mode: str) -> None:
        """Nobody had access; what occurred before the pause counts as if there were none."""
        before = remote.control.now()
        path = f"/subscriptions/{customer.subscription}"
        customer.commet("POST", f"{path}/pause", {"mode": mode, "durationDays": 60})
        if mode == "period_end":
            remote.control.advance(to=_next_end())
            before = remote.control.now() - HOUR
        remote.control.advance(seconds=5)
        customer.hear()
        customer.run()
        remote.control.advance(days=3)
        gap = remote.control.now()
        assert customer.report(150, "gap", gap) == "subscription_required"
        remote.control.advance(days=3)
        customer.commet("POST", f"{path}/resume", {})
        remote.control.advance(seconds=5)
        customer.hear()
        customer.run()
        assert customer.report(150, "gap", gap) == "before_subscription"
        assert customer.report(1, "before", before) == "accepted"
        assert customer.report(1, "now") == "accepted"
        assert customer.used() == "2"

    def test_in_a_batch(self, customer: Customer, remote: StandIn) -> None:
        """It stops no other event, and its key stays free."""
        now = remote.control.now()
        event = {"user_id": customer.id, "feature": "storage", "quantity": "1"}
        old = event | {"idempotency_key": "a"}
        batch = [
            old | {"occurred_at": (now - timedelta(days=9)).isoformat()},
            event | {"idempotency_key": "b"},
            old,
        ]
        results = call("POST", "/usage", {"events": batch}, token=KEY).json["results"]
        assert [r["code"] or r["status"] for r in results] == [
            "before_subscription", "accepted", "accepted",
        ]  # fmt: skip


class TestOfATrial:
    @pytest.fixture
    def converted(self, remote: StandIn, box: Any) -> OnTrial:  # noqa: F811
        """Two units used in the trial, and the trial has become a paid plan at noon."""
        customer = OnTrial(remote, box)
        assert customer.report(2, "early") == "accepted"
        customer.deliver()
        remote.control.advance(days=14, seconds=5)
        customer.hear()
        return customer

    def test_is_not_billed(self, converted: OnTrial, remote: StandIn) -> None:
        """Sent after the trial, it is counted in the trial and never delivered."""
        noon = remote.control.now()
        for number, moment in enumerate((noon - timedelta(days=3), noon - HOUR)):
            assert converted.report(11, f"t{number}", moment) == "accepted"
        assert converted.report(3, "paid", noon) == "accepted"
        assert converted.used() == "3"
        entries = converted.entries()
        assert entries["t0"]["period"] == entries["early"]["period"] != entries["paid"]["period"]
        assert entries["t0"]["late"] is False
        converted.deliver()
        converted.run()
        assert wiring.database().value("select count(*) from usage_drift") == 0
        sent = wiring.commet().feature_access(converted.id, _soon())[0].consumption
        assert sent is not None
        assert sent.units_used == 3

    def test_counts_against_the_trial(self, converted: OnTrial, remote: StandIn) -> None:
        """1,000 are included in the trial, of which two are used; the paid period has its own."""
        before = remote.control.now() - timedelta(days=1)
        assert converted.report(999, "a", before) == "limit_reached"
        assert converted.report(998, "b", before) == "accepted"
        assert converted.report(1, "c", before) == "limit_reached"
        assert converted.report(1000, "d") == "accepted"

    def test_a_correction(self, converted: OnTrial, remote: StandIn) -> None:
        """What was forgotten in the trial is added to the trial, and within its limit."""
        before = remote.control.now() - timedelta(days=1)
        for key, quantity, status in (("a", "998", 202), ("b", "1", 402)):
            body = {
                "user_id": converted.id, "feature": "storage", "quantity": quantity,
                "idempotency_key": key, "reason": "forgotten", "occurred_at": before.isoformat(),
            }  # fmt: skip
            assert call("POST", "/usage/corrections", body, token=KEY).status == status
        entries = converted.entries()
        assert entries["a"]["period"] == entries["early"]["period"]
        assert converted.used() == "0"

    def test_at_once(self, converted: OnTrial, remote: StandIn, database_url: str) -> None:
        """However many report it at one moment, the trial's limit holds."""
        now = remote.control.now()
        before = now - timedelta(days=1)

        def send(n: int) -> list[str | None]:
            work = [
                UsageEvent(converted.id, "storage", Decimal(100), f"{n}-{i}", before)
                for i in range(5)
            ]
            with own_database(database_url) as db:
                return [v.code for v in accept(db, work, rules=RULES, now=now)]

        with ThreadPoolExecutor(8) as pool:
            codes = [code for sent in pool.map(send, range(8)) for code in sent]
        assert (codes.count(None), codes.count("limit_reached")) == (9, 31)
        row = wiring.database().one(
            "select t.total, t.withheld, t.claimed from usage_total t"
            " join usage_period p on p.id = t.period where p.is_trial"
        )
        assert row == {"total": 902, "withheld": 900, "claimed": 2}

    @pytest.fixture
    def misjudged(self, remote: StandIn, box: Any) -> OnTrial:  # noqa: F811
        """A refresh read the subscription in the trial, and the features of the paid period."""
        customer = OnTrial(remote, box)
        remote.control.advance(days=14, seconds=5)
        answer = wiring.commet().feature_access(customer.id, _soon())
        change = from_answer.entitlement_change(customer.subscription, answer)
        now = remote.control.now()
        mirror.record_change(wiring.database(), customer.id, change, at=now, now=now)
        assert wiring.database().value("select count(*) from usage_period where is_trial") == 2
        customer.hear()
        return customer

    def test_a_paid_period_that_seemed_to_be_of_the_trial(
        self, misjudged: OnTrial, remote: StandIn
    ) -> None:
        """Its overage is owed; usage of the trial is not billed in it."""
        assert misjudged.report(7, "trial", remote.control.now() - HOUR) == "accepted"
        assert misjudged.used() == "0"
        remote.control.advance(days=3)
        assert misjudged.report(1500, "over") == "accepted"
        misjudged.cancel()
        misjudged.hear()
        misjudged.run()
        misjudged.deliver()
        assert misjudged.debts() == [("lost_usage", Decimal(40), None)]

    @pytest.mark.parametrize("remote", [45], indirect=True)
    def test_of_the_second_month_of_a_trial(self, remote: StandIn, box: Any) -> None:  # noqa: F811
        """The user pays, and the open period is still one of the trial: it stays unbilled."""
        customer = OnTrial(remote, box)
        remote.control.advance(days=32)
        customer.hear()
        customer.run()
        assert customer.report(7, "second-month") == "accepted"
        remote.control.advance(days=14)
        customer.hear()
        customer.deliver()
        assert wiring.database().value("select count(*) from usage_period where is_trial") == 2
        sent = wiring.commet().feature_access(customer.id, _soon())[0].consumption
        assert sent is not None
        assert sent.units_used == 0
        assert customer.used() == "0"

    def test_not_sent_in_time(self, remote: StandIn, box: Any) -> None:  # noqa: F811
        """Reported in the trial and not delivered before its end: it is not billed either."""
        customer = OnTrial(remote, box)
        assert customer.report(7, "in-time") == "accepted"
        remote.control.advance(days=14, seconds=5)
        customer.hear()
        customer.deliver()
        sent = wiring.commet().feature_access(customer.id, _soon())[0].consumption
        assert sent is not None
        assert sent.units_used == 0
        assert customer.used() == "0"


class TestOfAFreePlan:
    @pytest.fixture
    def upgraded(self, remote: StandIn, box: Any) -> OnFree:  # noqa: F811
        """Three used on the free plan in the morning, the paid plan since five seconds."""
        customer = OnFree(remote, box)
        remote.control.advance(seconds=7200)
        assert customer.report(3, "free") == "accepted"
        customer.upgrade()
        return customer

    def test_is_not_billed(self, upgraded: OnFree, remote: StandIn) -> None:
        """What occurred before the change was paid counts against the free plan's five."""
        hour_ago = remote.control.now() - HOUR
        assert upgraded.report(3, "a", hour_ago) == "limit_reached"
        assert upgraded.report(2, "b", hour_ago) == "accepted"
        assert upgraded.report(1, "c", hour_ago) == "limit_reached"
        assert upgraded.report(100, "d") == "accepted"
        upgraded.deliver()
        upgraded.run()
        assert wiring.database().value("select count(*) from usage_drift") == 0
        upgraded.renew()
        assert upgraded.overage_billed() == 0

    def test_of_a_paid_plan_before_it(self, customer: Customer, remote: StandIn) -> None:
        """Paid, free, paid again: it is booked, and not given as if the free plan had it."""
        paid = remote.control.now() + timedelta(days=20)
        path = f"/subscriptions/{customer.subscription}/change-plan"
        customer.commet("POST", path, {"newPlanId": "pln_free"})
        customer.hear()
        customer.run()
        remote.control.advance(to=_next_end() + timedelta(days=1))
        customer.hear()
        customer.run()
        asked = customer.commet("POST", path, {"newPlanId": "pln_usagepro"})
        card = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
        origin = {"Origin": remote.public_url}
        assert httpx.post(asked["checkoutUrl"], data=card, headers=origin).status_code < 400
        customer.hear()
        customer.run()
        remote.control.advance(seconds=5)
        assert customer.report(50, "paid", paid) == "accepted"
        last = wiring.database().value("select max(id)::text from usage_period")
        assert customer.entries()["paid"]["period"]["id"] == last

    def test_of_a_feature_that_was_not_used_yet(self, remote: StandIn, box: Any) -> None:  # noqa: F811
        """The free plan's five are known all the same."""
        customer = OnFree(remote, box)
        remote.control.advance(seconds=7200)
        customer.upgrade()
        hour_ago = remote.control.now() - HOUR
        assert customer.report(6, "a", hour_ago) == "limit_reached"
        assert customer.report(5, "b", hour_ago) == "accepted"
        assert customer.used() == "0"


class TestCorrectedAfterThePayment:
    """Two used on the free plan and three after the payment, sent before we heard of it."""

    @pytest.fixture
    def unheard(self, remote: StandIn, box: Any) -> OnFree:  # noqa: F811
        customer = OnFree(remote, box)
        remote.control.advance(seconds=7200)
        assert customer.report(2, "free") == "accepted"
        customer.pay_for_pro()
        remote.control.advance(seconds=30)
        assert customer.report(3, "paid") == "accepted"
        customer.deliver()  # all five, which Commet books in the paid period
        remote.control.advance(seconds=30)
        customer.hear()
        return customer

    def settle(self, customer: OnFree, remote: StandIn) -> None:
        for _ in range(2):
            customer.compare()
            remote.control.advance(seconds=400)
            customer.deliver()

    def totals(self) -> list[tuple[int, ...]]:
        rows = wiring.database().all(
            "select t.total, t.claimed, t.withheld, t.carried from usage_total t"
            " where t.feature = 'storage' order by t.period"
        )
        return [tuple(int(n) for n in row.values()) for row in rows]

    def commet_counts(self, customer: OnFree) -> int:
        used = wiring.commet().feature_access(customer.id, _soon())[0].consumption
        assert used is not None
        return int(used.units_used)

    def test_free_usage_before_its_placement_is_known(
        self, unheard: OnFree, remote: StandIn
    ) -> None:
        """Commet's total is lowered by the two, and they are not credited as well."""
        assert unheard.correct(-2, "free").json["status"] == "accepted"
        assert unheard.report(200, "more") == "accepted"
        unheard.deliver()
        assert unheard.parked() == []
        self.settle(unheard, remote)
        assert self.totals() == [(3, 3, 0, 0), (200, 200, 0, 3)]
        assert (self.commet_counts(unheard), unheard.used()) == (203, "203")
        assert unheard.parked() == []
        assert unheard.entries()["fix"]["needs_credit"] is False

    def test_free_usage_that_is_withheld(self, unheard: OnFree, remote: StandIn) -> None:
        """Nothing of it was billed; what comes late afterwards is withheld as before."""
        self.settle(unheard, remote)
        assert self.totals() == [(5, 3, 2, 0), (0, 0, 0, 3)]
        assert unheard.correct(-2, "free").json["needs_credit"] is None
        assert self.totals() == [(3, 3, 0, 0), (0, 0, 0, 3)]
        assert unheard.report(1, "late", remote.control.now() - HOUR) == "accepted"
        assert self.totals() == [(4, 3, 1, 0), (0, 0, 0, 3)]

    @pytest.mark.parametrize("quantity", [1, 3])
    def test_paid_usage(self, unheard: OnFree, remote: StandIn, quantity: int) -> None:
        """It is taken off Commet's total of the paid period; the two stay withheld."""
        self.settle(unheard, remote)
        answer = unheard.correct(-quantity, "paid").json
        assert (answer["status"], answer["needs_credit"]) == ("accepted", None)
        self.settle(unheard, remote)
        left = 3 - quantity
        assert self.totals() == [(2 + left, left, 2, 0), (0, 0, 0, left)]
        assert (self.commet_counts(unheard), unheard.used()) == (left, str(left))
        assert unheard.parked() == []

    def test_paid_usage_of_a_month_that_is_over(self, unheard: OnFree, remote: StandIn) -> None:
        """Commet has billed it, at the paid period's price: a person gives that back."""
        assert unheard.report(100, "more") == "accepted"
        unheard.deliver()
        self.settle(unheard, remote)
        unheard.renew()
        assert unheard.overage_billed() == 30
        unheard.correct(-3, "paid")
        unheard.deliver()
        assert unheard.parked() == [("needs_credit", "-3", Decimal("0.3"), False)]


class TestAfterAccessEnded:
    @pytest.fixture
    def ending(self, customer: Customer, remote: StandIn) -> datetime:
        """The end that the customer has planned; it is five seconds ahead."""
        path = f"/subscriptions/{customer.subscription}/cancel"
        customer.commet("POST", path, {})
        customer.hear()
        end = wiring.database().value("select period_end from subscriptions")
        assert isinstance(end, datetime)
        remote.control.advance(to=end - 5 * SECOND)
        return end

    def test_used_before_a_planned_end(
        self, customer: Customer, remote: StandIn, ending: datetime
    ) -> None:
        """50 GB used five seconds before, reported 0.7 s after: booked, and seen by the debts."""
        assert customer.report(100, "in-time") == "accepted"
        remote.control.advance(to=ending + 0.7 * SECOND)
        assert customer.report(50, "late", ending - 5 * SECOND) == "accepted"
        customer.hear()
        entries = customer.entries()
        assert entries["late"]["period"] == entries["in-time"]["period"]
        customer.deliver()
        (parked,) = customer.parked()
        assert parked[0] == "lost_to_cancellation"
        assert customer.debts() == [("lost_usage", Decimal(5), None)]

    @pytest.mark.parametrize(
        "case",
        [
            (-1, 3599, "accepted"),
            (-1, 3601, "subscription_required"),
            (1, 10, "subscription_required"),
            (None, 10, "subscription_required"),
        ],
    )
    def test_for_how_long(
        self,
        customer: Customer,
        remote: StandIn,
        ending: datetime,
        case: tuple[int | None, int, str],
    ) -> None:
        """An hour, and only what was used before the end."""
        occurred, reported, said = case
        remote.control.advance(to=ending + reported * SECOND)
        customer.hear()
        customer.run()
        moment = None if occurred is None else ending + occurred * SECOND
        assert customer.report(1, "late", moment) == said
        assert set(customer.entries()) == ({"late"} if said == "accepted" else set())

    def test_after_a_cancellation_at_once(self, customer: Customer, remote: StandIn) -> None:
        """Nothing had been used before: the terms are kept, and the amount is known."""
        used = remote.control.now()
        remote.control.advance(seconds=60)
        customer.cancel()
        customer.hear()
        customer.run()
        assert customer.report(150, "late", used) == "accepted"
        customer.deliver()
        assert customer.parked() == [("lost_to_cancellation", "1.5E+2", Decimal(5), True)]
        assert customer.debts() == [("lost_usage", Decimal(5), None)]

    def test_up_to_the_spend_limit(self, customer: Customer, remote: StandIn) -> None:
        """Of which 14.00 of 15.00 were spent while access ran: one GB costs 0.10."""
        wiring.database().execute("update users set spend_limit = 15")
        assert customer.report(240, "in-time") == "accepted"
        used = remote.control.now()
        remote.control.advance(seconds=10)
        customer.cancel()
        customer.hear()
        assert [customer.report(6, f"late-{n}", used) for n in range(3)] == [
            "accepted", "spend_limit_reached", "spend_limit_reached",
        ]  # fmt: skip

    def test_no_overage_after_an_overdue_payment(self, customer: Customer, remote: StandIn) -> None:
        """As it was refused while access ran."""
        remote.control.set_card(customer.id, charge_failure="card_declined")
        customer.renew()
        assert customer.report(500, "in-time") == "payment_overdue"
        used = remote.control.now()
        remote.control.advance(seconds=10)
        customer.cancel()
        customer.hear()
        assert customer.report(500, "late", used) == "payment_overdue"
        assert customer.report(99, "late", used) == "accepted"

    def test_of_a_plan_with_a_limit(self, remote: StandIn, box: Any) -> None:  # noqa: F811
        """Where nothing is sold beyond what is included, the limit holds after the end."""

        class Fixed(Customer):
            plan = "fixed_box"

        customer = Fixed(remote, box)
        used = remote.control.now()
        assert customer.report(30, "in-time") == "accepted"
        remote.control.advance(seconds=60)
        customer.cancel()
        customer.hear()
        assert customer.report(21, "a", used) == "limit_reached"
        assert customer.report(20, "b", used) == "accepted"

    def test_work_that_was_reserved(self, customer: Customer, remote: StandIn) -> None:
        """Confirmed after a renewal and a cancellation: booked in the period that ended."""
        remote.control.advance(to=_next_end() - 60 * SECOND)
        held = call(
            "POST", "/usage/reservations",
            {"user_id": customer.id, "feature": "storage", "quantity": "5",
             "idempotency_key": "job", "expires_in": 3600},
            token=KEY,
        )  # fmt: skip
        assert held.status == 201
        remote.control.advance(seconds=120)
        customer.hear()
        customer.run()
        customer.cancel()
        customer.hear()
        path = f"/usage/reservations/{held.json['id']}/confirm"
        assert call("POST", path, {"quantity": "5"}, token=KEY).status == 200
        last = wiring.database().value("select max(starts_at) from usage_period")
        booked = datetime.fromisoformat(customer.entries()["job"]["period"]["start"])
        assert booked == last
        customer.deliver()
        assert [row[:2] for row in customer.parked()] == [("lost_to_cancellation", "5")]

    def test_at_once(
        self, customer: Customer, remote: StandIn, ending: datetime, database_url: str
    ) -> None:
        """Sent by eight at one moment it is booked once, and ledger, total and days agree."""
        remote.control.advance(to=ending + SECOND)
        now = remote.control.now()
        work = [
            UsageEvent(customer.id, "storage", Decimal(10), f"k{n}", ending - SECOND)
            for n in range(6)
        ]

        def send(n: int) -> list[str]:
            with own_database(database_url) as db:
                batch = work[n % 6 :] + work[: n % 6]
                return [v.status for v in accept(db, batch, rules=RULES, now=now)]

        with ThreadPoolExecutor(8) as pool:
            statuses = [status for sent in pool.map(send, range(8)) for status in sent]
        assert (statuses.count("accepted"), statuses.count("duplicate")) == (6, 42)
        row = wiring.database().one(
            "select (select sum(quantity) from usage_event) as ledger,"
            " (select sum(total) from usage_total) as total,"
            " (select sum(quantity) from usage_daily) as days"
        )
        assert row == {"ledger": 60, "total": 60, "days": 60}


def _soon() -> Any:
    from billing.deadline import Deadline

    return Deadline.after(20)


def _next_end() -> datetime:
    end = wiring.database().value("select ends_at from usage_period where closed_at is null")
    assert isinstance(end, datetime)
    return end
