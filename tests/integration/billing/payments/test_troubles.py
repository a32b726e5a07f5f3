"""Payment trouble: kept once, whatever the order of the webhooks, and shown while it goes on."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from billing.database.connection import Database, Row
from billing.deadline import Deadline
from billing.payments import disputes, troubles
from billing.payments.troubles import OpenTrouble
from billing.subscriptions import inbox
from tests.integration.billing.conftest import NOW, Subscribe, add_user
from tests.integration.billing.racing import Race
from tests.integration.billing.signed import body, moment

URL = "https://pay.example/r/1"


def receive(db: Database, webhook: bytes) -> str:
    return inbox.receive(db, webhook, mode="sandbox", now=NOW).outcome


def disputed(
    minutes: float | None, user: str = "usr_ana", transaction: str = "txn_1", **more: Any
) -> bytes:
    return body("payment.disputed", minutes, **_dispute(user, transaction), **more)


def resolved(
    minutes: float | None,
    outcome: str,
    user: str = "usr_ana",
    transaction: str = "txn_1",
    **more: Any,
) -> bytes:
    data = _dispute(user, transaction) | {"outcome": outcome}
    return body("payment.dispute_resolved", minutes, **data, **more)


def _dispute(user: str, transaction: str) -> dict[str, Any]:
    return {
        "customerId": user, "paymentTransactionId": transaction, "invoiceId": "inv_1",
        "subscriptionId": "sub_usr_ana", "disputeAmount": 2900, "currency": "usd",
        "disputeReason": "fraudulent", "provider": "commet", "paymentLinkId": None,
        "invoiceNumber": "INV-1",
    }  # fmt: skip


def failed(minutes: float, invoice: str = "inv_1", url: str = URL) -> bytes:
    return body(
        "payment.failed", minutes, customerId="usr_ana", subscriptionId="sub_usr_ana",
        invoiceId=invoice, failureCode="card_declined", recoveryUrl=url,
    )  # fmt: skip


def about_invoice(event: str, minutes: float, **more: Any) -> bytes:
    return body(
        event, minutes, customerId="usr_ana", subscriptionId="sub_usr_ana", invoiceId="inv_1",
        **more,
    )  # fmt: skip


def rows(db: Database, user: str = "usr_ana") -> list[Row]:
    return db.all(
        "select kind, about, amount, currency, reason, recovery_url, outcome, opened_at,"
        " resolved_at, changed_at from payment_trouble where user_id = %s order by kind, about",
        [user],
    )


def has_dispute(db: Database, user: str = "usr_ana") -> bool:
    return troubles.has_open_dispute(db, user)


@pytest.fixture
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


@pytest.mark.usefixtures("ana")
class TestDispute:
    def test_from_its_beginning_to_its_end(self, db: Database) -> None:
        """An open one is said with the user; its end is kept with the amount."""
        assert receive(db, disputed(1)) == "applied"
        assert has_dispute(db)
        assert rows(db)[0] | {"changed_at": None} == {
            "kind": "dispute", "about": "txn_1", "amount": Decimal(29), "currency": "usd",
            "reason": "fraudulent", "recovery_url": None, "outcome": None,
            "opened_at": moment(1), "resolved_at": None, "changed_at": None,
        }  # fmt: skip
        assert receive(db, resolved(2, "lost")) == "applied"
        assert not has_dispute(db)
        (row,) = rows(db)
        assert (row["outcome"], row["resolved_at"], row["amount"]) == ("lost", moment(2), 29)
        assert row["opened_at"] == moment(1)

    @pytest.mark.parametrize(
        ("webhooks", "outcome"),
        [
            ([disputed(1), resolved(2, "won")], "won"),
            ([disputed(1), resolved(2, "lost"), resolved(3, "won")], "won"),
            ([disputed(1), resolved(2, "won"), disputed(3)], None),
            ([disputed(1), disputed(2), resolved(3, "lost")], "lost"),
            # Of one moment: an end counts more than a beginning.
            ([disputed(1), resolved(1, "lost")], "lost"),
            ([disputed(1), resolved(2, "won"), resolved(2, "lost")], "won"),
            # Without a time, it is no newer than anything.
            ([disputed(1), resolved(None, "won")], None),
            ([disputed(None), resolved(None, "won"), disputed(None)], "won"),
        ],
    )
    def test_in_every_order(
        self, db: Database, webhooks: Sequence[bytes], outcome: str | None
    ) -> None:
        """The row ends the same in whichever order its webhooks come, each of them twice."""
        ends = []
        orders = list(permutations(webhooks))
        assert len(orders) > 1
        for order in orders:
            db.execute("delete from payment_trouble")
            db.execute("delete from webhooks")
            db.execute("update users set has_dispute = false")
            for webhook in [*order, *reversed(order)]:
                receive(db, webhook)
            (row,) = rows(db)
            assert row["outcome"] == outcome
            assert has_dispute(db) is (outcome is None)
            ends.append(tuple(row.values()))
        dated = all(b'"timestamp": null' not in each for each in webhooks)
        assert len(set(ends)) == 1 or not dated

    def test_two_at_a_time(self, db: Database) -> None:
        """Each is told apart; the user is free when the last one has ended."""
        for transaction in ("txn_1", "txn_2"):
            receive(db, disputed(1, transaction=transaction))
        receive(db, resolved(2, "won", transaction="txn_1"))
        assert has_dispute(db)
        receive(db, resolved(3, "won", transaction="txn_2"))
        assert not has_dispute(db)

    def test_beginnings_and_ends_that_meet(self, race: Race, db: Database) -> None:
        """The second one waits for the first, so what is said of the user agrees with the rows."""
        receive(db, disputed(1, transaction="txn_1"))
        race.first(lambda mine: receive(mine, resolved(3, "won", transaction="txn_1")))
        other = race.second(lambda mine: receive(mine, disputed(2, transaction="txn_2")))
        assert other.waits
        race.commit()
        assert other.answer == "applied"
        assert has_dispute(db)
        assert [row["outcome"] for row in rows(db)] == ["won", None]

    def test_an_end_by_hand_and_a_webhook_that_meet(self, race: Race, db: Database) -> None:
        """An operator does not overwrite the outcome that a webhook is just bringing."""
        receive(db, disputed(1))
        race.first(lambda mine: receive(mine, resolved(3, "lost")))
        other = race.second(
            lambda mine: disputes.resolve(
                mine, user_id="usr_ana", transaction_id="txn_1", outcome="won", now=NOW
            )
        )
        race.commit()
        assert other.answer is False
        assert [row["outcome"] for row in rows(db)] == ["lost"]

    def test_ended_by_hand(self, db: Database) -> None:
        """Once; and news from before that does not open it again, while later news does."""
        receive(db, disputed(1))

        def end() -> bool:
            return disputes.resolve(
                db, user_id="usr_ana", transaction_id="txn_1", outcome="won", now=moment(5)
            )

        assert (end(), end(), has_dispute(db)) == (True, False, False)
        receive(db, disputed(4))
        assert not has_dispute(db)
        receive(db, disputed(6))
        assert has_dispute(db)

    def test_ended_by_hand_before_our_clock_has_come_so_far(self, db: Database) -> None:
        """Commet's clock may be ahead of ours."""
        receive(db, disputed(5))
        assert disputes.resolve(
            db, user_id="usr_ana", transaction_id="txn_1", outcome="won", now=moment(1)
        )
        assert not has_dispute(db)


