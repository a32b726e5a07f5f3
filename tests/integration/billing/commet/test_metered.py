"""The client of requests that people wait for: the stack's budget knows each of its calls."""

from collections.abc import Iterator

import pytest

from billing.commet.call_budget import Budget
from billing.commet.metered import MeteredCommet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CallBudgetSpent, CommetUnavailable
from standin.testing import StandIn

SLOW = 1  # a bucket of 32 calls, which refills by one in a second
FULL = 32


@pytest.fixture(autouse=True)
def budget(shared: Database) -> Iterator[Budget]:
    """A full budget, which nobody else draws from."""
    shared.execute("delete from call_budget")
    yield Budget(shared, SLOW)
    shared.execute("delete from call_budget")


@pytest.fixture
def metered(budget: Budget, remote: StandIn) -> Iterator[MeteredCommet]:
    client = MeteredCommet(
        budget,
        remote.base_url,
        lambda *, fresh=False: remote.api_key,  # noqa: ARG005
        live=False,
    )
    client._sleep = lambda _: None
    yield client
    client._http.close()


def soon() -> Deadline:
    return Deadline.after(20)


def spent(db: Database) -> int:
    """How many calls were taken; less than one has come back meanwhile."""
    return FULL - int(db.value("select tokens from call_budget"))


def test_a_call_costs_one(metered: MeteredCommet, shared: Database) -> None:
    metered.plans(soon())
    assert spent(shared) == 1


def test_each_attempt_costs_one(metered: MeteredCommet, shared: Database, remote: StandIn) -> None:
    """A failed call is tried twice more: Commet had three."""
    before = len(remote.control.requests(path="/plans"))
    remote.control.fault(match={"path": "/plans"}, action={"status": 500, "code": "x"}, times=None)
    with pytest.raises(CommetUnavailable):
        metered.plans(soon())
    assert len(remote.control.requests(path="/plans")) - before == 3
    assert spent(shared) == 3


def test_none_is_left(metered: MeteredCommet, budget: Budget, remote: StandIn) -> None:
    """Refused at once, to be tried again; Commet hears nothing of it."""
    assert budget.take(FULL)
    before = len(remote.control.requests())
    with pytest.raises(CallBudgetSpent) as refused:
        metered.plans(soon())
    assert (refused.value.status, refused.value.code) == (503, "billing_provider_unavailable")
    assert refused.value.retry_after
    assert len(remote.control.requests()) == before


def test_none_is_left_for_another_attempt(
    metered: MeteredCommet, budget: Budget, remote: StandIn
) -> None:
    assert budget.take(FULL - 2)
    before = len(remote.control.requests(path="/plans"))
    remote.control.fault(match={"path": "/plans"}, action={"status": 500, "code": "x"}, times=None)
    with pytest.raises(CallBudgetSpent):
        metered.plans(soon())
    assert len(remote.control.requests(path="/plans")) - before == 2


def test_a_pause_that_commet_asks_for(
    metered: MeteredCommet, budget: Budget, remote: StandIn
) -> None:
    """It holds for the whole stack, and a spent budget does not begin another."""
    limited = {"status": 429, "code": "rate_limited", "retry_after": 60}
    remote.control.fault(match={"path": "/plans"}, action=limited)
    with pytest.raises(CommetUnavailable):
        metered.plans(soon())
    assert not budget.take(1)
    pause = "select extract(epoch from refilled_at - clock_timestamp()) from call_budget"
    assert 50 < budget._db.value(pause) <= 60
    before = len(remote.control.requests())
    with pytest.raises(CallBudgetSpent):
        metered.plans(soon())
    assert 50 < budget._db.value(pause) <= 60
    assert len(remote.control.requests()) == before
