"""How often one user may cause calls to Commet: ten checkouts and thirty portal links an hour."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from time import sleep
from typing import Any

import pytest

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.commet.metered import MeteredCommet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import (
    BillingError,
    CallBudgetSpent,
    CommetUnavailable,
    Conflict,
    InvalidRequest,
    NotFound,
    TooManyRequests,
)
from billing.subscriptions import plans
from billing.subscriptions.checkout import CHECKOUTS, SECOND_CHECKOUTS, Checkouts, Started
from billing.subscriptions.portal import LINKS, portal_url
from standin.testing import StandIn
from tests.integration.billing.conftest import own_database

Make = Callable[[], Commet]
PLANS = ("usage_pro", "usage_max")


@pytest.fixture
def buyer(user: str) -> User:
    """A user of this test's own."""
    return User(user, f"{user}@example.com", None)


@pytest.fixture
def now() -> datetime:
    """The whole test is at this moment, so no new hour begins in it."""
    return wall_clock()


@pytest.fixture
def checkouts(shared: Database, commet: Commet, now: datetime) -> Checkouts:
    plans.catalogue(shared, lambda: commet, now=now, deadline=Deadline.after(20))
    return Checkouts(shared, commet, lambda: now)


def start(
    checkouts: Checkouts, user: User, plan: str = "usage_pro", interval: str = "monthly"
) -> Started:
    return checkouts.start(
        user,
        plan_code=plan,
        billing_interval=interval,
        success_url="https://app.example/",
        deadline=Deadline.after(60),
    )


def link(db: Database, commet: Commet, user: User, now: datetime) -> str:
    return portal_url(
        db,
        commet,
        user,
        return_url="https://app.example/",
        now=now,
        deadline=Deadline.after(60),
    )


def used(db: Database, kind: str, user: User) -> int:
    """How many of the user's checkouts or portal links are counted."""
    key = f"{kind}:{user.id}"
    return int(db.value("select coalesce(sum(count), 0) from attempts where key = %s", [key]))


def sessions(remote: StandIn, user: User) -> int:
    """How many portal sessions Commet was asked for."""
    sent = remote.control.requests(method="POST", path="/portal/sessions")
    return sum(each["body"]["customerId"] == user.id for each in sent)


def orders(remote: StandIn, user: User) -> int:
    """How many subscriptions Commet was asked for."""
    sent = remote.control.requests(method="POST", path="/subscriptions")
    # The filter finds a part of the path, so it finds cancellations of other tests too.
    made = [each["body"] for each in sent if each["path"] == "/subscriptions"]
    return sum(body["customerId"] == user.id for body in made)


def answers_age(db: Database, buyer: User) -> None:
    """So that Commet may be asked again."""
    db.execute("update users set asked_at = null, answered_at = null where id = %s", [buyer.id])
    db.execute(
        "update subscriptions set checked_at = null, confirmed_at = null where user_id = %s",
        [buyer.id],
    )


