"""Webhooks about payments: what each says, and that nothing Commet signs can hurt."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.payments import from_webhook
from billing.payments.from_webhook import News, news_of
from billing.subscriptions.from_webhook import change_of, parse
from tests.unit.billing.subscriptions.test_from_webhook import (
    AT,
    envelope,
    json_values,
    storable,
)

INVOICE = {"invoiceId": "inv_1", "invoiceNumber": "INV-1", "subscriptionId": "sub_1"}
TRANSACTION = INVOICE | {"paymentTransactionId": "txn_1", "paymentLinkId": None}
LINK = {"paymentId": "pay_1", "amount": 5000, "currency": "usd", "description": "Ana's"}
IDS = {"invoice_id": "inv_1", "subscription_id": "sub_1"}
TRANSACTION_IDS = IDS | {"transaction_id": "txn_1"}
MONEY = {"amount": "29.000000", "currency": "usd"}
LINK_KNOWN = {"payment_link_id": "pay_1", "amount": "50.000000", "currency": "usd"}


class TestNews:
    @pytest.mark.parametrize(
        ("event", "data", "news"),
        [
            ("payment.failed",
             INVOICE | {"failureCode": "card_declined", "failureMessage": "Ana's card",
                        "recoveryUrl": "https://pay.example/r/1"},
             News("failed_payment", "inv_1",
                  IDS | {"outcome": None, "reason": "card_declined",
                         "recovery_url": "https://pay.example/r/1"})),
            ("payment.recovered", INVOICE | {"invoiceTotal": 2900},
             News("failed_payment", "inv_1", IDS | {"outcome": "recovered"})),
            ("payment.retry_failed", INVOICE | {"reason": "dunning_exhausted"},
             News("failed_payment", "inv_1", IDS | {"outcome": "given_up"})),
            ("payment.refunded", TRANSACTION | {"refundAmount": 2900, "currency": "USD"},
             News("refund", "txn_1", TRANSACTION_IDS | MONEY | {"outcome": "refunded"})),
            ("payment.disputed",
             TRANSACTION | {"disputeAmount": 2900, "currency": "usd",
                            "disputeReason": "fraudulent"},
             News("dispute", "txn_1",
                  TRANSACTION_IDS | MONEY | {"outcome": None, "reason": "fraudulent"})),
            ("payment.dispute_resolved",
             TRANSACTION | {"disputeAmount": 2900, "currency": "usd", "disputeReason": None,
                            "outcome": "lost"},
             News("dispute", "txn_1", TRANSACTION_IDS | MONEY | {"outcome": "lost"})),
            ("invoice.overdue", INVOICE | {"total": 2900, "currency": "usd"},
             News("unpaid_invoice", "inv_1", IDS | MONEY | {"outcome": None})),
            ("invoice.voided", INVOICE | {"total": 2900, "currency": "usd"},
             News("unpaid_invoice", "inv_1", IDS | MONEY | {"outcome": "voided"})),
            ("payment_link.created", LINK,
             News("payment_link", "pay_1", LINK_KNOWN | {"outcome": None})),
            ("payment_link.failed", LINK | {"failureCode": "expired_card"},
             News("payment_link", "pay_1",
                  LINK_KNOWN | {"outcome": None, "reason": "expired_card"})),
            ("payment_link.canceled", LINK,
             News("payment_link", "pay_1", LINK_KNOWN | {"outcome": "canceled"})),
            ("payment_link.completed",
             LINK | {"invoiceId": "inv_1", "paymentTransactionId": "txn_1"},
             News("payment_link", "pay_1",
                  LINK_KNOWN | {"outcome": "completed", "invoice_id": "inv_1",
                                "transaction_id": "txn_1"})),
        ],
    )  # fmt: skip
    def test_what_it_says(self, event: str, data: dict[str, Any], news: News) -> None:
        """Ids, amounts in major units, codes and states; no sentence and no name."""
        assert news_of(event, data) == news

    def test_all_types_are_read(self) -> None:
        """Those that the product promises to handle."""
        assert set(from_webhook.HANDLED) == {
            "payment.failed", "payment.recovered", "payment.retry_failed", "payment.refunded",
            "payment.disputed", "payment.dispute_resolved", "invoice.overdue", "invoice.voided",
            "payment_link.created", "payment_link.failed", "payment_link.canceled",
            "payment_link.completed",
        }  # fmt: skip

    @pytest.mark.parametrize("event", from_webhook.HANDLED)
    @pytest.mark.parametrize("value", [None, "", 7, [], {}, "a\x00", "\ud800", "x" * 501])
    def test_without_an_id(self, event: str, value: object) -> None:
        """It could not be told from other trouble."""
        data = {"invoiceId": value, "paymentTransactionId": value, "paymentId": value}
        assert news_of(event, data) is None

    @pytest.mark.parametrize(
        ("amount", "currency", "known"),
        [
            (500, "jpy", ("500.000000", "jpy")),
            (1234, "KWD", ("1.234000", "kwd")),
            (0, "usd", ("0.000000", "usd")),
            ("2900.5", "usd", ("29.005000", "usd")),
            (-2900, "usd", (None, "usd")),
            (10**15, "usd", (None, "usd")),
            (True, "usd", (None, "usd")),
            (None, "usd", (None, "usd")),
            (2900, None, (None, None)),
            (2900, "dollars", (None, None)),
            (2900, "ﬀi", (None, None)),
        ],
    )
    def test_money(
        self, amount: object, currency: object, known: tuple[str | None, str | None]
    ) -> None:
        """In major units of its currency. Without the currency the amount is not known."""
        data = TRANSACTION | {"disputeAmount": amount, "currency": currency}
        found = news_of("payment.disputed", data)
        assert found is not None
        assert (found.known.get("amount"), found.known.get("currency")) == known

    @pytest.mark.parametrize("outcome", ["closed", None, 7, ["won"], ""])
    def test_an_outcome_that_the_contract_does_not_know(self, outcome: object) -> None:
        """The dispute is over all the same."""
        found = news_of("payment.dispute_resolved", TRANSACTION | {"outcome": outcome})
        assert found is not None
        assert found.known["outcome"] == "unknown"

    @pytest.mark.parametrize("url", ["javascript:alert(1)", "//pay.example", "x", 7, None, ""])
    def test_what_is_no_page_to_pay_on(self, url: object) -> None:
        """People are sent to web addresses only."""
        found = news_of("payment.failed", INVOICE | {"recoveryUrl": url})
        assert found is not None
        assert "recovery_url" not in found.known

    def test_a_webhook_without_a_time(self) -> None:
        """It is kept, and marked as possibly old."""
        body = envelope("payment.disputed", TRANSACTION | {"customerId": "usr_1"}, timestamp=None)
        found = change_of(parse(body))
        assert found is not None
        assert found.payment is not None
        assert found.payment["dated"] is False


FIELDS = [*TRANSACTION, *LINK, "disputeAmount", "refundAmount", "total", "disputeReason",
          "outcome", "recoveryUrl", "failureCode", "currency"]  # fmt: skip


class TestHostileWebhooks:
    @settings(max_examples=300)
    @given(
        event=st.sampled_from(from_webhook.HANDLED),
        data=st.dictionaries(
            st.sampled_from(FIELDS), json_values | st.sampled_from(["usd", "won"]), min_size=4
        ),
        timestamp=st.sampled_from([AT]) | json_values,
    )
    def test_it_can_be_stored(self, event: str, data: dict[str, Any], timestamp: object) -> None:
        """Whatever Commet signs is read without an error, into values that Postgres can hold."""
        body = envelope(event, data | {"customerId": "usr_1"}, timestamp=timestamp)
        found = change_of(parse(body))
        if found is not None and found.payment is not None:
            assert storable(found.parameter().obj)
            known = found.payment["known"]
            assert {key for key, value in known.items() if value is None} <= {"outcome"}
            if "amount" in known:
                assert 0 <= Decimal(known["amount"]) < 10**15
                assert known["currency"].islower()
