"""What is due next."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from standin.deadlines import next_deadline
from standin.models import Allowance, Cancellation, Dunning, Pause, Subscription

START = datetime(2026, 9, 1, tzinfo=UTC)
END = datetime(2026, 10, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def _subscription(**changes: Any) -> Subscription:
    facts: dict[str, Any] = {
        "id": "sub_1",
        "customer_id": "cus_1",
        "plan_id": "pln_1",
        "price_id": "pp_1",
        "billing_interval": "monthly",
        "name": "Plan",
        "status": "active",
        "start_date": START,
        "created_at": START,
        "updated_at": START,
        "anchor_day": 1,
        "period_start": START,
        "period_end": END,
        "allowance": Allowance(id="alw_1", start=START, end=END),
    }
    return Subscription.model_validate(facts | changes)


def _next(**changes: Any) -> tuple[str, datetime] | None:
    deadline = next_deadline(_subscription(**changes))
    return (deadline.kind, deadline.at) if deadline else None


def _cancellation() -> Cancellation:
    return Cancellation(scheduled_at=START, reason=None, effective_at=END)


def test_a_notice_comes_before_the_renewal() -> None:
    """Three days ahead, once."""
    assert _next() == ("notice", END - 3 * DAY)
    assert _next(upcoming_noted=True) == ("renewal", END)


def test_a_renewal_comes_before_the_end_of_its_allowance() -> None:
    """At the same instant the renewal bills the allowance itself."""
    assert _next(upcoming_noted=True) == ("renewal", END)


def test_a_month_within_a_year() -> None:
    """The allowance ends long before the period."""
    year = END + 365 * DAY
    assert _next(period_end=year) == ("allowance_end", END)


def test_a_scheduled_cancellation_takes_the_place_of_the_renewal() -> None:
    """Without a notice of an invoice that will never come."""
    assert _next(cancellation=_cancellation()) == ("cancellation", END)


def test_a_booked_free_plan_has_no_invoice_to_announce() -> None:
    """Any other plan has."""
    change = {"kind": "plan_downgrade", "plan_id": "pln_2", "billing_interval": None}
    assert _next(scheduled_change=change | {"price_id": None}) == ("renewal", END)
    assert _next(scheduled_change=change | {"price_id": "pp_2"}) == ("notice", END - 3 * DAY)


@pytest.mark.parametrize(("attempts", "day"), [(0, 1), (1, 3), (2, 5), (3, 7)])
def test_dunning_days(attempts: int, day: int) -> None:
    """Counted from the first decline."""
    dunning = Dunning(invoice_id="inv_1", declined_at=START, attempts=attempts)
    assert _next(status="past_due", dunning=dunning) == ("dunning_retry", START + day * DAY)


def test_a_trial_ends_before_anything_is_renewed() -> None:
    """Its end is what matters, and its notice."""
    ends = START + 14 * DAY
    trial = {"status": "trialing", "trial_ends_at": ends}
    assert _next(**trial) == ("notice", ends - 3 * DAY)
    assert _next(**trial, upcoming_noted=True) == ("trial_end", ends)


def test_a_trial_too_short_for_a_notice_has_none() -> None:
    """It would come before the trial itself."""
    ends = START + 2 * DAY
    trial = {"status": "trialing", "trial_ends_at": ends, "period_end": ends}
    assert _next(**trial) == ("trial_end", ends)


def test_a_pause_does_not_make_a_short_trial_longer() -> None:
    """It is moved, and still too short for a notice, which would be due in the past."""
    ends = START + 5 * DAY
    trial = {"status": "trialing", "trial_ends_at": ends, "period_end": ends}
    assert _next(**trial, paused_for=3 * DAY) == ("trial_end", ends)


def _pause(status: str, resume_at: datetime | None) -> Pause:
    return Pause.model_validate(
        {
            "status": status,
            "mode": "period_end",
            "requested_at": START,
            "effective_at": END,
            "resume_at": resume_at,
        }
    )


def test_a_scheduled_pause_takes_the_place_of_the_renewal() -> None:
    """Without a notice of an invoice that will never come."""
    assert _next(pause=_pause("scheduled", None)) == ("pause", END)


def test_a_pause_ends_when_it_should() -> None:
    """By itself, by hand, or by the retries of a charge that was declined."""
    later = END + 9 * DAY
    assert _next(status="paused", pause=_pause("active", later)) == ("resume", later)
    assert _next(status="paused", pause=_pause("active", None)) is None
    dunning = Dunning(invoice_id="inv_1", declined_at=later)
    tried = _next(status="paused", pause=_pause("active", later), dunning=dunning)
    assert tried == ("dunning_retry", later + DAY)


@pytest.mark.parametrize("status", ["pending_payment", "canceled", "paused", "draft"])
def test_without_access_time_changes_nothing(status: str) -> None:
    """Nothing is due."""
    assert _next(status=status) is None


def test_a_free_plan_renews_without_notice() -> None:
    """There is no invoice to announce."""
    assert _next(price_id=None, billing_interval=None) == ("renewal", END)