class TestCheckouts:
    @pytest.mark.usefixtures("checkouts")
    def test_forty_at_once(
        self, migrated_url: str, remote: StandIn, client: Make, buyer: User, now: datetime
    ) -> None:
        """Ten of them reach Commet. Whoever meets another one's lease comes again."""

        def one(n: int) -> str:
            with own_database(migrated_url) as db:
                mine = Checkouts(db, client(), lambda: now)
                while True:
                    try:
                        start(mine, buyer, PLANS[n % 2])
                    except Conflict as conflict:
                        if conflict.code != "checkout_in_progress":
                            raise
                        sleep(0.02)  # as its Retry-After asks; nothing depends on it
                    except TooManyRequests:
                        return "refused"
                    else:
                        return "started"

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(one, range(40)))
        assert (answers.count("started"), answers.count("refused")) == (CHECKOUTS.count, 30)
        assert 1 <= orders(remote, buyer) <= CHECKOUTS.count

    def test_an_unpaid_one_that_is_continued_counts(
        self, shared: Database, checkouts: Checkouts, buyer: User
    ) -> None:
        """Commet is asked for its address each time. An hour later all is well again."""
        for n in range(CHECKOUTS.count):
            assert start(checkouts, buyer).created == (n == 0)
        with pytest.raises(TooManyRequests) as refused:
            start(checkouts, buyer)
        assert refused.value.retry_after
        then = checkouts._clock() + timedelta(seconds=refused.value.retry_after + 1)
        later = Checkouts(shared, checkouts._commet, lambda: then)
        assert not start(later, buyer).created

    def test_a_refusal_leaves_no_lease(self, checkouts: Checkouts, buyer: User) -> None:
        for _ in range(CHECKOUTS.count):
            start(checkouts, buyer)
        for _ in range(2):
            with pytest.raises(TooManyRequests):
                start(checkouts, buyer)

    def test_what_never_reaches_commet_is_not_counted(
        self, shared: Database, checkouts: Checkouts, buyer: User
    ) -> None:
        """A plan or interval that does not exist, and a double click."""
        with pytest.raises(NotFound):
            start(checkouts, buyer, "no_such_plan")
        with pytest.raises(InvalidRequest):
            start(checkouts, buyer, interval="weekly")
        start(checkouts, buyer)
        lease = "update checkout_attempt set leased_until = now() + %s * interval '1 minute'"
        shared.execute(lease + " where user_id = %s", [1, buyer.id])
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        assert used(shared, "checkout", buyer) == 1

    def test_beside_a_subscription(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Counted while Commet is asked whether it has ended, not while the mirror answers."""
        remote.control.pay(start(checkouts, buyer).subscription.id)
        for _ in range(3):  # the first learns of the payment; the mirror answers the others
            with pytest.raises(Conflict) as conflict:
                start(checkouts, buyer)
            assert conflict.value.code == "already_subscribed"
        counted = used(shared, "second", buyer)
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        assert used(shared, "second", buyer) == counted
        answers_age(shared, buyer)
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        assert used(shared, "second", buyer) == counted + 1

    def test_beside_a_subscription_without_an_end(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Whoever has used up the hour causes no question, and the question may be asked later."""
        remote.control.pay(start(checkouts, buyer).subscription.id)
        for _ in range(2):
            answers_age(shared, buyer)
            with pytest.raises(Conflict):
                start(checkouts, buyer)
        shared.execute(
            "update attempts set count = %s where key = %s",
            [SECOND_CHECKOUTS.count, f"second:{buyer.id}"],
        )
        for _ in range(2):
            answers_age(shared, buyer)
            before = len(remote.control.requests())
            with pytest.raises(TooManyRequests):
                start(checkouts, buyer)
            assert len(remote.control.requests()) == before


class TestPortal:
    @pytest.fixture(autouse=True)
    def _customer(self, checkouts: Checkouts, buyer: User) -> None:
        start(checkouts, buyer)

    def test_forty_at_once(
        self, migrated_url: str, remote: StandIn, client: Make, buyer: User, now: datetime
    ) -> None:
        def one(_: int) -> bool:
            with own_database(migrated_url) as db:
                try:
                    link(db, client(), buyer, now)
                except TooManyRequests:
                    return False
                return True

        with ThreadPoolExecutor(12) as pool:
            assert sum(pool.map(one, range(40))) == LINKS.count
        assert sessions(remote, buyer) == LINKS.count

    def test_who_has_nothing_to_manage_is_not_counted(
        self, shared: Database, commet: Commet, buyer: User, now: datetime
    ) -> None:
        nobody = User(f"{buyer.id}x", "", None)
        with pytest.raises(Conflict):
            link(shared, commet, nobody, now)
        assert used(shared, "portal", nobody) == 0

    def test_an_outage_counts(
        self, shared: Database, remote: StandIn, commet: Commet, buyer: User, now: datetime
    ) -> None:
        """The call was made, though nothing came of it."""
        broken: dict[str, Any] = {"status": 500, "code": "internal_error"}
        remote.control.fault(match={"path": "/portal/sessions"}, action=broken, times=3)
        with pytest.raises(CommetUnavailable):
            link(shared, commet, buyer, now)
        assert used(shared, "portal", buyer) == 1


class TestASpentBudget:
    """No call is made, so nothing is counted: the user may come again when Retry-After says so."""

    @pytest.fixture
    def metered(self, shared: Database, remote: StandIn) -> Iterator[Commet]:
        budget = Budget(shared, 1)
        client = MeteredCommet(
            budget,
            remote.base_url,
            lambda *, fresh=False: remote.api_key,  # noqa: ARG005
            live=False,
        )
        budget.pause(60)
        yield client
        client._http.close()
        shared.execute("delete from call_budget")

    def test_checkouts_and_links(
        self, shared: Database, checkouts: Checkouts, buyer: User, now: datetime, metered: Commet
    ) -> None:
        start(checkouts, buyer)
        before = used(shared, "checkout", buyer)
        for plan in PLANS:
            with pytest.raises(CallBudgetSpent):
                start(Checkouts(shared, metered, lambda: now), buyer, plan)
        with pytest.raises(CallBudgetSpent):
            link(shared, metered, buyer, now)
        assert used(shared, "checkout", buyer) == before
        assert used(shared, "portal", buyer) == 0
        assert start(checkouts, buyer, PLANS[1]).subscription.checkout_url  # no lease stayed

    def test_beside_a_subscription(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User, metered: Commet,
    ) -> None:  # fmt: skip
        """The mirror answers, and the question may be asked at once when there is budget again."""
        remote.control.pay(start(checkouts, buyer).subscription.id)
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        counted = used(shared, "second", buyer)
        answers_age(shared, buyer)
        with pytest.raises(BillingError) as refused:
            start(Checkouts(shared, metered, checkouts._clock), buyer)
        assert refused.value.code == "already_subscribed"
        assert used(shared, "second", buyer) == counted
        before = len(remote.control.requests())
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        assert len(remote.control.requests()) > before


class TestABudgetThatEndsMidway:
    """A call was made, so the request is counted, although the next call was not made."""

    @pytest.fixture
    def metered(self, shared: Database, remote: StandIn) -> Iterator[Commet]:
        """One call is left, and none comes back soon."""
        budget = Budget(shared, 1)
        client = MeteredCommet(
            budget,
            remote.base_url,
            lambda *, fresh=False: remote.api_key,  # noqa: ARG005
            live=False,
        )
        client._sleep = lambda _: None
        shared.execute("delete from call_budget")
        assert budget.take(31)
        yield client
        client._http.close()
        shared.execute("delete from call_budget")

    def test_a_checkout(
        self, shared: Database, checkouts: Checkouts, buyer: User, metered: Commet
    ) -> None:
        """The customer is made, the subscription is not."""
        with pytest.raises(CallBudgetSpent):
            start(Checkouts(shared, metered, checkouts._clock), buyer)
        assert used(shared, "checkout", buyer) == 1

    def test_a_link(
        self,
        shared: Database,
        remote: StandIn,
        checkouts: Checkouts,
        buyer: User,
        metered: Commet,
    ) -> None:
        """Commet fails once, and there is no call for another attempt."""
        start(checkouts, buyer)
        broken: dict[str, Any] = {"status": 500, "code": "internal_error"}
        remote.control.fault(match={"path": "/portal/sessions"}, action=broken)
        with pytest.raises(CommetUnavailable):
            link(shared, metered, buyer, checkouts._clock())
        assert used(shared, "portal", buyer) == 1
