"""Billing periods and allowances: start inclusive, end exclusive, UTC."""

from datetime import datetime, timedelta

from standin.clock import add_months
from standin.ids import new_id
from standin.models import Allowance, Subscription

_MONTHS = {"monthly": 1, "quarterly": 3, "semiannual": 6, "yearly": 12}
_KEPT = 12
WEEK = timedelta(days=7)


def period_end(start: datetime, interval: str | None, anchor_day: int) -> datetime | None:
    """Returns when a period that begins at `start` ends; None for one-time plans, which have no
    periods.

    Free plans have no interval. Their periods are months.
    """
    if interval == "one_time":
        return None
    if interval == "weekly":
        return start + WEEK
    return add_months(start, _MONTHS[interval or "monthly"], anchor_day)


def open_period(sub: Subscription, start: datetime) -> None:
    """Begin a billing period, and its first allowance."""
    sub.period_start = start
    sub.period_end = period_end(start, sub.billing_interval, sub.anchor_day)
    sub.paused_for = timedelta(0)
    sub.upcoming_noted = False
    open_allowance(sub, start)


def close_allowance(sub: Subscription) -> None:
    """Remember the allowance before it is replaced."""
    if sub.allowance:
        sub.past_allowances = [*sub.past_allowances, sub.allowance.model_copy()][-_KEPT:]


def open_allowance(sub: Subscription, start: datetime) -> None:
    """Begin an allowance: a week on weekly plans, else a month, never past the period's end."""
    weekly = sub.billing_interval == "weekly"
    end = start + WEEK if weekly else add_months(start, 1, sub.anchor_day)
    if sub.period_end:
        end = min(end, sub.period_end)
    close_allowance(sub)
    sub.allowance = Allowance(id=new_id("alw"), start=start, end=end)
