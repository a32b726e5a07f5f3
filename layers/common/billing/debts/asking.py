"""The loop with which a run of reconcile asks Commet about debts, one after the other."""

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
    """Leases rows with `lease` and calls `ask` for each, until `lease` returns nothing.

    Returns how many times it called `ask`. Each call of `ask` takes `calls` from the budget. The
    loop also ends when the budget or the time is used up. If Commet refuses a question, the same
    question is asked again after the lease of its row has ended. Raises CommetUnavailable.
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
