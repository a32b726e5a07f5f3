"""Checkout, plans and portal against the stand-in: one subscription, whatever goes wrong."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from time import sleep
from typing import Any

import pytest

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import (
    BillingError,
    CommetRefused,
    CommetUnavailable,
    Conflict,
    InvalidRequest,
    NotFound,
)
from billing.subscriptions import mirror, plans
from billing.subscriptions.checkout import Checkouts, Started
from billing.subscriptions.portal import portal_url
from standin.testing import StandIn
from tests.integration.billing.conftest import own_database

Make = Callable[[], Commet]
SUCCESS = "https://app.example/billing"


@pytest.fixture
def buyer(shared: Database, user: str) -> User:
    """A user of this test's own."""
    found = shared.one("select id, email, name from users where id = %s", [user])
    assert found is not None
    return User(**found)


@pytest.fixture
def checkouts(shared: Database, commet: Commet) -> Checkouts:
    plans.catalogue(shared, lambda: commet, now=wall_clock(), deadline=Deadline.after(20))
    return Checkouts(shared, commet, wall_clock)


def start(
    checkouts: Checkouts,
    user: User,
    plan: str = "usage_pro",
    interval: str | None = "monthly",
    *,
    seconds: float = 20,
    success_url: str = SUCCESS,
) -> Started:
    return checkouts.start(
        user,
        plan_code=plan,
        billing_interval=interval,
        success_url=success_url,
        deadline=Deadline.after(seconds),
    )


def at_commet(remote: StandIn, user: User) -> list[dict[str, Any]]:
    """The subscriptions Commet has of a user."""
    state = remote.control.state()
    customers = {c["id"] for c in state["customers"] if c["external_id"] == user.id}
    return [s for s in state["subscriptions"] if s["customer_id"] in customers]


def posts(remote: StandIn, user: User) -> list[dict[str, Any]]:
    """Requests that asked Commet for a subscription of this user."""
    sent = remote.control.requests(method="POST", path="/subscriptions")
    return [each for each in sent if (each["body"] or {}).get("customerId") == user.id]


def leased(db: Database, user: User) -> bool:
    query = "select leased_until is not null from checkout_attempt where user_id = %s"
    return bool(db.value(query, [user.id]))


