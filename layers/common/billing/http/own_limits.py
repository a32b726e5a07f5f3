"""Limits how often users change their own spend limit and thresholds."""

from datetime import timedelta

from billing import wiring
from billing.accounts.limits import Limit, Turn

# A change may emit an outgoing event, which goes to all endpoints of the product.
CHANGES = Limit(60, timedelta(hours=1))


def count_change(user_id: str) -> None:
    """Counts a change. Raises TooManyRequests if the user's changes of this hour are used up."""
    Turn(wiring.database(), f"own_limits:{user_id}", CHANGES, wiring.now()).take()
