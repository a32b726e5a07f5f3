"""One banner, the worst; badges for the rest."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.http.shapes.dashboard import Dashboard
from billing.pages import banners
from billing.pages.words import Words
from tests.unit.cloudformation import ROOT

NOW = datetime(2026, 11, 20, 14, tzinfo=UTC)
END = NOW + timedelta(days=11)
WORDS = Words(ROOT / "functions" / "pages" / "words" / "en")


def subscription(**changes: Any) -> dict[str, Any]:
    period = {"start": NOW - timedelta(days=19), "end": END, "days_remaining": 11}
    return {
        "id": "sub_1", "status": "active", "plan": {"id": "pln_1", "name": "Usage Pro"},
        "current_period": period, "cancel_at_period_end": False, "scheduled_change": None,
        "trial_ends_at": None, "as_of": NOW,
    } | changes  # fmt: skip


def feature(**changes: Any) -> dict[str, Any]:
    return {
        "feature": "emails", "name": "E-mails", "unit": None,
        "period": {"start": NOW - timedelta(days=19), "end": END},
        "used": "10000", "held": "0", "carried": "0", "used_before": "0",
        "included": "10000", "remaining": "0", "unlimited": False,
        "overage": {"enabled": False, "quantity": "0", "unit_price": None, "cost": "0.00",
                    "currency": "usd"},
        "daily": [],
    } | changes  # fmt: skip


def board(**changes: Any) -> Dashboard:
    return Dashboard.model_validate(
        {
            "user": {"id": "usr_1", "email": "ana@b.example", "name": None},
            "access": True,
            "subscription": subscription(),
            "payment": None,
            "debt": None,
            "usage": [],
            "features": [],
            "spending": None,
        }
        | changes
    )


DEBT = {"debt": {"amount": "12.40", "currency": "usd"}}
NO_PLAN: dict[str, Any] = {"subscription": None, "access": False}
LIMIT = {"spending": {"spent": "100.00", "limit": "100.00", "set_by": "user", "currency": "usd"}}
# A user can lower the limit that the product set, and not raise it.
CEILING = {"spending": LIMIT["spending"] | {"set_by": "default"}}
FAILED = {
    "payment": {"kind": "failed_payment", "since": NOW, "amount": "32.15", "currency": "usd",
                "recovery_url": None}
}  # fmt: skip
DISPUTE = {"payment": FAILED["payment"] | {"kind": "dispute"}}
PAUSED = {"subscription": subscription(status="paused"), "access": False}
USED_UP = {"usage": [feature()]}
CANCELS = {"subscription": subscription(cancel_at_period_end=True)}
PENDING = {"subscription": subscription(status="pending_payment"), "access": False}
TRIAL = {"subscription": subscription(status="trialing", trial_ends_at=END)}

CASES = [
    ("debt", DEBT), ("no_plan", NO_PLAN), ("limit_reached", LIMIT), ("failed", FAILED),
    ("ceiling_reached", CEILING),
    ("dispute", DISPUTE), ("paused", PAUSED), ("used_up", USED_UP), ("cancels", CANCELS),
    ("trial", TRIAL), ("pending", PENDING),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state"), CASES)
def test_each_state_has_its_banner(name: str, state: dict[str, Any]) -> None:
    found = banners.worst(board(**state), NOW)
    assert found is not None
    assert found.name == name
    said = WORDS(f"banner.{name}", **found.values)
    assert "{" not in said
    assert WORDS.has(f"banner.{name}_link")


def test_a_payment_that_waits_is_gone_on_with() -> None:
    """The checkout takes the plan by the id that a subscription names."""
    found = banners.worst(board(**PENDING), NOW)
    assert found is not None
    assert found.target == "/app/checkout?plan=pln_1"


def test_where_nothing_is_the_matter_nothing_is_said() -> None:
    assert banners.worst(board(), NOW) is None


@pytest.mark.parametrize(
    ("states", "name"),
    [
        ([DEBT, NO_PLAN], "debt"),
        ([LIMIT, FAILED, CANCELS], "limit_reached"),
        ([FAILED, USED_UP, CANCELS], "failed"),
        ([USED_UP, CANCELS], "used_up"),
    ],
)
def test_the_worst_comes_first(states: list[dict[str, Any]], name: str) -> None:
    merged: dict[str, Any] = {}
    for state in states:
        merged |= state
    found = banners.worst(board(**merged), NOW)
    assert found is not None
    assert found.name == name


def test_a_feature_that_is_sold_beyond_what_is_included_is_never_used_up() -> None:
    overage = feature()["overage"] | {"enabled": True, "unit_price": "0.10"}
    assert banners.worst(board(usage=[feature(overage=overage)]), NOW) is None


def test_the_badges_name_the_state_and_its_end() -> None:
    found = banners.badges(board(**CANCELS), NOW)
    assert [badge.name for badge in found] == ["status_active", "ends"]
    assert found[1].values["day"].replace("\N{NO-BREAK SPACE}", " ") == "1 December"
    assert banners.badges(board(**NO_PLAN), NOW) == []


def test_a_plan_that_has_ended_does_not_end_again() -> None:
    ended = board(
        subscription=subscription(status="canceled", cancel_at_period_end=True), access=False
    )
    assert [badge.name for badge in banners.badges(ended, NOW)] == ["status_canceled"]


def test_what_was_used_before_is_part_of_what_is_used_up() -> None:
    found = banners.worst(board(usage=[feature(used="4000", used_before="6000")]), NOW)
    assert found is not None
    assert (found.values["used"], found.values["included"]) == ("10,000", "10,000")