class TestStart:
    def test_to_be_paid(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """A new subscription, mirrored at once, at the address where it is paid."""
        started = start(checkouts, buyer)
        assert started.created
        assert started.subscription.status == "pending_payment"
        assert started.subscription.checkout_url
        found = mirror.current(shared, buyer.id)
        assert found is not None
        assert (found.id, found.status) == (started.subscription.id, "pending_payment")
        assert [s["id"] for s in at_commet(remote, buyer)] == [found.id]
        assert not leased(shared, buyer)
        linked = "select commet_customer_id from users where id = %s"
        assert str(shared.value(linked, [buyer.id])).startswith("cus_")

    def test_a_customer_that_commet_already_has_is_linked(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User, commet: Commet
    ) -> None:
        """ "Duplicate" of our own id is no obstacle: the customer is found and linked."""
        commet.create_customer(
            user_id=buyer.id, email=buyer.email or "", name=None, deadline=Deadline.after(20)
        )
        duplicate = {"status": 409, "code": "duplicate"}
        remote.control.fault(match={"method": "POST", "path": "/customers"}, action=duplicate)
        assert start(checkouts, buyer).created
        linked = "select commet_customer_id from users where id = %s"
        assert str(shared.value(linked, [buyer.id])).startswith("cus_")

    def test_an_email_that_another_customer_is_billed_at(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Said in words, and the lease is given back."""
        duplicate = {"status": 409, "code": "duplicate"}
        remote.control.fault(match={"method": "POST", "path": "/customers"}, action=duplicate)
        with pytest.raises(Conflict) as refused:
            start(checkouts, buyer)
        assert refused.value.code == "billing_email_taken"
        assert not leased(shared, buyer)

    def test_again(self, remote: StandIn, checkouts: Checkouts, buyer: User) -> None:
        """The same plan again is the same checkout, at its current address."""
        first, second = start(checkouts, buyer), start(checkouts, buyer)
        assert (first.created, second.created) == (True, False)
        assert second.subscription.id == first.subscription.id
        assert second.subscription.checkout_url == first.subscription.checkout_url
        assert len(posts(remote, buyer)) == 1

    def test_another_plan_replaces(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """What is still unpaid gives way; the new one speaks for the user."""
        first = start(checkouts, buyer)
        second = start(checkouts, buyer, "usage_max")
        assert second.created
        assert second.subscription.id != first.subscription.id
        found = mirror.current(shared, buyer.id)
        assert found is not None
        assert found.id == second.subscription.id
        live = {s["id"]: s["status"] for s in at_commet(remote, buyer)}
        assert live[first.subscription.id] == "canceled"
        keys = [each["headers"]["idempotency-key"] for each in posts(remote, buyer)]
        assert len(set(keys)) == 2

    def test_another_interval_is_another_checkout(self, checkouts: Checkouts, buyer: User) -> None:
        """Yearly is not monthly."""
        first = start(checkouts, buyer)
        second = start(checkouts, buyer, interval="yearly")
        assert first.subscription.id != second.subscription.id
        assert second.subscription.billing_interval == "yearly"

    def test_another_return_address(self, checkouts: Checkouts, buyer: User) -> None:
        """Commet takes the same unpaid one up again, though the request is another."""
        first = start(checkouts, buyer)
        second = start(checkouts, buyer, success_url="https://app.example/elsewhere")
        assert (second.subscription.id, second.created) == (first.subscription.id, False)

    def test_a_free_plan(
        self, shared: Database, checkouts: Checkouts, buyer: User, commet: Commet
    ) -> None:
        """Active at once, with nothing to pay; then there is a subscription already."""
        free = next(
            p for p in plans.catalogue(
                shared, lambda: commet, now=wall_clock(), deadline=Deadline.after(20)
            ).plans if p.is_free
        )  # fmt: skip
        started = start(checkouts, buyer, free.code, None)
        assert started.created
        assert (started.subscription.status, started.subscription.checkout_url) == ("active", None)
        found = mirror.current(shared, buyer.id)
        assert found is not None
        assert found.gives_access({"active"})
        with pytest.raises(Conflict) as caught:
            start(checkouts, buyer)
        assert caught.value.code == "already_subscribed"

    def test_paid_and_not_told(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """The webhook is late: the mirror says pending, Commet says paid, and nobody pays twice."""
        paid = start(checkouts, buyer).subscription
        remote.control.pay(paid.id)
        with pytest.raises(Conflict) as caught:
            start(checkouts, buyer)
        assert caught.value.code == "already_subscribed"
        found = mirror.current(shared, buyer.id)
        assert found is not None
        assert (found.id, found.status) == (paid.id, "active")
        with pytest.raises(Conflict):
            start(checkouts, buyer, "usage_max")
        assert len(at_commet(remote, buyer)) == 1
        assert not leased(shared, buyer)

    def test_paid_and_another_plan_asked_for(
        self, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Commet itself refuses a second one: the same answer."""
        paid = start(checkouts, buyer).subscription
        remote.control.pay(paid.id)
        with pytest.raises(Conflict) as caught:
            start(checkouts, buyer, "usage_max")
        assert caught.value.code == "already_subscribed"

    @pytest.mark.parametrize("trouble", [("past_due", "payment"), ("paused", "Resume")])
    def test_what_to_do(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User,
        trouble: tuple[str, str],
    ) -> None:  # fmt: skip
        """Somebody in trouble is told the way out of it, not only no."""
        status, hint = trouble
        shared.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at)"
            " values (%s, %s, %s, now(), now())",
            [f"sub_{buyer.id}", buyer.id, status],
        )
        silent = {"status": 500, "code": "internal_error"}
        remote.control.fault(match={"path": "/subscriptions/active"}, action=silent, times=3)
        with pytest.raises(Conflict, match=hint) as caught:
            start(checkouts, buyer)
        assert caught.value.code == "already_subscribed"

    def test_canceled_unheard(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """A live row whose end was never told, past its period: asked about, then sold again."""
        paid = start(checkouts, buyer).subscription
        remote.control.pay(paid.id)
        with pytest.raises(Conflict):
            start(checkouts, buyer)
        shared.execute(
            "update subscriptions set period_end = now() - interval '1 minute', checked_at = null"
            " where id = %s",
            [paid.id],
        )
        _cancel(remote, paid.id)
        again = start(checkouts, buyer)
        assert again.created
        assert again.subscription.id != paid.id

    def test_unknown_plan(self, remote: StandIn, checkouts: Checkouts, buyer: User) -> None:
        """404, and Commet is not asked for a subscription."""
        with pytest.raises(NotFound) as caught:
            start(checkouts, buyer, "no_such_plan")
        assert caught.value.code == "plan_not_found"
        assert posts(remote, buyer) == []

    def test_unknown_interval(self, remote: StandIn, checkouts: Checkouts, buyer: User) -> None:
        """422 that names the field."""
        with pytest.raises(InvalidRequest) as caught:
            start(checkouts, buyer, interval="hourly")
        assert caught.value.errors[0].field == "billing_interval"
        assert posts(remote, buyer) == []

    def test_a_plan_that_went(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Our catalogue still shows it, Commet refuses: 404, and the next try is a new one."""
        remote.control.fault(
            match={"method": "POST", "path": "/subscriptions"},
            action={"status": 404, "code": "plan_not_found"},
        )
        with pytest.raises(NotFound):
            start(checkouts, buyer)
        assert not leased(shared, buyer)
        assert start(checkouts, buyer).created
        keys = [each["headers"]["idempotency-key"] for each in posts(remote, buyer)]
        assert len(set(keys)) == 2


def _cancel(remote: StandIn, subscription_id: str) -> None:
    import httpx

    answer = httpx.post(
        f"{remote.base_url}/subscriptions/{subscription_id}/cancel",
        json={"immediate": True},
        headers={"x-api-key": remote.api_key},
    )
    answer.raise_for_status()


class TestAtOnce:
    @pytest.mark.usefixtures("checkouts")
    def test_a_double_click(
        self, migrated_url: str, remote: StandIn, client: Make, buyer: User
    ) -> None:
        """However many at once: one subscription at Commet, and nobody gets an error of ours."""

        def click(_: int) -> str:
            with own_database(migrated_url) as db:
                try:
                    return start(Checkouts(db, client(), wall_clock), buyer).subscription.id
                except Conflict as conflict:
                    return conflict.code

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(click, range(12)))
        (subscription,) = at_commet(remote, buyer)
        assert set(answers) <= {subscription["id"], "checkout_in_progress"}
        assert subscription["id"] in answers

    def test_the_lease(self, shared: Database, checkouts: Checkouts, buyer: User) -> None:
        """While somebody else talks to Commet for this user: try again in a moment."""
        start(checkouts, buyer)
        shared.execute(
            "update checkout_attempt set leased_until = now() + interval '9 seconds'"
            " where user_id = %s",
            [buyer.id],
        )
        with pytest.raises(Conflict) as caught:
            start(checkouts, buyer)
        assert caught.value.code == "checkout_in_progress"
        assert caught.value.retry_after

    def test_an_expired_lease(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Whoever had it is gone: the next goes on with the same attempt and the same key."""
        remote.control.fault(
            match={"method": "POST", "path": "/subscriptions"},
            action={"reset": "after"},
            times=3,
        )
        with pytest.raises(CommetUnavailable):
            start(checkouts, buyer)
        shared.execute(
            "update checkout_attempt set leased_until = now() - interval '1 second'"
            " where user_id = %s",
            [buyer.id],
        )
        start(checkouts, buyer)
        assert len(at_commet(remote, buyer)) == 1
        assert len({each["headers"]["idempotency-key"] for each in posts(remote, buyer)}) == 1


class TestCommetInTrouble:
    @pytest.mark.parametrize(
        "action",
        [{"reset": "after"}, {"status": 500, "code": "internal_error", "after": True},
         {"invalid_json": True, "after": True}, {"truncate": True, "after": True}],
        ids=["reset", "500", "html", "half"],
    )  # fmt: skip
    def test_a_lost_answer(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User,
        action: dict[str, Any],
    ) -> None:  # fmt: skip
        """Commet did it and we never heard: trying again finds that one, and makes no second."""
        remote.control.fault(
            match={"method": "POST", "path": "/subscriptions"}, action=action, times=3
        )
        with pytest.raises(CommetUnavailable):
            start(checkouts, buyer)
        assert not leased(shared, buyer)
        remote.control.clear_faults()
        again = start(checkouts, buyer)
        assert [s["id"] for s in at_commet(remote, buyer)] == [again.subscription.id]

    @pytest.mark.parametrize("path", ["/customers", "/subscriptions"])
    @pytest.mark.parametrize(
        "trouble",
        [
            ({"reset": "before"}, 503),
            ({"status": 503, "code": "internal_error"}, 503),
            ({"status": 429, "code": "rate_limited", "retry_after": 60}, 503),
            ({"status": 200, "invalid_json": True}, 502),
            ({"status": 403, "code": "forbidden"}, 502),
        ],
        ids=["reset", "503", "429", "nonsense", "forbidden"],
    )
    def test_nothing_half_written(
        self, remote: StandIn, checkouts: Checkouts, buyer: User, path: str,
        trouble: tuple[dict[str, Any], int],
    ) -> None:  # fmt: skip
        """No subscription here that is none there, the lease is free, and the next try works."""
        action, status = trouble
        remote.control.fault(match={"method": "POST", "path": path}, action=action, times=3)
        with pytest.raises((CommetUnavailable, CommetRefused)) as caught:
            start(checkouts, buyer)
        assert caught.value.status == status
        assert mirror.current(checkouts._db, buyer.id) is None
        assert not leased(checkouts._db, buyer)
        remote.control.clear_faults()
        assert start(checkouts, buyer).subscription.status == "pending_payment"
        assert len(at_commet(remote, buyer)) == 1

    def test_slow(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Slower than there is time: the answer is given up, the checkout is not."""
        remote.control.fault(
            match={"method": "POST", "path": "/subscriptions"}, action={"latency_ms": 1500}
        )
        with pytest.raises(CommetUnavailable):
            start(checkouts, buyer, seconds=0.6)
        assert not leased(shared, buyer)
        again = None
        while again is None:  # Commet still works on the first request
            sleep(0.2)  # each try counts: a person may start ten checkouts in an hour
            with suppress(CommetUnavailable):
                again = start(checkouts, buyer)
        assert [s["id"] for s in at_commet(remote, buyer)] == [again.subscription.id]

    def test_a_bug_of_ours(
        self, shared: Database, checkouts: Checkouts, buyer: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever went wrong, the user is not locked out for half a minute."""

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(checkouts, "_record", broken)
        with pytest.raises(RuntimeError):
            start(checkouts, buyer)
        assert not leased(shared, buyer)

    def test_the_pending_one_is_gone(
        self, shared: Database, remote: StandIn, checkouts: Checkouts, buyer: User
    ) -> None:
        """Commet has forgotten the checkout we would take up again: a new one is made."""
        first = start(checkouts, buyer)
        remote.control.fault(
            match={"method": "GET", "path": f"/subscriptions/{first.subscription.id}"},
            action={"status": 404, "code": "subscription_not_found"},
        )
        start(checkouts, buyer)
        keys = [each["headers"]["idempotency-key"] for each in posts(remote, buyer)]
        assert len(set(keys)) == 2
        assert not leased(shared, buyer)


class TestPlans:
    def catalogue(
        self, db: Database, commet: Commet, later: timedelta = timedelta()
    ) -> plans.Catalogue:
        return plans.catalogue(
            db, lambda: commet, now=wall_clock() + later, deadline=Deadline.after(20)
        )

    def test_fresh_for_a_minute(self, db: Database, commet: Commet, remote: StandIn) -> None:
        """Commet is asked once, then again when the answer has aged."""
        before = len(remote.control.requests(path="/plans"))
        first = self.catalogue(db, commet)
        assert self.catalogue(db, commet, timedelta(seconds=50)) == first
        assert len(remote.control.requests(path="/plans")) == before + 1
        newer = self.catalogue(db, commet, timedelta(seconds=70))
        assert newer.as_of > first.as_of
        assert [p.code for p in newer.plans] == [p.code for p in first.plans]
        assert len(remote.control.requests(path="/plans")) == before + 2

    @pytest.mark.parametrize(
        "action",
        [{"reset": "before"}, {"status": 500, "code": "internal_error"}, {"invalid_json": True},
         {"status": 403, "code": "forbidden"}],
    )  # fmt: skip
    def test_stale_while_commet_is_silent(
        self, db: Database, commet: Commet, remote: StandIn, action: dict[str, Any]
    ) -> None:
        """The last good one, with its own age."""
        good = self.catalogue(db, commet)
        remote.control.fault(match={"path": "/plans"}, action=action, times=None)
        assert self.catalogue(db, commet, timedelta(days=3)) == good

    def test_one_request_finds_out_that_commet_is_down(
        self, db: Database, commet: Commet, remote: StandIn
    ) -> None:
        """The others are answered at once, from what is known."""
        good = self.catalogue(db, commet)
        db.execute("update plans_cache set tried_at = null")
        remote.control.fault(match={"path": "/plans"}, action={"reset": "before"}, times=None)
        before = len(remote.control.requests(path="/plans"))
        found = [self.catalogue(db, commet, timedelta(days=n)) for n in (1, 2, 3)]
        assert found == [good] * 3
        asked = len(remote.control.requests(path="/plans")) - before
        assert 1 <= asked <= 3  # one call, with its repetitions

    def test_never_an_answer(self, db: Database, commet: Commet, remote: StandIn) -> None:
        """Then there is nothing to show."""
        remote.control.fault(match={"path": "/plans"}, action={"reset": "before"}, times=None)
        with pytest.raises(CommetUnavailable):
            self.catalogue(db, commet)

    def test_kept_by_another_release(self, db: Database, commet: Commet) -> None:
        """A catalogue in a shape we no longer know is fetched anew, not an error for ever."""
        db.execute(
            "insert into plans_cache (id, catalogue, as_of) values (1, '[{\"old\": true}]', now())"
        )
        assert self.catalogue(db, commet).find("usage_pro") is not None

    def test_an_older_answer_does_not_replace_a_newer(self, db: Database, commet: Commet) -> None:
        """Two environments asked; the slower one writes last."""
        newer = self.catalogue(db, commet, timedelta(minutes=9))
        plans.catalogue(
            db, lambda: commet, now=wall_clock(), deadline=Deadline.after(20), max_age=timedelta()
        )
        assert db.value("select as_of from plans_cache") == newer.as_of


class TestPortal:
    def url(self, db: Database, commet: Commet, user: User) -> str:
        return portal_url(
            db,
            commet,
            user,
            return_url="https://app.example/",
            now=wall_clock(),
            deadline=Deadline.after(20),
        )

    def test_always_fresh(
        self, shared: Database, commet: Commet, checkouts: Checkouts, buyer: User
    ) -> None:
        """A session lives half an hour, so none is given out twice."""
        start(checkouts, buyer)
        assert self.url(shared, commet, buyer) != self.url(shared, commet, buyer)

    def test_nothing_to_manage(
        self, shared: Database, commet: Commet, remote: StandIn, buyer: User
    ) -> None:
        """Who never started a checkout has no customer at Commet, and none is made."""
        with pytest.raises(Conflict) as caught:
            self.url(shared, commet, buyer)
        assert caught.value.code == "no_billing_account"
        assert at_commet(remote, buyer) == []

    def test_a_customer_that_is_gone(self, shared: Database, commet: Commet, buyer: User) -> None:
        """We know one, Commet does not: the same answer."""
        shared.execute(
            "update users set commet_customer_id = %s where id = %s",
            [f"cus_{buyer.id}", buyer.id],
        )
        with pytest.raises(Conflict) as caught:
            self.url(shared, commet, buyer)
        assert caught.value.code == "no_billing_account"

    @pytest.mark.parametrize(
        "trouble",
        [({"status": 500, "code": "internal_error"}, 503), ({"invalid_json": True}, 502),
         ({"status": 403, "code": "forbidden"}, 502)],
    )  # fmt: skip
    def test_commet_in_trouble(
        self, commet: Commet, remote: StandIn, checkouts: Checkouts, buyer: User,
        trouble: tuple[dict[str, Any], int],
    ) -> None:  # fmt: skip
        """No answer, nonsense and no are told apart."""
        action, status = trouble
        start(checkouts, buyer)
        remote.control.fault(match={"path": "/portal/sessions"}, action=action, times=3)
        with pytest.raises(BillingError) as caught:
            self.url(checkouts._db, commet, buyer)
        assert caught.value.status == status
