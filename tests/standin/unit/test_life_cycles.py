"""Random lives of customers, and what must hold at every moment of them."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from standin import (
    agenda,
    billing,
    checkout,
    customers,
    events,
    invoices,
    pauses,
    plan_changes,
    recovery,
    subscriptions,
    transactions,
    usage,
)
from standin.cards import CardForm, CardRefusedError, accept
from standin.clock import Clock
from standin.deadlines import next_deadline
from standin.errors import ApiError
from standin.models import Card, Customer, Subscription, Transaction
from standin.schemas import CreateCustomer, CreateSubscription, SetUsage, TrackUsage
from standin.settings import Settings
from standin.world import World
from tests.proof.scale import scaled

NAMES = st.sampled_from(["ana", "bob"])
LEGAL = {
    None: {"pending_payment", "active"},
    "pending_payment": {"trialing", "active", "canceled"},
    "trialing": {"active", "past_due", "paused", "canceled"},
    "active": {"past_due", "paused", "canceled"},
    "past_due": {"active", "canceled"},
    "paused": {"trialing", "active", "canceled"},
    "canceled": {"active"},
}


class Life(RuleBasedStateMachine):
    """Two customers who buy, use, cancel, fail to pay and come back, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Settings(), Clock(wall=lambda: 1_800_000_000.0))
        self.statuses: dict[str, str] = {}
        for name in ("ana", "bob"):
            with self.world.transaction():
                request = CreateCustomer(id=name, email=f"{name}@example.com")
                customers.create(self.world, request)

    @initialize()
    def ana_is_subscribed(self) -> None:
        """So that random steps reach renewals and debts more often."""
        self.subscribe(name="ana", plan="usage_pro", interval="monthly", trial=0)
        self.statuses_are_legal()
        self.pay(name="ana", number="4242424242424242")

    @initialize()
    def bob_tries_it_out(self) -> None:
        """So that trials are changed, paused and ended as well."""
        self.subscribe(name="bob", plan="usage_pro", interval="monthly", trial=14)
        self.statuses_are_legal()
        self.pay(name="bob", number="4242424242424242")

    def teardown(self) -> None:
        self.world.store.close()

    def _live(self, name: str) -> Subscription | None:
        return self.world.current_subscription(self.world.customer(name))

    @rule(
        name=NAMES,
        plan=st.sampled_from(["free", "usage_pro", "usage_max", "fixed_box"]),
        interval=st.sampled_from([None, "monthly", "yearly"]),
        trial=st.sampled_from([0, 2, 14, 40]),
    )
    def subscribe(self, name: str, plan: str, interval: str | None, trial: int) -> None:
        request = CreateSubscription.model_validate(
            {
                "customerId": name,
                "planCode": plan,
                "billingInterval": interval,
                "customTrialDays": trial,
            }
        )
        live = self._live(name)
        try:
            with self.world.transaction():
                subscriptions.create(self.world, request)
        except ApiError as error:
            no_such_price = (plan, interval) == ("fixed_box", "yearly")
            no_such_trial = plan == "free" and trial > 0
            expected = "already_has_active_subscription"
            if no_such_price or no_such_trial:
                expected = "price_not_found" if no_such_price else "validation_error"
            assert error.code == expected  # noqa: PT017 - either outcome is legal
            assert live or no_such_price or no_such_trial

    @rule(
        name=NAMES,
        number=st.sampled_from(["4242424242424242", "4000000000000002", "4000000000000341"]),
    )
    def pay(self, name: str, number: str) -> None:
        sub = self.world.pending_subscription(self.world.customer(name)) or self._live(name)
        if sub is None or checkout.order(self.world, sub) is None:
            return
        before = (sub.status, sub.plan_id)
        try:
            with self.world.transaction():
                checkout.pay(self.world, sub, CardForm(number, "12/80", "123"))
        except CardRefusedError:
            again = subscriptions.find(self.world, sub.id)
            assert (again.status, again.plan_id) == before

    @rule(name=NAMES, value=st.decimals(0, 80, places=2))
    def use(self, name: str, value: Decimal) -> None:
        body = {"customerId": name, "featureCode": "storage", "value": value}
        live = self._live(name)
        try:
            with self.world.transaction():
                usage.track(self.world, TrackUsage.model_validate(body))
        except ApiError as error:
            has_access = live is not None and live.has_access
            expected = "included_limit_reached" if has_access else "no_active_subscription"
            assert error.code == expected  # noqa: PT017

    @rule(name=NAMES, value=st.integers(0, 60))
    def recount(self, name: str, value: int) -> None:
        body = {"customerId": name, "featureCode": "storage", "value": value}
        try:
            with self.world.transaction():
                usage.set_total(self.world, SetUsage.model_validate(body))
        except ApiError as error:
            assert error.code in {"included_limit_reached", "no_active_subscription"}  # noqa: PT017

    @rule(name=NAMES, immediate=st.booleans())
    def cancel(self, name: str, *, immediate: bool) -> None:
        sub = self._live(name) or self.world.pending_subscription(self.world.customer(name))
        if sub is None:
            return
        try:
            with self.world.transaction():
                subscriptions.cancel(self.world, sub, reason=None, immediate=immediate)
        except ApiError as error:
            # A pause that is scheduled has to be revoked first.
            assert error.code == (  # noqa: PT017
                "invalid_subscription_status" if sub.pause else "already_scheduled"
            )

    @rule(
        name=NAMES,
        plan=st.sampled_from([None, "pln_free", "pln_usagepro", "pln_usagemax", "pln_fixedbox"]),
        interval=st.sampled_from([None, None, "monthly", "yearly"]),
    )
    def change_plan(self, name: str, plan: str | None, interval: str | None) -> None:
        sub = self._live(name)
        if sub is None:
            return
        before = sub.model_copy(deep=True)
        try:
            with self.world.transaction():
                changed = plan_changes.change(self.world, sub, plan, interval, success_url=None)
        except ApiError as error:
            assert error.code in {  # noqa: PT017
                "no_change_requested",
                "plans_not_in_same_group",
                "price_not_found",
                "no_prices_configured",
                "free_plan_change_not_supported",
                "subscription_not_active",
                "invalid_subscription_status",
                "already_scheduled",
                "subscription_has_open_dispute",
            }
            assert subscriptions.find(self.world, sub.id) == before
            return
        after = subscriptions.find(self.world, sub.id)
        moved = (after.plan_id, after.price_id) != (before.plan_id, before.price_id)
        assert moved == (changed.outcome == "completed")
        if changed.invoice:
            assert changed.quote is not None
            assert changed.invoice.total == changed.quote.total

    @rule(
        name=NAMES,
        mode=st.sampled_from(["immediate", "period_end"]),
        days=st.sampled_from([None, 3, 40]),
    )
    def pause(self, name: str, mode: pauses.Mode, days: int | None) -> None:
        sub = self._live(name)
        if sub is None:
            return
        try:
            with self.world.transaction():
                pauses.create(self.world, sub, mode, days)
        except ApiError as error:
            assert error.code in {"invalid_subscription_status", "already_scheduled"}  # noqa: PT017

    @rule(name=NAMES, days=st.sampled_from([None, 10]))
    def change_pause(self, name: str, days: int | None) -> None:
        sub = self._live(name)
        if sub is None:
            return
        try:
            with self.world.transaction():
                pauses.update(self.world, sub, days)
        except ApiError as error:
            assert error.code in {"invalid_subscription_status", "validation_error"}  # noqa: PT017

    @rule(name=NAMES)
    def end_pause(self, name: str) -> None:
        """Revoke it before it takes effect, resume afterwards."""
        sub = self._live(name)
        if sub is None or sub.pause is None:
            return
        with self.world.transaction():
            if sub.pause.status == "scheduled":
                pauses.revoke(self.world, sub)
            else:
                pauses.resume(self.world, sub)

    @rule(name=NAMES)
    def uncancel(self, name: str) -> None:
        sub = self._live(name)
        if sub and sub.cancellation:
            with self.world.transaction():
                subscriptions.uncancel(self.world, sub)

    @rule(name=NAMES, fails=st.booleans())
    def change_card(self, name: str, *, fails: bool) -> None:
        failure = "card_declined" if fails else None
        card = Card(brand="visa", last4="4242", exp_month=1, exp_year=2080, charge_failure=failure)
        customer = self.world.customer(name)
        customer.card = card
        self.world.store.customers.put(customer)

    @rule(name=NAMES)
    def reactivate(self, name: str) -> None:
        customer = self.world.customer(name)
        sub = self.world.store.subscriptions.first("customer_id = ?", customer.id)
        if sub is None:
            return
        try:
            with self.world.transaction():
                recovery.reactivate(self.world, sub)
        except ApiError as error:
            assert error.code in {  # noqa: PT017
                "invalid_subscription_status",
                "already_has_active_subscription",
                "no_payment_method",
                "subscription_has_open_dispute",
                "rate_limited",
            }
            retries = self.world.customer(name).manual_retries
            if error.code == "rate_limited":
                assert retries is not None
                assert retries.count == recovery.MANUAL_RETRIES_A_DAY

    @rule(name=NAMES, amount=st.sampled_from([None, 1, 500]))
    def refund(self, name: str, amount: int | None) -> None:
        """Money back, whatever has become of the subscription."""
        self._money(name, lambda found: transactions.refund(self.world, found, amount))

    @rule(name=NAMES)
    def dispute(self, name: str) -> None:
        self._money(name, lambda found: transactions.dispute(self.world, found))

    @rule(name=NAMES, outcome=st.sampled_from(["won", "lost"]))
    def resolve(self, name: str, outcome: Literal["won", "lost"]) -> None:
        self._money(name, lambda found: transactions.resolve(self.world, found, outcome))

    def _money(self, name: str, act: Callable[[Transaction], object]) -> None:
        """Do something to the newest transaction; it may be one to which it cannot be done."""
        customer = self.world.customer(name)
        newest = self.world.store.transactions.first("customer_id = ?", customer.id)
        subs = self.world.store.subscriptions.find("customer_id = ?", customer.id)
        if newest is None:
            return
        try:
            with self.world.transaction():
                act(newest)
        except ApiError as error:
            assert error.code in {"payment_failed", "validation_error"}  # noqa: PT017
        assert self.world.store.subscriptions.find("customer_id = ?", customer.id) == subs

    @rule(name=NAMES)
    def void_a_debt(self, name: str) -> None:
        customer = self.world.customer(name)
        unpaid = "customer_id = ? AND status = 'outstanding'"
        invoice = self.world.store.invoices.first(unpaid, customer.id)
        if invoice is None:
            return
        try:
            with self.world.transaction():
                recovery.void(self.world, invoice)
        except ApiError as error:
            assert error.code == "invalid_subscription_status"  # noqa: PT017

    @rule(name=NAMES, number=st.sampled_from(["5555555555554444", "4000000000000341"]))
    def save_another_card(self, name: str, number: str) -> None:
        card = accept(CardForm(number, "12/80", "123"), self.world.now())
        with self.world.transaction():
            recovery.add_card(self.world, self.world.customer(name), card)

    @rule(days=st.sampled_from([0.5, 1, 3, 8, 32, 100]))
    def wait(self, days: float) -> None:
        target = self.world.now() + timedelta(days=days)
        while (due := agenda.next_due(self.world)) and due.at <= target:
            assert due.at >= self.world.now()
            self.world.clock.hold(due.at)
            with self.world.transaction():
                if isinstance(due, agenda.InvoiceDue):
                    invoices.note_overdue(self.world, due.invoice)
                else:
                    billing.process(self.world, due.sub, due.deadline)
            self.statuses_are_legal()
        self.world.clock.hold(target)

    @rule(name=NAMES)
    def a_bad_month(self, name: str) -> None:
        """A renewal that is declined; random steps alone rarely get there."""
        self.change_card(name=name, fails=True)
        self.wait(days=32)

    @rule(name=NAMES)
    def a_bad_upgrade(self, name: str) -> None:
        """A change that is declined."""
        self.change_card(name=name, fails=True)
        self.change_plan(name=name, plan="pln_usagemax", interval="yearly")

    @rule(name=NAMES, days=st.sampled_from([4, 12]))
    def a_bad_return(self, name: str, days: int) -> None:
        """A resume that is declined, until it is given up or a good card is there."""
        self.pause(name=name, mode="period_end", days=3)
        self.change_card(name=name, fails=True)
        self.wait(days=32)
        self.wait(days=days)

    @invariant()
    def statuses_are_legal(self) -> None:
        """No subscription changes in a way Commet does not know."""
        for sub in self.world.store.subscriptions.find():
            before = self.statuses.get(sub.id)
            assert sub.status == before or sub.status in LEGAL[before], (before, sub.status)
            self.statuses[sub.id] = sub.status

    @invariant()
    def one_relationship_per_customer(self) -> None:
        """At most one is live, at most one waits for payment, and what is live has a period."""
        for customer in self.world.store.customers.find():
            subs = self.world.store.subscriptions.find("customer_id = ?", customer.id)
            assert sum(sub.is_live for sub in subs) <= 1
            assert sum(sub.status == "pending_payment" for sub in subs) <= 1
            for sub in subs:
                self._plans_fit_the_status(sub)
                if sub.has_access:
                    self._period_holds_now(sub)

    def _plans_fit_the_status(self, sub: Subscription) -> None:
        """What is going to happen is what can happen from here."""
        paused = sub.status == "paused"
        waits_for_nothing = paused and not sub.dunning and sub.pause and not sub.pause.resume_at
        expects_something = (sub.has_access or paused) and not waits_for_nothing
        assert (next_deadline(sub) is not None) == expects_something
        assert sub.dunning is None or sub.status in {"past_due", "paused"}
        assert sub.dunning is not None or sub.status != "past_due"
        assert (sub.pause is not None and sub.pause.status == "active") == paused
        assert not (sub.pause and (sub.cancellation or sub.scheduled_change))
        assert sub.plan_checkout is None or (sub.status, sub.price_id) == ("active", None)
        assert (sub.price_id is None) == self.world.plan(sub).is_free

    def _period_holds_now(self, sub: Subscription) -> None:
        now = self.world.now()
        assert sub.allowance is not None
        assert sub.period_start is not None
        assert sub.period_end is not None
        assert sub.period_start <= sub.allowance.start <= now
        assert now <= sub.allowance.end <= sub.period_end

    @invariant()
    def totals_add_up(self) -> None:
        """A meter is the sum of its records, and never negative."""
        sums: dict[str, Decimal] = {}
        for record in self.world.store.usage.find():
            sums[record.meter_id] = sums.get(record.meter_id, Decimal(0)) + record.value
        meters = {meter.id: meter.used for meter in self.world.store.meters.find()}
        assert meters == sums
        assert all(used >= 0 for used in meters.values())

    @invariant()
    def invoices_are_whole(self) -> None:
        """Numbers without gaps; only credits are negative, and never more than the rest."""
        invoices = self.world.store.invoices.find(newest=False)
        numbers = [int(invoice.number.removeprefix("INV-")) for invoice in invoices]
        assert all(later == earlier + 1 for earlier, later in pairwise(numbers))
        assert all(invoice.total >= 0 for invoice in invoices)
        lines = [line for invoice in invoices for line in invoice.lines]
        assert all((line.amount < 0) == (line.line_type == "credit") for line in lines)

    @invariant()
    def money_received_is_money_invoiced(self) -> None:
        """Each paid invoice was paid once, and told."""
        told = self.world.store.events.find("name = 'payment.received'")
        received = sorted((str(e.data["invoiceId"]), int(e.data["invoiceTotal"])) for e in told)
        paid = [i for i in self.world.store.invoices.find("status = 'paid'") if i.total]
        assert received == sorted((invoice.id, invoice.total) for invoice in paid)

    @invariant()
    def each_paid_invoice_has_the_transaction_that_paid_it(self) -> None:
        """One that succeeded; refunds and disputes come later, and never exceed it."""
        store = self.world.store
        for invoice in store.invoices.find("status = 'paid'"):
            tried = store.transactions.find("invoice_id = ?", invoice.id)
            succeeded = [t.id for t in tried if t.status != "failed"]
            assert succeeded == ([invoice.transaction_id] if invoice.total else [])
        for transaction in store.transactions.find():
            given_back = sum(
                refund.amount for refund in store.refunds.find("transaction_id = ?", transaction.id)
            )
            assert transaction.refunded_amount == given_back <= transaction.total
            assert (transaction.status == "refunded") == (given_back == transaction.total)

    @invariant()
    def nothing_that_has_ended_is_owed(self) -> None:
        """And each unpaid invoice is called overdue at most once."""
        store = self.world.store
        for invoice in store.invoices.find("status = 'outstanding'"):
            sub = store.subscriptions.get(invoice.subscription_id or "")
            assert sub is not None
            assert sub.status != "canceled"
        overdue = [e.data["invoiceId"] for e in store.events.find("name = 'invoice.overdue'")]
        assert len(overdue) == len(set(overdue))

    @invariant()
    def usage_is_billed_once(self) -> None:
        """Every overage line stands for an allowance that was exceeded, and only once."""
        paid = self.world.store.invoices.find("status = 'paid'")
        lines = [line for invoice in paid for line in invoice.lines]
        billed = sum(line.line_type == "feature_overage" for line in lines)
        assert billed <= self.world.store.events.count("name = 'quota.exceeded'")

    @invariant()
    def the_last_snapshot_tells_the_truth(self) -> None:
        """Whoever follows customer.state_changed knows who has access."""
        for customer in self.world.store.customers.find():
            last = self.world.store.events.first(
                "name = 'customer.state_changed' AND customer_id = ?", customer.id
            )
            if last:
                self._compare(customer, last.data)

    def _compare(self, customer: Customer, told: dict[str, Any]) -> None:
        actual = events.state_snapshot(self.world, customer, "plan_change")
        statuses = {str(told["status"]), str(actual["status"])}
        # A pending checkout that is replaced or abandoned is told of only when it is created.
        if statuses <= {"pending_payment", "none"}:
            return
        assert len(statuses) == 1, statuses
        assert told["plan"] == actual["plan"]
        assert told["billingInterval"] == actual["billingInterval"]


def test_random_lives() -> None:
    """Whatever people do, in whatever order."""
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=scaled(120, 30),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            derandomize=True,
        ),
    )
