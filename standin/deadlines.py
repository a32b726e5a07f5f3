"""The next deadline of a subscription, derived from its record alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from standin.models import Subscription

NOTICE = timedelta(days=3)
DUNNING_DAYS = (1, 3, 5, 7)

Kind = Literal[
    "dunning_retry",
    "resume",
    "notice",
    "trial_end",
    "cancellation",
    "pause",
    "renewal",
    "allowance_end",
]


@dataclass(frozen=True, slots=True)
class Deadline:
    """Something to process at a point of simulated time."""

    at: datetime
    kind: Kind


def next_deadline(sub: Subscription) -> Deadline | None:
    """Returns the earliest deadline. Of two at once, the one that is listed first below."""
    candidates = _candidates(sub)
    return min(candidates, key=lambda deadline: deadline.at) if candidates else None


def _candidates(sub: Subscription) -> list[Deadline]:
    if sub.status == "paused":
        return _retry(sub) or _resume(sub)
    if not sub.has_access:
        return []
    found = _retry(sub)
    if sub.cancellation:
        found.append(Deadline(sub.cancellation.effective_at, "cancellation"))
    elif sub.pause:
        found.append(Deadline(sub.pause.effective_at, "pause"))
    elif ends := _turning_point(sub):
        if _deserves_notice(sub, ends.at):
            found.append(Deadline(ends.at - NOTICE, "notice"))
        found.append(ends)
    if sub.allowance:
        found.append(Deadline(sub.allowance.end, "allowance_end"))
    return found


def _retry(sub: Subscription) -> list[Deadline]:
    if sub.dunning is None or sub.dunning.attempts >= len(DUNNING_DAYS):
        return []
    days = DUNNING_DAYS[sub.dunning.attempts]
    return [Deadline(sub.dunning.declined_at + timedelta(days=days), "dunning_retry")]


def _resume(sub: Subscription) -> list[Deadline]:
    if sub.pause is None or sub.pause.resume_at is None:
        return []
    return [Deadline(sub.pause.resume_at, "resume")]


def _deserves_notice(sub: Subscription, ends_at: datetime) -> bool:
    """True once per period, if a charge follows and the period is long enough for a notice."""
    if not sub.price_id or sub.upcoming_noted or sub.status == "past_due":
        return False
    booked = sub.scheduled_change
    if sub.status == "active" and booked and booked.price_id is None:
        return False
    # A pause lengthens the period, but not the part of it that counts for the notice.
    return sub.period_start is not None and ends_at - NOTICE > sub.period_start + sub.paused_for


def _turning_point(sub: Subscription) -> Deadline | None:
    if sub.status == "trialing" and sub.trial_ends_at:
        return Deadline(sub.trial_ends_at, "trial_end")
    return Deadline(sub.period_end, "renewal") if sub.period_end else None
