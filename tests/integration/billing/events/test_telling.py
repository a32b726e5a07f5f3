"""What outgoing events tell: each change once, when it is true, whoever made it so."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing.accounts import erasing
from billing.audit.trail import SOMEBODY
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.events import log, telling
from billing.subscriptions import inbox, mirror
from billing.subscriptions.changes import AllowancePeriod, Change
from billing.usage.accepting import UsageEvent, accept
from billing.usage.rules import Rules
from local.openapi.event_types import MODELS
from tests.integration.billing.conftest import NOW, START, after
from tests.integration.billing.events.users import add_user
from tests.integration.billing.racing import Race
from tests.integration.billing.signed import body

USER, SUBSCRIPTION = "usr_ana", "sub_1"
END = datetime(2026, 10, 1, tzinfo=UTC)
FEATURE = {
    "feature": "storage", "name": "Storage", "unit": "GB", "type": "usage", "model": "metered",
    "allowed": True, "included": "100", "unlimited": False, "overage_enabled": True,
    "unit_price": "1000", "currency": "usd",
}  # fmt: skip
PERIOD = AllowancePeriod(SUBSCRIPTION, START.isoformat(), END.isoformat())


def events(db: Database, *types: str) -> list[tuple[str, dict[str, Any]]]:
    """All events about the user in their order, of these types if any are named."""
    log.place(db)
    every = log.after(db, 0, 1000, None, USER)
    assert [each.sequence for each in every] == list(range(1, len(every) + 1))
    for each in every:
        MODELS[each.type].model_validate(each.data)
    found = [each for each in every if not types or each.type in types]
    return [(each.type, each.data) for each in found]


def kinds(db: Database, *types: str) -> list[str]:
    return [kind for kind, _ in events(db, *types)]


def known(**columns: Any) -> dict[str, Any]:
    return {
        "status": "active", "plan_id": "pln_pro", "plan_name": "Pro", "billing_interval": "monthly",
        "period_start": START.isoformat(), "period_end": END.isoformat(),
        "cancel_at_period_end": False, "scheduled_change": None, "trial_ends_at": None,
    } | columns  # fmt: skip


def change(
    db: Database, minutes: float = 0, *, features: Sequence[Any] = (), **columns: Any
) -> None:
    """The subscription as a webhook of that minute states it, with its entitlements."""
    at = after(minutes=minutes)
    is_live = columns.get("status", "active") in mirror.LIVE
    stated = Change(
        SUBSCRIPTION, known(**columns), features=list(features) or ([FEATURE] if is_live else []),
        period=PERIOD if is_live else None,
    )  # fmt: skip
    mirror.record_change(db, USER, stated, at=at, now=at)


def run(db: Database, now: datetime) -> None:
    telling.tell_what_is_due(db, now, Deadline.after(30))


@pytest.fixture
def ana(db: Database) -> str:
    return add_user(db, USER)


@pytest.mark.usefixtures("ana")
class TestAccess:
    def test_a_new_subscription_gives_access_once(self, db: Database) -> None:
        change(db)
        change(db, 1)
        [(first, about), (second, access)] = events(db)
        assert (first, second) == ("subscription.changed", "access.granted")
        assert about == {
            "subscription_id": SUBSCRIPTION, "plan_id": "pln_pro", "plan": "Pro",
            "interval": "monthly", "status": "active", "cancel_at": None, "trial_ends_at": None,
            "scheduled_change": None, "changes": ["plan", "interval", "status"],
        }  # fmt: skip
        assert access == {
            "subscription_id": SUBSCRIPTION, "plan_id": "pln_pro", "plan": "Pro", "status": "active"
        }  # fmt: skip

    def test_no_access_is_told_before_the_entitlements_are_known(self, db: Database) -> None:
        mirror.record_change(db, USER, Change(SUBSCRIPTION, known()), at=NOW, now=NOW)
        assert kinds(db) == ["subscription.changed"]
        change(db, 1)
        assert kinds(db) == ["subscription.changed", "access.granted"]

    def test_a_plan_that_meters_nothing_gives_access_without_a_period(self, db: Database) -> None:
        support = FEATURE | {"feature": "support", "type": "boolean", "model": None}
        stated = Change(SUBSCRIPTION, known(), features=[support])
        mirror.record_change(db, USER, stated, at=NOW, now=NOW)
        assert "access.granted" in kinds(db)

    @pytest.mark.parametrize("status", ["canceled", "paused"])
    def test_an_end_is_told_with_its_reason(self, db: Database, status: str) -> None:
        change(db)
        change(db, 1, status=status)
        (_, about), (kind, ended) = events(db)[2:]
        assert about["changes"] == ["status"]
        assert (kind, ended["reason"], ended["status"]) == ("access.ended", status, status)

    def test_who_comes_back_gets_access_again(self, db: Database) -> None:
        change(db)
        change(db, 1, status="paused")
        change(db, 2)
        assert kinds(db, "access.granted", "access.ended") == [
            "access.granted", "access.ended", "access.granted",
        ]  # fmt: skip

    def test_who_comes_back_with_everything_used_up_gets_access_again(self, db: Database) -> None:
        """Commet says "not allowed" also when what is included is used up."""
        full = FEATURE | {"overage_enabled": False, "unit_price": None, "allowed": False}
        change(db, features=[full | {"allowed": True}])
        change(db, 1, status="paused")
        change(db, 2, features=[full])
        assert kinds(db, "access.granted", "access.ended") == [
            "access.granted", "access.ended", "access.granted",
        ]  # fmt: skip

    def test_a_plan_that_bills_overage_and_is_not_allowed_gives_none(self, db: Database) -> None:
        change(db, features=[FEATURE | {"allowed": False}])
        assert kinds(db, "access.granted") == []

    def test_late_usage_in_a_period_that_goes_on_tells_thresholds(self, db: Database) -> None:
        """Access has ended, and what occurred before is still booked in the open period."""
        change(db)
        change(db, 60, status="paused")
        late = UsageEvent(USER, "storage", Decimal(90), "late", occurred_at=after(minutes=30))
        rules = Rules(frozenset({"active"}), ceilings={"usd": None}, at_once={"usd": None})
        [verdict] = accept(db, [late], rules=rules, now=after(minutes=70))
        assert verdict.status == "accepted"
        assert db.value("select closed_at is null from usage_period") is True
        assert kinds(db, "usage.threshold_reached") == ["usage.threshold_reached"]

    def test_a_checkout_that_is_not_paid_tells_nothing(self, db: Database) -> None:
        change(db, status="pending_payment", features=[])
        assert kinds(db) == []

    def test_a_plan_and_a_cancellation(self, db: Database) -> None:
        change(db)
        change(db, 1, plan_id="pln_max", plan_name="Max")
        change(db, 2, plan_id="pln_max", plan_name="Max", cancel_at_period_end=True)
        change(db, 3, plan_id="pln_max", plan_name="Max")
        booked = {"plan_id": "pln_pro", "plan_name": "Pro", "interval": "monthly"}
        change(db, 4, plan_id="pln_max", plan_name="Max", scheduled_change=booked)
        change(db, 5, plan_id="pln_max", plan_name="Max")
        told = [about["changes"] for _, about in events(db, "subscription.changed")[1:]]
        assert told == [
            ["plan"], ["cancellation_booked"], ["cancellation_withdrawn"], ["change_booked"],
            ["change_withdrawn"],
        ]  # fmt: skip
        assert events(db, "subscription.changed")[2][1]["cancel_at"] == "2026-10-01T00:00:00.000Z"

    def test_older_news_tells_nothing(self, db: Database) -> None:
        change(db, 10, status="canceled", features=[])
        before = kinds(db)
        change(db, 5)
        assert kinds(db, "access.granted", "access.ended") == []
        assert kinds(db) == before

    def test_an_answer_of_commet_tells_too(self, db: Database) -> None:
        change(db)
        [row] = mirror.refreshable(db, USER)
        stated = known(status="canceled") | {"checkout_url": None}
        at = after(minutes=20)
        mirror.confirm(db, SUBSCRIPTION, row.version, stated, at=at, asked_at=at)
        assert kinds(db)[2:] == ["subscription.changed", "access.ended"]

    def test_a_change_that_is_not_committed_tells_nothing(self, db: Database, race: Race) -> None:
        race.first(change)
        assert kinds(db) == []
        race.commit()
        assert kinds(db) == ["subscription.changed", "access.granted"]

    def test_two_changes_at_once_tell_each_difference_once(self, db: Database, race: Race) -> None:
        change(db)
        race.first(lambda mine: change(mine, 1, status="paused"))
        other = race.second(lambda its: change(its, 1, status="paused"))
        assert other.waits
        race.commit()
        assert other.answer is None
        assert kinds(db, "access.ended") == ["access.ended"]

    def test_an_answer_waits_for_a_change_that_is_being_told(
        self, db: Database, race: Race
    ) -> None:
        mirror.record_change(db, USER, Change(SUBSCRIPTION, known()), at=NOW, now=NOW)
        [row] = mirror.refreshable(db, USER)
        granted = Change(features=[FEATURE], period=PERIOD)
        race.first(lambda mine: mirror.record_change(mine, USER, granted, at=NOW, now=NOW))
        at = after(minutes=20)
        stated = known(status="canceled") | {"checkout_url": None}
        answer = race.second(
            lambda its: mirror.confirm(its, SUBSCRIPTION, row.version, stated, at=at, asked_at=at)
        )
        assert answer.waits
        race.commit()
        assert answer.answer == "healed"
        assert kinds(db, "access.granted", "access.ended") == ["access.granted", "access.ended"]

    def test_somebody_elses_subscription_ends_access_here(self, db: Database) -> None:
        change(db)
        add_user(db, "usr_bob")
        stated = Change(SUBSCRIPTION, known(), features=[FEATURE], period=PERIOD)
        later = after(minutes=1)
        mirror.record_change(db, "usr_bob", stated, at=later, now=later)
        kind, about = events(db)[-1]
        assert (kind, about["reason"]) == ("access.ended", "no_subscription")

    def test_erasing_ends_access(self, db: Database) -> None:
        change(db)
        erasing.erase(db, USER, by=SOMEBODY)
        assert kinds(db)[2:] == ["access.ended", "user.erased"]
        assert events(db)[2][1]["reason"] == "erased"


@pytest.mark.usefixtures("ana")
class TestTime:
    def test_the_end_of_a_trial_is_told_three_days_before_once(self, db: Database) -> None:
        ends = after(days=10)
        change(db, status="trialing", trial_ends_at=ends.isoformat())
        run(db, ends - timedelta(days=3, seconds=1))
        assert kinds(db) == ["subscription.changed", "access.granted"]
        run(db, ends - timedelta(days=3))
        run(db, ends - timedelta(days=2))
        assert events(db)[2][1]["changes"] == ["trial_ending"]
        assert len(events(db)) == 3

    def test_a_trial_that_is_prolonged_is_told_again(self, db: Database) -> None:
        ends = after(days=10)
        change(db, status="trialing", trial_ends_at=ends.isoformat())
        run(db, ends - timedelta(days=2))
        change(db, 1, status="trialing", trial_ends_at=(ends + timedelta(days=10)).isoformat())
        run(db, ends + timedelta(days=8))
        told = [about["changes"] for _, about in events(db, "subscription.changed")]
        assert told[1:] == [["trial_ending"], ["trial"], ["trial_ending"]]

    def test_nothing_is_said_of_a_trial_that_was_canceled(self, db: Database) -> None:
        ends = after(days=2)
        change(
            db, status="trialing", trial_ends_at=ends.isoformat(), period_end=ends.isoformat(),
            cancel_at_period_end=True,
        )  # fmt: skip
        run(db, ends - timedelta(days=1))
        told = [about["changes"] for _, about in events(db, "subscription.changed")]
        assert told == [["plan", "interval", "status", "cancellation_booked", "trial"]]

    def test_a_known_end_ends_access_a_day_after_it(self, db: Database) -> None:
        change(db, cancel_at_period_end=True)
        run(db, END + timedelta(hours=23))
        assert "access.ended" not in kinds(db)
        run(db, END + timedelta(days=1))
        run(db, END + timedelta(days=2))
        [(_, about)] = events(db, "access.ended")
        assert about["reason"] == "ended"

    def test_a_changed_parameter_is_told_by_the_next_run_once(self, db: Database) -> None:
        telling.keep_statuses(db, ["active", "trialing", "past_due"])
        change(db)
        change(db, 1, status="past_due")
        assert "access.ended" not in kinds(db)
        for _ in range(2):
            telling.keep_statuses(db, ["active", "trialing"])
            run(db, after(minutes=5))
        [(_, about)] = events(db, "access.ended")
        assert about["reason"] == "past_due"
        telling.keep_statuses(db, ["active", "trialing", "past_due"])
        run(db, after(minutes=6))
        assert kinds(db)[-1] == "access.granted"

    def test_two_runs_at_once_tell_once(self, db: Database, race: Race) -> None:
        change(db, cancel_at_period_end=True)
        late = END + timedelta(days=2)
        race.first(lambda mine: run(mine, late))
        other = race.second(lambda its: run(its, late))
        assert other.waits
        race.commit()
        assert other.answer is None
        assert kinds(db, "access.ended") == ["access.ended"]


def receive(db: Database, webhook: bytes) -> None:
    assert inbox.receive(db, webhook, mode="sandbox", now=NOW).outcome in ("applied", "duplicate")


def about_dispute(event: str, minutes: float, **more: Any) -> bytes:
    return body(
        event, minutes, customerId=USER, paymentTransactionId="txn_1", invoiceId="inv_1",
        subscriptionId="sub_1", disputeAmount=2900, currency="usd", disputeReason="fraudulent",
        provider="commet", paymentLinkId=None, invoiceNumber="INV-1", **more,
    )  # fmt: skip


@pytest.mark.usefixtures("ana")
class TestPayments:
    def test_a_failed_payment_and_its_recovery(self, db: Database) -> None:
        failed = body(
            "payment.failed", 1, customerId=USER, subscriptionId="sub_1", invoiceId="inv_1",
            failureCode="card_declined", recoveryUrl="https://pay.example/r/1",
        )  # fmt: skip
        recovered = body(
            "payment.recovered", 5, customerId=USER, subscriptionId="sub_1", invoiceId="inv_1"
        )
        for each in (failed, failed, recovered, failed):
            receive(db, each)
        assert kinds(db) == ["payment.failed", "payment.recovered"]
        about = events(db)[0][1]
        assert (about["invoice_id"], about["reason"]) == ("inv_1", "card_declined")
        assert "pay.example" not in str(events(db))  # whoever has the link can pay

    def test_a_recovery_of_which_no_failure_was_heard_tells_both(self, db: Database) -> None:
        receive(
            db,
            body("payment.recovered", 5, customerId=USER, subscriptionId="s", invoiceId="inv_1"),
        )
        assert kinds(db) == ["payment.failed", "payment.recovered"]

    def test_a_dispute_and_its_end_once_each(self, db: Database) -> None:
        opened = about_dispute("payment.disputed", 1)
        lost = about_dispute("payment.dispute_resolved", 9, outcome="lost")
        for each in (opened, lost, opened, lost):
            receive(db, each)
        assert kinds(db, "payment.disputed", "payment.dispute_resolved") == [
            "payment.disputed", "payment.dispute_resolved",
        ]  # fmt: skip
        about = events(db, "payment.dispute_resolved")[0][1]
        assert (about["transaction_id"], about["outcome"]) == ("txn_1", "lost")
        assert Decimal(about["amount"]) == Decimal(29)

    def test_each_refund_of_a_payment_is_told_also_of_one_amount(self, db: Database) -> None:
        refunds = [
            body(
                "payment.refunded", minutes, customerId=USER, paymentTransactionId="txn_1",
                invoiceId="inv_1", subscriptionId="sub_1", refundAmount=500, currency="usd",
                isFullRefund=False, provider="commet", paymentLinkId=None, invoiceNumber="INV-1",
            )
            for minutes in (1, 9)
        ]  # fmt: skip
        for each in (*refunds, *refunds):
            receive(db, each)
        told = events(db, "payment.refunded")
        assert [Decimal(about["amount"]) for _, about in told] == [Decimal(5), Decimal(5)]


@pytest.mark.usefixtures("ana")
class TestDebts:
    def owe(self, db: Database, amount: Decimal | None) -> None:
        db.execute(
            "insert into debt (user_id, kind, source, amount, currency, opened_at)"
            " values (%s, 'lost_usage', '7', %s, 'usd', %s)",
            [USER, amount, NOW],
        )

    def test_a_debt_is_told_when_its_amount_is_known_and_when_it_ends(self, db: Database) -> None:
        self.owe(db, None)
        assert kinds(db) == []
        db.execute("update debt set amount = 12.5")
        db.execute("update debt set note = 'no news'")
        db.execute("update debt set ended_at = %s, ended_by = 'paid'", [NOW])
        [(opened, about), (closed, end)] = events(db)
        assert (opened, closed) == ("debt.opened", "debt.closed")
        assert (about["amount"], about["currency"], about["kind"]) == ("12.5", "usd", "lost_usage")
        assert end["ended_by"] == "paid"

    def test_a_debt_that_never_was_one_is_not_told(self, db: Database) -> None:
        self.owe(db, None)
        db.execute("update debt set amount = 0, ended_at = %s, ended_by = 'withdrawn'", [NOW])
        assert kinds(db) == []

    def test_a_debt_whose_amount_changes_is_told_again(self, db: Database) -> None:
        self.owe(db, Decimal(5))
        db.execute("update debt set amount = 50")
        db.execute("update debt set ended_at = %s, ended_by = 'paid'", [NOW])
        assert [(kind, about["amount"]) for kind, about in events(db)] == [
            ("debt.opened", "5"), ("debt.opened", "50"), ("debt.closed", "50"),
        ]  # fmt: skip

    def test_a_debt_goes_with_the_person(self, db: Database) -> None:
        """Both users' events say so; an id that is replaced is no other user."""
        heir = add_user(db, "usr_heir")
        self.owe(db, Decimal(5))
        db.execute("select move_debts(%s, %s)", [USER, heir])
        assert [(kind, about.get("ended_by")) for kind, about in events(db)] == [
            ("debt.opened", None), ("debt.closed", "moved"),
        ]  # fmt: skip
        log.place(db)
        assert [each.type for each in log.after(db, 0, 10, None, heir)] == ["debt.opened"]
        db.execute("update users set id = 'usr_renamed' where id = %s", [heir])
        assert log.place(db) == 0

    def test_a_debt_that_is_owed_again_is_told_again(self, db: Database) -> None:
        self.owe(db, Decimal(3))
        db.execute("update debt set ended_at = %s, ended_by = 'withdrawn'", [NOW])
        db.execute("update debt set ended_at = null, ended_by = null")
        assert kinds(db) == ["debt.opened", "debt.closed", "debt.opened"]