class TestWhoseItIs:
    def test_a_user_who_appears_later(self, db: Database) -> None:
        """The webhook waits, and counts when the user has been linked to the customer."""
        user = add_user(db)
        assert receive(db, disputed(1, user="cus_1")) == "ignored"
        assert not has_dispute(db, user)
        db.execute("update users set commet_customer_id = 'cus_1' where id = %s", [user])
        done = inbox.retry_failed(
            db, mode="sandbox", clock=lambda: NOW, deadline=Deadline.after(20)
        )
        assert done == {"applied": 1}
        assert has_dispute(db, user)
        assert len(rows(db, user)) == 1

    def test_nobody(self, db: Database) -> None:
        """A payment that belongs to no customer changes nothing."""
        data = _dispute("x", "txn_1") | {"customerId": None}
        assert receive(db, body("payment.disputed", 1, **data)) == "ignored"

    def test_the_other_mode(self, db: Database, ana: str) -> None:
        """A dispute of Commet's sandbox does not concern the live stack, nor the other way."""
        assert receive(db, disputed(1, mode="live")) == "ignored"
        assert not has_dispute(db, ana)

    def test_a_type_that_nobody_knows(self, db: Database, ana: str) -> None:
        data = _dispute(ana, "txn_1")
        assert receive(db, body("payment.dispute_teleported", 1, **data)) == "ignored"
        assert rows(db) == []


