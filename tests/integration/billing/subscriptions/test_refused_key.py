"""A refused API key says nothing about anybody's subscription: nothing ends, nothing is bought."""

from itertools import product

import pytest

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.errors import CommetRefused
from billing.subscriptions.checkout import Checkouts
from billing.subscriptions.refresh import refresh
from standin.testing import StandIn
from tests.integration.billing.subscriptions.test_checkout import (
    at_commet,
    buyer,
    checkouts,
    start,
)
from tests.integration.billing.subscriptions.test_refresh import (
    granted,
    opened,
    pending,
    row,
    soon,
)

__all__ = ["buyer", "checkouts", "pending"]


@pytest.fixture
def paid(shared: Database, commet: Commet, remote: StandIn, pending: str) -> str:
    """A subscription that is active here as it is at Commet."""
    remote.control.pay(pending)
    ask_again(shared, commet, pending)
    return pending


def ask_again(db: Database, commet: Commet, subscription: str) -> None:
    refresh(db, commet, row(db, subscription)["user_id"], now=wall_clock(), deadline=soon())


@pytest.mark.parametrize(
    "refusal", [*product([401, 403], ["/subscriptions/active", "by id", "/feature-access"])]
)
def test_what_is_paid_stays(
    shared: Database, commet: Commet, remote: StandIn, paid: str, refusal: tuple[int, str]
) -> None:
    """Whichever question of a refresh the key is refused for."""
    status, path = refusal
    refused = {"status": status, "code": "unauthorized"}
    if path == "by id":  # asked where Commet says that none is active
        none = {"status": 404, "code": "no_active_subscription"}
        remote.control.fault(match={"path": "/subscriptions/active"}, action=none, times=None)
        path = f"/subscriptions/{paid}"
    remote.control.fault(match={"path": path}, action=refused, times=None)
    with pytest.raises(CommetRefused):
        ask_again(shared, commet, paid)
    found = row(shared, paid)
    assert found["status"] == "active"
    assert (granted(shared, found["user_id"]), opened(shared, found["user_id"])) == (1, 1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_checkout_is_not_taken_for_over(
    shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User, status: int
) -> None:
    """Nobody is sent to a second checkout because the first could not be looked at."""
    first = start(checkouts, buyer).subscription.id
    remote.control.fault(
        match={"method": "GET", "path": f"/subscriptions/{first}"},
        action={"status": status, "code": "unauthorized"}, times=None,
    )  # fmt: skip
    with pytest.raises(CommetRefused):
        start(checkouts, buyer)
    assert [each["id"] for each in at_commet(remote, buyer)] == [first]
    # The same attempt, so the next request has the same idempotency key.
    kept = "select attempt, subscription_id from checkout_attempt where user_id = %s"
    assert shared.one(kept, [buyer.id]) == {"attempt": 1, "subscription_id": first}
    remote.control.clear_faults()
    again = start(checkouts, buyer)
    assert (again.subscription.id, again.created) == (first, False)