class TestUsers:
    def test_a_user_of_a_product_is_told_at_once(self, db: Database) -> None:
        db.execute("insert into users (id, created_at) values (%s, %s)", [USER, NOW])
        db.execute("update users set name = 'Ana'")
        assert events(db) == [("user.registered", {})]

    def test_an_own_account_is_told_when_its_address_is_confirmed(self, db: Database) -> None:
        db.execute(
            "insert into users (id, email, own_account, created_at)"
            " values (%s, 'ana@example.com', true, %s)",
            [USER, NOW],
        )
        assert events(db) == []
        db.execute("update users set verified_at = %s", [NOW])
        # An operator takes the address away; the account confirms another one.
        db.execute("update users set verified_at = null, freed_at = %s", [NOW])
        db.execute("update users set verified_at = %s", [NOW])
        assert events(db) == [("user.registered", {})]


def test_old_events_are_deleted_and_no_others(db: Database) -> None:
    add_user(db, USER)
    for age in (100, 89):
        db.execute(
            "insert into outgoing_event (user_id, type, occurred_at, data, inserted_at)"
            " values (%s, 'access.granted', now(), '{}', now() - %s * interval '1 day')",
            [USER, age],
        )
    assert log.prune(db, timedelta(days=90), 10) == 0  # it has no place yet
    log.place(db)
    assert log.prune(db, timedelta(days=90), 10) == 1
    assert len(log.after(db, 0, 10)) == 1
