"""What `make show` prints."""

import io
from typing import Any

import pytest
from rich.console import Console

from local.shown_user import draw

USER = "usr_" + "a" * 32
DELIVERY = "dlv_" + "b" * 36
WEBHOOK = "whev_" + "c" * 30
SUBSCRIPTION = "sub_" + "d" * 20
TRANSACTION = "txn_" + "e" * 20
CUSTOMER = "cus_" + "f" * 20
RECOVERY = "http://127.0.0.1:3001/recover/tok_CD19x7BYb8M8Ow2ldIj1Yzowyd16DOJc"
NOW = "2026-11-29T21:51:59.657123+00:00"

FOUND: dict[str, Any] = {
    "user": {
        "id": USER, "email": "somebody.with.a.long.name@a-long-domain.example.com",
        "own_account": True, "verified_at": NOW, "same_address": [USER + str(n) for n in range(3)],
        "commet_customer_id": CUSTOMER,
    },
    "now": NOW,
    "subscriptions": [
        {
            "id": SUBSCRIPTION, "status": "trialing", "current": True, "plan_name": "Team " * 20,
            "billing_interval": "monthly", "period_start": NOW, "period_end": NOW,
            "cancel_at_period_end": False, "trial_ends_at": NOW, "created_at": NOW,
            "scheduled_change": {"plan_id": "pln_" + "g" * 30, "plan_name": "Usage Max"},
            "changed_at": NOW, "confirmed_at": None, "checked_at": None, "refresh_due": NOW,
            "recheck_at": NOW, "version": 7,
        }
    ],
    "entitlements": [
        {
            "feature": "storage_in_a_far_away_region", "allowed": True, "included": "100",
            "unlimited": False, "overage_enabled": True, "unit_price": "0.09", "currency": "eur",
        }
    ],
    "periods": [
        {
            "id": 1, "starts_at": NOW, "ends_at": NOW, "closed_at": None,
            "usage": {"storage": {"total": "30", "claimed": "12.5"}},
        }
    ],
    "deliveries": [
        {
            "event_id": DELIVERY, "state": "parked", "reason": "lost_to_cancellation",
            "quantity": "12.5", "attempts": 3, "due_at": NOW, "amount": "1.125", "currency": "eur",
        }
    ],
    "drift": [
        {
            "feature": "storage", "period": 1, "ours": "30", "theirs": "31", "found_at": NOW,
            "checked_at": NOW, "repair": "refused", "reason": "in_doubt",
        }
    ],
    "payments": [
        {
            "kind": "failed_payment", "about": "inv_" + "h" * 20, "amount": "19.00",
            "currency": "eur", "reason": "card_declined", "opened_at": NOW, "resolved_at": None,
            "outcome": None, "recovery_url": RECOVERY,
        }
    ],
    "debts": [
        {
            "id": 7, "kind": "unpaid_overage", "source": "inv_" + "i" * 20, "amount": "12.34",
            "currency": "eur", "opened_at": NOW, "ended_at": None, "ended_by": None,
        }
    ],
    "debt_links": [
        {
            "id": 3, "state": "offered", "debts": [7, 8], "total": "12.34", "currency": "eur",
            "transaction_id": TRANSACTION, "overpaid": "0.00",
        }
    ],
    "webhooks": [
        {
            "occurred_at": NOW, "status": "dead", "id": WEBHOOK, "type": "customer.state_changed",
            "error": "KeyError: 'a field that nobody expected, told in very many words, again and"
            " again'",
        }
    ],
    "outgoing_events": [
        {
            "occurred_at": NOW, "type": "usage.threshold_reached", "sequence": 12,
            "id": "0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11", "waiting": 1, "failed": 0,
            "data": {"feature": "storage", "threshold": {"percent": "80"}},
        }
    ],
    "audit": [
        {"at": NOW, "action": "command", "outcome": "done", "actor_kind": "operator",
         "actor": "ann", "note": "ticket 17, asked by phone and then once more by mail"}
    ],
    "contact": None,
    "checkout": {"attempt": 1, "subscription_id": SUBSCRIPTION, "started_at": NOW},
    "would_do": [f"ask Commet about {SUBSCRIPTION} at {NOW}: it is in doubt"],
}  # fmt: skip


def drawn(width: int) -> list[str]:
    output = io.StringIO()
    draw(Console(file=output, width=width, highlight=False, soft_wrap=True), FOUND)
    return output.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_it_fits_and_what_people_type_is_whole(width: int) -> None:
    lines = drawn(width)
    assert max(map(len, lines)) <= min(width, 100)
    words = {word for line in lines for word in line.split()}
    assert {USER, DELIVERY, WEBHOOK, SUBSCRIPTION, TRANSACTION, CUSTOMER, RECOVERY} <= words
    assert {"parked", "lost_to_cancellation", "storage_in_a_far_away_region"} <= words


def test_money_is_money_and_times_are_short() -> None:
    text = "\n".join(drawn(80))
    assert "unit price 0.09  currency eur" in text
    assert "amount 12.34  currency eur" in text
    assert "2026-11-29 21:51:59" in text
    assert "657123" not in text.split("reconcile will do")[0]


def test_a_part_without_rows_says_so() -> None:
    output = io.StringIO()
    empty: dict[str, Any] = {name: [] for name, value in FOUND.items() if isinstance(value, list)}
    console = Console(file=output, width=80, highlight=False, soft_wrap=True)
    draw(console, FOUND | empty | {"checkout": None, "would_do": ["nothing"]})
    assert "webhooks  none" in output.getvalue()
