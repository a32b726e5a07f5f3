"""Billing periods and allowances on real calendars."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standin.clock import add_months
from standin.models import Subscription
from standin.periods import open_allowance, open_period, period_end


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _subscription(interval: str | None, anchor_day: int) -> Subscription:
    now = _day("2026-01-31")
    return Subscription(
        id="sub_1",
        customer_id="cus_1",
        plan_id="pln_1",
        price_id="pp_1",
        billing_interval=interval,
        name="Plan",
        status="active",
        start_date=now,
        created_at=now,
        updated_at=now,
        anchor_day=anchor_day,
    )


class TestPeriodEnd:
    @pytest.mark.parametrize(
        ("start", "interval", "anchor", "end"),
        [
            ("2026-01-31", "monthly", 31, "2026-02-28"),
            ("2026-02-28", "monthly", 31, "2026-03-31"),
            ("2028-01-31", "monthly", 31, "2028-02-29"),
            ("2026-12-15", "monthly", 15, "2027-01-15"),
            ("2026-11-30", "quarterly", 30, "2027-02-28"),
            ("2026-08-31", "semiannual", 31, "2027-02-28"),
            ("2028-02-29", "yearly", 29, "2029-02-28"),
            ("2026-12-30", "weekly", 30, "2027-01-06"),
            ("2026-05-05", None, 5, "2026-06-05"),
        ],
    )
    def test_lands_on_the_anchor_day(
        self, start: str, interval: str | None, anchor: int, end: str
    ) -> None:
        """Or on the last day of a month that is too short, without losing the anchor."""
        assert period_end(_day(start), interval, anchor) == _day(end)

    def test_one_time_has_none(self) -> None:
        """It is paid once and never renewed."""
        assert period_end(_day("2026-01-01"), "one_time", 1) is None


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(1, 60),
)
def test_months_add_up(start: datetime, months: int) -> None:
    """Month by month comes to the same as all at once."""
    step = start
    for _ in range(months):
        step = add_months(step, 1, start.day)
    assert step == add_months(start, months, start.day)


@pytest.mark.parametrize("interval", ["weekly", "monthly", "quarterly", "semiannual", "yearly"])
def test_allowances_tile_the_period(interval: str) -> None:
    """No gap, no overlap, none past the end; each has an id of its own."""
    sub = _subscription(interval, 31)
    open_period(sub, _day("2026-01-31"))
    ids, end = set(), _day("2026-01-31")
    while sub.allowance and sub.period_end and end < sub.period_end:
        assert sub.allowance.start == end
        assert sub.allowance.end <= sub.period_end
        assert sub.allowance.end - sub.allowance.start <= timedelta(days=31)
        ids.add(sub.allowance.id)
        end = sub.allowance.end
        open_allowance(sub, end)
    assert end == sub.period_end
    assert (
        len(ids)
        == {"weekly": 1, "monthly": 1, "quarterly": 3, "semiannual": 6, "yearly": 12}[interval]
    )
