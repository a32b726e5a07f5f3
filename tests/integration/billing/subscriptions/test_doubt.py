"""Whatever a person does at Commet while no webhook arrives, the next request is right about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.answers import Subscription
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database, Row
from billing.deadline import Deadline
from billing.delivery import outbox, sending
from billing.errors import Conflict
from billing.operations import reconcile
from billing.subscriptions import customers, inbox, mirror, plans
from billing.subscriptions.access import Access, Decided
from billing.subscriptions.checkout import Checkouts
from billing.subscriptions.portal import portal_url
from billing.usage import accepting
from billing.usage.accepting import UsageEvent, Verdict
from billing.usage.rules import Rules
from standin.testing import StandIn
from tests.integration.billing.conftest import add_user
from tests.integration.billing.signed import START, body
from tests.integration.billing.subscriptions.test_checkout import _cancel

SETTINGS = from_env({"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": "1000"})
RULES = Rules(SETTINGS.live_statuses, ceilings={"usd": None})


def soon() -> Deadline:
    return Deadline.after(20)


@dataclass
class Person:
    """A user of ours about whom Commet sends no webhooks at all."""

    db: Database
    commet: Commet
    remote: StandIn
    access: Access
    user: User

    def buy(self, plan: str = "usage_pro") -> str:
        """Checks out, pays, and is let in because a request asked; the subscription's id."""
        plan_of = {p.code: p for p in plans.catalogue(
            self.db, lambda: self.commet, now=wall_clock(), deadline=soon()
        ).plans}  # fmt: skip
        free = plan_of[plan].is_free
        started = self.checkout(plan, None if free else "monthly")
        if not free:
            self.remote.control.pay(started)
        assert self.access.standing(self.user.id, soon())[1]
        self.time_passes()
        return started

    def checkout(self, plan: str, interval: str | None) -> str:
        started = Checkouts(self.db, self.commet, wall_clock).start(
            self.user, plan_code=plan, billing_interval=interval,
            success_url="https://app.example/", deadline=soon(),
        )  # fmt: skip
        return started.subscription.id

    def time_passes(self) -> None:
        """Nobody was asked about for a minute, and no doubt is left from before."""
        self.db.execute(
            "update subscriptions set checked_at = checked_at - interval '1 minute',"
            " confirmed_at = confirmed_at - interval '1 minute' where user_id = %s",
            [self.user.id],
        )
        self.db.execute(
            "update users set asked_at = asked_at - interval '1 minute',"
            " answered_at = answered_at - interval '1 minute' where id = %s",
            [self.user.id],
        )

    def in_portal(self, form: str, **fields: str) -> httpx.Response:
        """Opens the portal by our link, sends one of its forms, follows to a checkout and pays."""
        url = portal_url(
            self.db,
            self.commet,
            self.user,
            return_url="https://app.example/",
            now=wall_clock(),
            deadline=soon(),
        )
        assert httpx.get(url).status_code == 200
        origin = {"origin": str(httpx.URL(url).copy_with(raw_path=b"/")).rstrip("/")}
        answer = httpx.post(f"{url}/{form}", data=fields, headers=origin)
        assert answer.status_code == 303, answer.headers
        target = answer.headers["location"]
        if "/checkout/" in target:
            card = {"card_number": "4242424242424242", "expiry": "12/34", "cvc": "123"}
            paid = httpx.post(target, data=card, headers=origin)
            assert paid.status_code in (200, 303), paid.headers
        return answer

    def use(self, quantity: str) -> Decided[Verdict]:
        """Reports usage as POST /usage does."""
        key = uuid4().hex
        return self.access.decide([self.user.id], lambda _: self.accept(quantity, key), soon())

    def accept(self, quantity: str, key: str = "key") -> Sequence[Verdict]:
        """Decides about usage without asking Commet."""
        return accepting.accept(
            self.db,
            [UsageEvent(self.user.id, "storage", Decimal(quantity), key)],
            rules=Rules(SETTINGS.live_statuses, SETTINGS.overage_ceiling),
            now=wall_clock(),
        )

    def code(self, quantity: str = "1") -> str | None:
        decided = self.use(quantity)
        return "access_unconfirmed" if decided.unconfirmed else decided.decisions[0].code