class TestCounting:
    @pytest.mark.parametrize(
        ("webhook", "metric"),
        [
            (disputed(1), "DisputesOpened"),
            (resolved(1, "lost"), "DisputesLost"),
            (failed(1), "PaymentsFailed"),
            (about_invoice("invoice.voided", 1), "InvoicesVoided"),
            (body("payment.refunded", 1, **_dispute("usr_ana", "txn_1")), "PaymentsRefunded"),
        ],
    )
    def test_once_for_each_webhook(
        self, db: Database, ana: str, capsys: pytest.CaptureFixture[str], webhook: bytes,
        metric: str,
    ) -> None:  # fmt: skip
        assert ana
        for _ in range(2):
            receive(db, webhook)
        written = capsys.readouterr().out
        assert written.count(f'"{metric}":[1.0]') == 1
        assert '"service":"payments"' in written

    @pytest.mark.parametrize("webhook", [resolved(1, "won"), about_invoice("invoice.overdue", 1)])
    def test_what_nobody_has_to_act_on(
        self, db: Database, ana: str, capsys: pytest.CaptureFixture[str], webhook: bytes
    ) -> None:
        assert ana
        receive(db, webhook)
        assert "payments" not in capsys.readouterr().out

    def test_when_it_is_applied_later(
        self, db: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not when it came, and not twice."""
        receive(db, disputed(1))
        assert "DisputesOpened" not in capsys.readouterr().out
        add_user(db, "usr_ana")
        for _ in range(2):
            inbox.retry_failed(db, mode="sandbox", clock=lambda: NOW, deadline=Deadline.after(20))
        assert capsys.readouterr().out.count('"DisputesOpened":[1.0]') == 1

    def test_a_payment_of_nobody(self, db: Database, capsys: pytest.CaptureFixture[str]) -> None:
        """No user will ever appear for it, so it is counted at once; but not in the other mode."""
        data = _dispute("x", "txn_1") | {"customerId": None}
        receive(db, body("payment.disputed", 1, mode="live", **data))
        assert "DisputesOpened" not in capsys.readouterr().out
        receive(db, body("payment.disputed", 1, **data))
        assert '"DisputesOpened":[1.0]' in capsys.readouterr().out


class TestGivenUp:
    @pytest.mark.parametrize("late", [False, True])
    def test_the_invoice_may_be_a_debt(
        self, db: Database, subscribe: Subscribe, late: object
    ) -> None:
        """Also of a subscription that runs: it may have ended and begun anew before we heard."""
        subscribe(status="active")
        webhooks = [failed(1), about_invoice("payment.retry_failed", 3)]
        for webhook in webhooks[::-1] if late else webhooks:
            receive(db, webhook)
        (debt,) = db.all("select kind, source, amount, due_at is not null as read from debt")
        assert debt == {
            "kind": "voided_invoice", "source": "inv_1", "amount": None, "read": True,
        }  # fmt: skip

    def test_a_payment_that_was_made_up_for(self, db: Database, subscribe: Subscribe) -> None:
        subscribe(status="past_due")
        for webhook in (failed(1), about_invoice("payment.recovered", 3)):
            receive(db, webhook)
        assert db.all("select * from debt") == []


class TestShown:
    def test_a_failed_renewal(self, db: Database, subscribe: Subscribe) -> None:
        """With the page to pay on; the amount is in the webhook that says it is overdue."""
        subscribe(status="past_due")
        receive(db, failed(1))
        shown = OpenTrouble("failed_payment", moment(1), None, None, URL)
        assert troubles.open_of_user(db, "usr_ana") == shown
        receive(db, about_invoice("invoice.overdue", 2, total=2900, currency="usd"))
        assert troubles.open_of_user(db, "usr_ana") == OpenTrouble(
            "failed_payment", moment(1), Decimal(29), "usd", URL
        )

    @pytest.mark.parametrize("end", ["payment.recovered", "payment.retry_failed", "invoice.voided"])
    @pytest.mark.parametrize("late", [False, True])
    def test_until_it_has_ended(
        self, db: Database, subscribe: Subscribe, end: str, late: object
    ) -> None:
        """Whichever webhook says so, and if it comes before the others, too."""
        subscribe(status="past_due")
        trouble = [failed(1), about_invoice("invoice.overdue", 2, total=2900, currency="usd")]
        over = about_invoice(end, 3, total=2900, currency="usd")
        for webhook in [over, *trouble] if late else [*trouble, over]:
            receive(db, webhook)
        assert troubles.open_of_user(db, "usr_ana") is None

    @pytest.mark.parametrize("status", ["active", "trialing", "canceled", "pending_payment"])
    def test_only_while_the_subscription_is_past_due(
        self, db: Database, subscribe: Subscribe, status: str
    ) -> None:
        """Nobody who has paid is asked to pay because a webhook was lost."""
        subscribe(status=status)
        receive(db, failed(1))
        receive(db, about_invoice("invoice.overdue", 2, total=2900, currency="usd"))
        assert troubles.open_of_user(db, "usr_ana") is None

    def test_the_newest_page_to_pay_on(self, db: Database, subscribe: Subscribe) -> None:
        """Each try may bring another link; an older webhook does not bring its link back."""
        subscribe(status="past_due")
        receive(db, failed(2, url=f"{URL}/second"))
        receive(db, failed(1))
        shown = troubles.open_of_user(db, "usr_ana")
        assert shown is not None
        assert (shown.recovery_url, shown.since) == (f"{URL}/second", moment(1))

    @pytest.mark.usefixtures("ana")
    def test_a_dispute(self, db: Database) -> None:
        receive(db, disputed(1))
        shown = OpenTrouble("dispute", moment(1), Decimal(29), "usd", None)
        assert troubles.open_of_user(db, "usr_ana") == shown

    @pytest.mark.usefixtures("ana")
    def test_what_is_over_when_it_is_said(self, db: Database) -> None:
        """Refunds and payment links are kept, and ask nothing of the user."""
        receive(db, body("payment.refunded", 1, **_dispute("usr_ana", "txn_1")))
        receive(
            db,
            body("payment_link.created", 1, customerId="usr_ana", paymentId="pay_1",
                 amount=500, currency="jpy"),
        )  # fmt: skip
        assert troubles.open_of_user(db, "usr_ana") is None
        assert [(r["kind"], r["amount"], r["outcome"]) for r in rows(db)] == [
            ("payment_link", Decimal(500), None),
            ("refund", None, "refunded"),
        ]


class TestLease:
    @pytest.mark.usefixtures("ana")
    def test_the_oldest_first_and_once_a_day(self, db: Database) -> None:
        """Only disputes that no webhook was about for a day."""
        receive(db, disputed(2, transaction="txn_2"))
        receive(db, disputed(1, transaction="txn_1"))
        receive(db, disputed(3, transaction="txn_3"))
        now = moment(2) + disputes.ASK_AFTER
        found = [disputes.lease_oldest(db, now=now) for _ in range(3)]
        assert [each and each.transaction_id for each in found] == ["txn_1", "txn_2", None]
        assert found[0] is not None
        disputes.unlease(db, found[0])
        again = disputes.lease_oldest(db, now=now)
        assert again == found[0]
        later = disputes.lease_oldest(db, now=now + timedelta(days=1))
        assert later == found[0]

    @pytest.mark.usefixtures("ana")
    def test_another_run_takes_the_next_one(self, race: Race, db: Database) -> None:
        """Two runs never ask about the same dispute, and none waits for the other."""
        for transaction in ("txn_1", "txn_2"):
            receive(db, disputed(1, transaction=transaction))
        now = moment(1) + disputes.ASK_AFTER
        first = race.first(lambda mine: disputes.lease_oldest(mine, now=now))
        other = race.second(lambda mine: disputes.lease_oldest(mine, now=now))
        waited = other.waits
        race.commit()
        assert not waited
        assert first is not None
        assert other.answer is not None
        assert {first.transaction_id, other.answer.transaction_id} == {"txn_1", "txn_2"}

    @pytest.mark.usefixtures("ana")
    def test_news_since_the_lease(self, db: Database) -> None:
        """Commet's answer says nothing about a dispute that was opened again meanwhile."""
        receive(db, disputed(1))
        leased = disputes.lease_oldest(db, now=moment(1) + disputes.ASK_AFTER)
        assert leased is not None
        receive(db, disputed(2))
        assert not disputes.end(db, leased, outcome="won", now=NOW)
        assert has_dispute(db)
