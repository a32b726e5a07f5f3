"""One banner, the worst; badges for the rest."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.http.shapes.dashboard import Dashboard
from billing.http.shapes.plans import PriceReply
from billing.pages import banners
from billing.pages.banners import Banner
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


def worst(dashboard: Dashboard, now: datetime, **others: Any) -> Banner | None:
    return next(iter(banners.notices(dashboard, now, **others)), None)


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
    ("trial_unpriced", TRIAL), ("pending", PENDING),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state"), CASES)
def test_each_state_has_its_banner(name: str, state: dict[str, Any]) -> None:
    found = worst(board(**state), NOW)
    assert found is not None
    assert found.name == name
    said = WORDS(f"banner.{name}", **found.values)
    assert "{" not in said
    assert WORDS.has(f"banner.{name}_link")


def test_a_payment_that_waits_is_gone_on_with() -> None:
    """The checkout takes the plan by the id that a subscription names."""
    found = worst(board(**PENDING), NOW)
    assert found is not None
    assert found.target == "/app/checkout?plan=pln_1"


def test_where_nothing_is_the_matter_nothing_is_said() -> None:
    assert worst(board(), NOW) is None


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
    found = worst(board(**merged), NOW)
    assert found is not None
    assert found.name == name


def test_a_feature_that_is_sold_beyond_what_is_included_is_never_used_up() -> None:
    overage = feature()["overage"] | {"enabled": True, "unit_price": "0.10"}
    assert worst(board(usage=[feature(overage=overage)]), NOW) is None


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
    found = worst(board(usage=[feature(used="4000", used_before="6000")]), NOW)
    assert found is not None
    assert (found.values["used"], found.values["included"]) == ("10,000", "10,000")


RUNS_PAST = Banner("runs_past", "warn", banners.LIMIT, {"feature": "API calls"})
UNCONFIRMED = Banner("as_of", "", "/app", {"moment": "20 November, 13:40 UTC"})
PRICE = PriceReply(
    interval="monthly", amount="29.00", currency="usd", is_default=True, trial_days=14
)


def test_notices_come_in_one_order() -> None:
    """The spend limit first, and last that Commet does not answer."""
    everything: dict[str, Any] = LIMIT | FAILED | USED_UP | DEBT
    ends = subscription(status="trialing", trial_ends_at=END, cancel_at_period_end=True)
    found = banners.notices(
        board(**everything, subscription=ends),
        NOW,
        price=PRICE,
        runs_past=RUNS_PAST,
        unconfirmed=UNCONFIRMED,
    )
    assert [each.name for each in found] == [
        "debt", "limit_reached", "failed", "used_up", "runs_past", "cancels", "trial", "as_of",
    ]  # fmt: skip
    paused = board(subscription=subscription(status="paused", cancel_at_period_end=True))
    found = banners.notices(paused, NOW, runs_past=RUNS_PAST, unconfirmed=UNCONFIRMED)
    assert [each.name for each in found] == ["runs_past", "cancels", "paused", "as_of"]


def test_a_notice_that_is_no_banner_is_a_badge() -> None:
    dashboard = board(**(LIMIT | FAILED | USED_UP), **TRIAL)
    found = banners.notices(dashboard, NOW, runs_past=RUNS_PAST, unconfirmed=UNCONFIRMED)
    badges = banners.badges(dashboard, NOW, found[1:])
    said = [WORDS(f"badge.{each.name}", **each.values) for each in badges]
    assert said == [
        "trial",
        "E-mails: used up",
        "API calls: runs past what is included",
        "plan as of 20 November, 13:40 UTC",
    ]
    first = banners.badges(dashboard, NOW, found[:1])
    assert [each.name for each in first] == ["status_trialing", "limit_reached"]


def test_a_reached_limit_names_what_pauses_and_until_when() -> None:
    sold = feature()["overage"] | {"enabled": True, "unit_price": "0.10"}
    features = [
        feature(feature=name.lower(), name=name, overage=sold, remaining=left)
        for name, left in (("Storage", "0"), ("API calls", "0"), ("Maps", "12"))
    ]
    found = worst(board(**LIMIT, usage=[*features, feature()]), NOW)
    assert found is not None
    said = str(WORDS("banner.limit_reached", **found.values)).replace("\N{NO-BREAK SPACE}", " ")
    assert "Paused until 1 December, or until you raise the limit: Storage and API calls." in said
    held = worst(board(**LIMIT, usage=features[2:]), NOW)
    assert held is not None
    assert held.values["features"] == "Maps"


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (
            END,
            "Trial: 11 days left.</strong> On 1 December Usage Pro begins to cost $29.00 a month",
        ),
        (NOW + timedelta(hours=3), "Trial: 1 day left.</strong> On 20 November Usage Pro begins"),
    ],
)
def test_a_trial_says_how_long_it_lasts_and_what_comes_then(ends: datetime, said: str) -> None:
    trial = board(subscription=subscription(status="trialing", trial_ends_at=ends))
    found = worst(trial, NOW, price=PRICE)
    assert found is not None
    assert said in str(WORDS("banner.trial", **found.values)).replace("\N{NO-BREAK SPACE}", " ")
    assert found.target == "/app/billing/cancel"
    assert WORDS("banner.trial_link") == "Cancel the trial"


def test_without_access_nothing_is_said_to_be_used_up() -> None:
    found = banners.notices(board(**PAUSED, **USED_UP), NOW)
    assert [each.name for each in found] == ["paused"]