@pytest.fixture
def person(db: Database, commet: Commet, client: Callable[[], Commet], remote: StandIn) -> Person:
    user = add_user(db)
    access = Access(db, SETTINGS, client, wall_clock)
    return Person(db, commet, remote, access, User(user, f"{user}@example.com", None))


class TestMeanwhile:
    """Something is written between the first look and the moment in which Commet would be asked."""

    @pytest.fixture
    def other(self, connect: Callable[[], Database], client: Callable[[], Commet]) -> Access:
        """Another environment, which hears of the payment first."""
        return Access(connect(), SETTINGS, client, wall_clock)

    def test_a_refusal_is_decided_again(self, person: Person, other: Access) -> None:
        """The refusal was right when it was decided, and is not any more when it is answered."""
        person.remote.control.pay(person.checkout("usage_pro", "monthly"))
        codes = []

        def decide(_: object) -> list[Verdict]:
            verdicts = list(person.accept("1"))
            codes.append(verdicts[0].code)
            other.standing(person.user.id, soon())
            return verdicts

        decided = person.access.decide([person.user.id], decide, soon())
        assert codes == ["subscription_required", None]
        assert decided.decisions[0].code is None
        assert not decided.unconfirmed

    def test_the_dashboard_shows_it(
        self, person: Person, other: Access, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        person.remote.control.pay(person.checkout("usage_pro", "monthly"))
        ask = person.access.ask

        def late(user_id: str, deadline: Deadline) -> bool:
            other.standing(user_id, soon())
            return ask(user_id, deadline)

        monkeypatch.setattr(person.access, "ask", late)
        assert person.access.standing(person.user.id, soon())[1]


class TestPortal:
    def test_a_free_user_upgrades(self, person: Person) -> None:
        """Free to Pro in the portal: the limit of the free plan is not told any more."""
        person.buy("free")
        assert person.code("6") == "limit_reached"
        person.time_passes()
        person.in_portal("change-plan", plan="pln_usagepro", interval="monthly")
        assert person.code("6") is None

    def test_the_dashboard_comes_first(self, person: Person) -> None:
        """It shows the new plan, although the old one gives access as well."""
        person.buy("free")
        person.in_portal("change-plan", plan="pln_usagepro", interval="monthly")
        found, allowed = person.access.standing(person.user.id, soon())
        assert found is not None
        assert (found.plan_name, allowed) == ("Usage Pro", True)

    def test_resumed(self, person: Person) -> None:
        """Paused and heard of, then resumed and not heard of."""
        sub = person.buy()
        pause = httpx.post(
            f"{person.remote.base_url}/subscriptions/{sub}/pause",
            json={"mode": "immediate", "durationDays": 30},
            headers={"x-api-key": person.remote.api_key},
        )  # fmt: skip
        assert pause.status_code == 200, pause.text
        person.db.execute("update subscriptions set refresh_due = now() where id = %s", [sub])
        assert person.access.ask(person.user.id, soon())
        person.time_passes()
        assert person.code() == "subscription_required"
        person.time_passes()
        person.in_portal("resume")
        assert person.code() is None

    def test_reactivated(self, person: Person) -> None:
        """What had ended begins anew."""
        sub = person.buy()
        _cancel(person.remote, sub)
        person.db.execute("update subscriptions set refresh_due = now() where id = %s", [sub])
        assert person.access.ask(person.user.id, soon())
        assert person.code() == "subscription_required"
        person.time_passes()
        person.in_portal("reactivate")
        assert person.code() is None

    def test_commet_is_silent(self, person: Person) -> None:
        """Nobody is told to pay while the question is open."""
        person.buy("free")
        person.in_portal("change-plan", plan="pln_usagepro", interval="monthly")
        person.remote.control.fault(
            match={"path": "/subscriptions*"}, action={"status": 500}, times=None
        )
        assert person.code("6") == "access_unconfirmed"
        person.remote.control.clear_faults()
        person.time_passes()
        assert person.code("6") is None

    def test_an_answer_is_good_for_ten_seconds(self, person: Person) -> None:
        """Who was in the portal and changed nothing costs a call in ten seconds, and is refused."""
        person.buy("free")
        portal_url(
            person.db, person.commet, person.user,
            return_url="https://app.example/", now=wall_clock(), deadline=soon(),
        )  # fmt: skip
        before = self.asked(person)
        assert [person.code("6") for _ in range(5)] == ["limit_reached"] * 5
        assert self.asked(person) == before + 1

    def test_an_answer_from_before_the_link_does_not_count(self, person: Person) -> None:
        """Asked a second ago, then the portal is opened and the plan changed there."""
        person.buy("free")
        portal_url(
            person.db, person.commet, person.user,
            return_url="https://app.example/", now=wall_clock(), deadline=soon(),
        )  # fmt: skip
        assert person.code("6") == "limit_reached"
        person.in_portal("change-plan", plan="pln_usagepro", interval="monthly")
        assert person.code("6") is None

    def test_after_two_hours_nobody_is_asked(self, person: Person) -> None:
        person.buy("free")
        portal_url(
            person.db, person.commet, person.user,
            return_url="https://app.example/", now=wall_clock(), deadline=soon(),
        )  # fmt: skip
        person.db.execute("update users set doubted_until = doubted_until - interval '2 hours'")
        assert person.code("6") == "limit_reached"
        person.time_passes()
        before = self.asked(person)
        assert person.code("6") == "limit_reached"
        assert self.asked(person) == before

    def asked(self, person: Person) -> int:
        sent = person.remote.control.requests(method="GET", path="/subscriptions/active")
        return sum(each["query"].get("customerId") == person.user.id for each in sent)

    def test_who_has_a_subscription_from_commets_dashboard(self, person: Person) -> None:
        """No checkout of ours made the customer: the mirror knows them by a webhook."""
        person.buy()
        person.db.execute(
            "update users set commet_customer_id = null, customer_requested_at = null"
        )
        assert portal_url(
            person.db, person.commet, person.user,
            return_url="https://app.example/", now=wall_clock(), deadline=soon(),
        ).startswith("http")  # fmt: skip

    def test_who_never_bought_has_no_portal(self, person: Person) -> None:
        with pytest.raises(Conflict) as caught:
            portal_url(
                person.db, person.commet, person.user,
                return_url="https://app.example/", now=wall_clock(), deadline=soon(),
            )  # fmt: skip
        assert caught.value.code == "no_billing_account"


class TestSecondCheckout:
    def test_after_a_cancellation_nobody_told(self, person: Person) -> None:
        """The mirror says active; Commet says canceled: they may buy again, at once."""
        sub = person.buy()
        _cancel(person.remote, sub)
        again = person.checkout("usage_max", "monthly")
        assert again != sub

    def test_who_has_one_is_still_refused(self, person: Person) -> None:
        person.buy()
        with pytest.raises(Conflict) as caught:
            person.checkout("usage_max", "monthly")
        assert caught.value.code == "already_subscribed"


class TestRefusedDelivery:
    def run(self, person: Person) -> None:
        person.db.execute("update usage_delivery set due_at = now()")
        sending.deliver(
            person.db, person.commet, wall_clock, Deadline.after(30), timedelta(0),
            budget=Budget(person.db, 1000),
        )  # fmt: skip

    def test_access_ends_within_a_run(self, person: Person) -> None:
        """Canceled at once, and no webhook: Commet's refusal of usage has us ask."""
        sub = person.buy()
        assert person.code("2") is None
        _cancel(person.remote, sub)
        self.run(person)
        parked = person.db.all("select reason from usage_delivery where state = 'parked'")
        assert [row["reason"] for row in parked] == ["no_active_subscription"]
        reconcile.run(
            person.db, person.commet, SETTINGS, clock=wall_clock, deadline=Deadline.after(30)
        )
        found = mirror.current(person.db, person.user.id)
        assert found is not None
        assert found.status == "canceled"
        assert person.code() == "subscription_required"

    def test_another_refusal_doubts_nothing(self, person: Person) -> None:
        """Only a code that contradicts the mirror is worth a question."""
        person.buy()
        assert person.code("2") is None
        person.remote.control.fault(
            match={"method": "POST", "path": "/usage/events"},
            action={"status": 422, "code": "validation_error"}, times=None,
        )  # fmt: skip
        self.run(person)
        assert person.db.value("select count(*) from usage_delivery where state = 'parked'") == 1
        due = "select count(*) from subscriptions where refresh_due is not null"
        assert person.db.value(due) == 0
        assert outbox.gauges(person.db).parked_deliveries == 1


class TestUnknownStatus:
    @pytest.mark.parametrize(
        ("event", "fields"),
        [
            ("subscription.updated", {}),
            ("customer.state_changed", {"features": [], "plan": None, "billingInterval": None}),
        ],
    )
    def test_takes_nothing_away(self, person: Person, event: str, fields: dict[str, Any]) -> None:
        """A status that is not in the contract: Commet is asked before access goes."""
        sub = person.buy()
        data: dict[str, Any] = {
            "customerId": person.user.id, "subscriptionId": sub, "status": "hibernating", **fields,
        }  # fmt: skip
        now = wall_clock()
        minutes = (now - START) / timedelta(minutes=1)
        assert inbox.receive(
            person.db, body(event, minutes, **data), mode="sandbox", now=now
        ).outcome == "applied"  # fmt: skip
        found = mirror.current(person.db, person.user.id)
        assert found is not None
        assert found.status == "active"
        assert person.code() is None
        marked = "select refresh_due is not null from subscriptions where id = %s"
        assert person.db.value(marked, [sub]) is True


class TestKnownEnd:
    """A cancellation is booked, its time has come, and Commet sends no webhook."""

    @pytest.fixture
    def leaver(self, person: Person) -> Person:
        """Somebody whose cancellation at the end of the period is known here."""
        self.sub = person.buy()
        answer = httpx.post(
            f"{person.remote.base_url}/subscriptions/{self.sub}/cancel",
            json={}, headers={"x-api-key": person.remote.api_key},
        )  # fmt: skip
        answer.raise_for_status()
        person.db.execute("update subscriptions set refresh_due = now()")
        assert person.access.ask(person.user.id, soon())
        assert person.code("1") is None
        self.ends(person, timedelta())
        return person

    def ends(self, person: Person, ago: timedelta) -> None:
        """Has the period and the subscription end so long ago, asked about a minute ago."""
        end = wall_clock() - ago - timedelta(seconds=5)
        values = {"start": end - timedelta(days=30), "end": end}
        person.db.execute(
            "update usage_period set starts_at = %(start)s, ends_at = %(end)s", values
        )
        person.db.execute(
            "update subscriptions set period_start = %(start)s, period_end = %(end)s", values
        )
        person.time_passes()

    def periods(self, person: Person) -> int:
        return int(person.db.value("select count(*) from usage_period"))

    def test_ended(self, leaver: Person) -> None:
        """Commet says that it has ended: refused, and no period was opened."""
        _cancel(leaver.remote, self.sub)
        assert leaver.code() == "subscription_required"
        assert self.periods(leaver) == 1

    def test_still_the_old_state(self, leaver: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """Commet has not got round to it: what is left may be used, and nothing beyond."""
        self.answers_the_old_state(leaver, monkeypatch)
        assert leaver.code("90") is None
        assert leaver.code("9") is None
        assert leaver.code("1") == "limit_reached"
        assert self.periods(leaver) == 1
        assert leaver.db.value("select total from usage_total") == 100

    def test_goes_on(self, leaver: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """The cancellation was taken back and nobody told: a new period, with overage."""
        ask = leaver.commet.active_subscription
        subscription = ask(leaver.user.id, soon())
        assert subscription is not None
        renewed = subscription.model_copy(update={"cancel_at_period_end": False})
        self.answers(leaver, monkeypatch, renewed)
        assert leaver.code("150") is None

    def test_a_period_after_the_end_is_not_opened(
        self, leaver: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Commet tells of features in a next period before it ends the subscription."""
        row = leaver.db.one("select starts_at, ends_at from usage_period")
        assert row is not None
        after = {"start": row["ends_at"], "end": row["ends_at"] + timedelta(days=30)}
        self.answers_the_old_state(leaver, monkeypatch)
        old = leaver.access._commet().active_subscription(leaver.user.id, soon())
        assert old is not None
        self.answers(leaver, monkeypatch, old, period=after)
        assert leaver.code("100") == "limit_reached"
        assert self.periods(leaver) == 1

    def test_commet_is_silent(self, leaver: Person) -> None:
        """Neither yes nor no for a day; then the end holds."""
        leaver.remote.control.fault(
            match={"path": "/subscriptions*"}, action={"status": 500}, times=None
        )
        assert leaver.code() == "access_unconfirmed"
        self.ends(leaver, timedelta(hours=23))
        assert leaver.code() == "access_unconfirmed"
        self.ends(leaver, timedelta(hours=25))
        assert leaver.code() == "subscription_required"
        assert self.periods(leaver) == 1

    def test_the_old_state_is_believed_for_a_day(
        self, leaver: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Then the end holds, whatever Commet has not got round to."""
        for ago, code in ((23, None), (25, "subscription_required")):
            self.ends(leaver, timedelta(hours=ago))
            self.answers_the_old_state(leaver, monkeypatch)
            assert leaver.code() == code

    def answers_the_old_state(self, person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
        """Commet answers as it would in the moment after the end."""
        row = person.db.one("select starts_at as start, ends_at as end from usage_period")
        assert row is not None
        subscription = person.commet.active_subscription(person.user.id, soon())
        assert subscription is not None
        assert subscription.current_period is not None
        period = subscription.current_period.model_copy(update=row)
        old = subscription.model_copy(update={"current_period": period})
        self.answers(person, monkeypatch, old, period=row)

    def answers(
        self,
        person: Person,
        monkeypatch: pytest.MonkeyPatch,
        subscription: Subscription,
        *,
        period: Row | None = None,
    ) -> None:
        """Has Commet answer with this subscription, and with this period of its features."""
        features = []
        for each in person.commet.feature_access(person.user.id, soon()):
            consumption = each.consumption
            if consumption is not None and period is not None:
                moved = consumption.period.model_copy(update=period)
                consumption = consumption.model_copy(update={"period": moved})
            features.append(each.model_copy(update={"consumption": consumption}))
        commet = person.access._commet()
        monkeypatch.setattr(commet, "active_subscription", lambda *_: subscription)
        monkeypatch.setattr(commet, "feature_access", lambda *_: features)
        monkeypatch.setattr(person.access, "_commet", lambda: commet)


class TestCustomerThatCommetForgot:
    def test_a_new_one_is_made_once(self, person: Person) -> None:
        """Another key on the same database: the checkout goes through for a new customer."""
        person.checkout("usage_pro", "monthly")
        before = customers.of_user(person.db, person.user.id)
        person.remote.control.reset()
        person.db.execute("update checkout_attempt set subscription_id = null")
        assert person.checkout("usage_max", "monthly")
        after = customers.of_user(person.db, person.user.id)
        assert after not in (None, before)
        made = person.remote.control.requests(method="POST", path="/customers")
        assert len(made) == 1
