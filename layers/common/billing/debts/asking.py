"""How a run of reconcile asks Commet about debts, one after the other."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from billing.commet.call_budget import Budget
from billing.deadline import Deadline
from billing.errors import CommetRefused

T = TypeVar("T")


def ask_about_each(
    lease: Callable[[], Sequence[T]],
    ask: Callable[[T], object],
    budget: Budget,
    deadline: Deadline,
    *,
    calls: int = 1,
) -> int:
    """Asks about whatever `lease` returns, until it returns nothing. Returns how often it asked.

    Each question takes `calls` from the budget, and it ends where the budget or the time does. What
    Commet refuses is asked again once its lease is over. Raises CommetUnavailable.
    """
    asked = 0
    while leased := lease():
        for each in leased:
            if not budget.wait(calls, deadline):
                return asked
            asked += 1
            with suppress(CommetRefused):
                ask(each)
    return asked
