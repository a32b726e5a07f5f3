"""The Commet client for requests of people, which takes every call from the call budget."""

from typing import Any

from billing.commet.call_budget import Budget
from billing.commet.client import ApiKey, Call, Commet, Reply
from billing.deadline import Deadline
from billing.errors import CallBudgetSpent, CommetUnavailable


class MeteredCommet(Commet):
    """Takes every attempt of a call from `budget` before it is made, including retries and pages.

    Never waits for the budget: raises CallBudgetSpent at once if no call is left. If Commet asks
    for a pause (Retry-After), the whole stack pauses. Every method may also raise
    DatabaseUnavailable, because the budget is in Postgres.
    """

    def __init__(self, budget: Budget, base_url: str, api_key: ApiKey, *, live: bool) -> None:
        super().__init__(base_url, api_key, live=live)
        self._budget = budget

    def _send(self, call: Call, deadline: Deadline) -> Any:
        try:
            return super()._send(call, deadline)
        except CommetUnavailable as error:
            if error.asked_retry_after is not None:
                self._budget.pause(error.asked_retry_after)
            raise

    def _attempt(self, call: Call, key: str, deadline: Deadline) -> Reply:
        if not self._budget.take(1):
            raise CallBudgetSpent
        return super()._attempt(call, key, deadline)
