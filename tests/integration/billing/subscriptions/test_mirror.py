"""The mirror of subscriptions: late, doubled, contradicting and reordered news end in the truth."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.database.connection import Database, Row
from billing.subscriptions import inbox, mirror
from billing.subscriptions.changes import AllowancePeriod, Change
from tests.integration.billing.conftest import NOW, add_user, own_database
from tests.integration.billing.signed import SEPTEMBER, body, metered, moment, state


@pytest.fixture
def sub() -> str:
    """An id no other test uses."""
    return f"sub_{uuid4().hex[:12]}"


def receive(db: Database, *bodies: bytes) -> list[str]:
    return [inbox.receive(db, each, mode="sandbox", now=NOW).outcome for each in bodies]


def row(db: Database, sub: str) -> Row:
    found = db.one("select * from subscriptions where id = %s", [sub])
    assert found is not None
    return found


def current(db: Database, user: str) -> tuple[str, str] | None:
    found = mirror.current(db, user)
    return (found.id, found.status) if found else None


def periods(db: Database, user: str, *, opened: bool = True) -> list[tuple[Any, ...]]:
    rows = db.all(
        "select subscription_id, plan_id, starts_at, ends_at, provisional from usage_period"
        " where user_id = %s and (closed_at is null) = %s order by id",
        [user, opened],
    )
    return [tuple(each.values()) for each in rows]


def entitled(db: Database, user: str) -> dict[str, Any]:
    rows = db.all(
        "select feature, case when allowed then included end as included from entitlements"
        " where user_id = %s",
        [user],
    )
    return {each["feature"]: each["included"] for each in rows}


class TestOneSubscription:
    def test_from_checkout_to_end(self, shared: Database, user: str, sub: str) -> None:
        """The story of one subscription in order: each event changes what it speaks of."""
        receive(
            shared,
            body("subscription.created", 0, subscriptionId=sub, customerId=user,
                 planId="pln_pro", planName="Pro", status="pending_payment"),
            body("checkout.ready", 1, subscriptionId=sub, customerId=user,
                 checkoutUrl="https://pay.example/1"),
        )  # fmt: skip
        pending = row(shared, sub)
        assert (pending["status"], pending["checkout_url"]) == (
            "pending_payment",
            "https://pay.example/1",
        )
        receive(
            shared,
            body("subscription.activated", 5, subscriptionId=sub, customerId=user, status="active",
                 currentPeriodStart=SEPTEMBER[0], currentPeriodEnd=SEPTEMBER[1]),
        )  # fmt: skip
        paid = row(shared, sub)
        assert (paid["status"], paid["plan_id"]) == ("active", "pln_pro")
        assert paid["period_end"] == datetime.fromisoformat(SEPTEMBER[1])
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("subscription.cancellation_scheduled", 6, **about, status="active"))
        assert row(shared, sub)["cancel_at_period_end"] is True
        receive(shared, body("subscription.cancellation_revoked", 7, **about, status="active"))
        assert row(shared, sub)["cancel_at_period_end"] is False
        receive(shared, body("subscription.past_due", 8, **about, status="past_due"))
        assert current(shared, user) == (sub, "past_due")
        receive(shared, body("subscription.canceled", 9, **about, status="canceled"))
        assert current(shared, user) == (sub, "canceled")

    def test_late_news_changes_nothing_newer(self, shared: Database, user: str, sub: str) -> None:
        """An older event never overwrites what a newer one said, and says so in no mark."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("subscription.paused", 9, **about, status="paused"))
        receive(shared, body("subscription.past_due", 8, **about, status="past_due"))
        after = row(shared, sub)
        assert (after["status"], after["changed_at"]) == ("paused", moment(9))
        assert after["refresh_due"] is None

    def test_late_news_fills_what_nobody_said(self, shared: Database, user: str, sub: str) -> None:
        """Each column keeps the newest word on it: a late event tells what newer ones left out."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("subscription.paused", 9, **about, status="paused"))
        receive(
            shared,
            body("subscription.activated", 5, **about, status="active",
                 currentPeriodStart=SEPTEMBER[0], currentPeriodEnd=SEPTEMBER[1]),
            body("subscription.created", 0, **about, status="pending_payment", planId="pln_pro"),
        )  # fmt: skip
        found = row(shared, sub)
        assert (found["status"], found["plan_id"]) == ("paused", "pln_pro")
        assert found["period_start"] == datetime.fromisoformat(SEPTEMBER[0])
        assert found["created_at"] == moment(0)
        assert found["changed_at"] == moment(9)

    def test_a_duplicate_is_told(self, shared: Database, user: str, sub: str) -> None:
        """The same event a second time is a duplicate and moves nothing, not even the version."""
        event = state(user, sub, 1)
        assert receive(shared, event) == ["applied"]
        before = row(shared, sub)
        assert receive(shared, event, event) == ["duplicate", "duplicate"]
        assert row(shared, sub) == before

    def test_the_same_id_with_another_body_is_a_duplicate(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """A retried delivery may carry a body computed anew: its id decides."""
        about = {"subscriptionId": sub, "customerId": user, "id": f"whev_{sub}"}
        receive(shared, body("subscription.past_due", 1, **about, status="past_due"))
        late = body("subscription.canceled", 2, **about, status="canceled")
        assert receive(shared, late) == ["duplicate"]
        assert row(shared, sub)["status"] == "past_due"

    def test_every_applied_event_raises_the_version(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """Else a refresh under way would overwrite it, or take away its mark."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, state(user, sub, 1))
        versions = [row(shared, sub)["version"]]
        for event in (
            body("subscription.past_due", 2, **about, status="past_due"),
            body("invoice.created", 1.5, **about),
            body("payment.recovered", 3, **about),
        ):
            receive(shared, event)
            versions.append(row(shared, sub)["version"])
        assert versions == sorted(set(versions))


class TestTies:
    def test_contradiction_marks(self, shared: Database, user: str, sub: str) -> None:
        """Two events of one moment that differ: the first stays, and Commet is to be asked."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, state(user, sub, 1))
        receive(shared, body("subscription.past_due", 2, **about, status="past_due"))
        assert row(shared, sub)["refresh_due"] is None
        receive(shared, body("subscription.plan_change_scheduled", 2, **about, status="active"))
        assert row(shared, sub)["status"] == "past_due"
        assert row(shared, sub)["refresh_due"] is not None

    def test_agreement_does_not(self, shared: Database, user: str, sub: str) -> None:
        """Events of one moment usually tell parts of one thing: they add up."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(
            shared,
            state(user, sub, 1),
            body("subscription.activated", 1, **about, status="active",
                 currentPeriodStart=SEPTEMBER[0], currentPeriodEnd=SEPTEMBER[1]),
        )  # fmt: skip
        found = row(shared, sub)
        assert found["refresh_due"] is None
        assert (found["plan_id"], found["period_end"]) == (
            "pln_pro",
            datetime.fromisoformat(SEPTEMBER[1]),
        )

    def test_sets_of_entitlements(self, shared: Database, user: str, sub: str) -> None:
        """Two whole sets of one moment: the same one again is nothing new, another one marks."""
        receive(shared, state(user, sub, 1), state(user, sub, 1))
        assert row(shared, sub)["refresh_due"] is None
        receive(shared, state(user, sub, 1, features=[metered(included=50)]))
        assert row(shared, sub)["refresh_due"] is not None

    def test_none_and_live_at_once(self, shared: Database, user: str, sub: str) -> None:
        """`none` of the moment a subscription was told to be active: nobody knows, so ask."""
        receive(shared, state(user, sub, 1), state(user, None, 1))
        assert row(shared, sub)["status"] == "active"
        assert row(shared, sub)["refresh_due"] is not None


class TestMarks:
    @pytest.mark.parametrize(
        "event", ["invoice.created", "payment.recovered", "trial.expired", "plan_grant.created"]
    )
    def test_events_without_state(self, shared: Database, user: str, sub: str, event: str) -> None:
        """What only tells that something changed marks the row and leaves its age alone."""
        receive(shared, state(user, sub, 1))
        receive(shared, body(event, 5, subscriptionId=sub, customerId=user))
        found = row(shared, sub)
        assert found["refresh_due"] is not None
        assert (found["status"], found["changed_at"]) == ("active", moment(1))
        receive(
            shared, body("subscription.past_due", 2, subscriptionId=sub, customerId=user,
                         status="past_due"),
        )  # fmt: skip
        assert row(shared, sub)["status"] == "past_due"

    def test_even_late_ones(self, shared: Database, user: str, sub: str) -> None:
        """When it happened does not matter: it tells that something is missing."""
        receive(shared, state(user, sub, 9))
        receive(shared, body("invoice.created", 5, subscriptionId=sub, customerId=user))
        assert row(shared, sub)["refresh_due"] is not None

    def test_first_word_of_a_subscription(self, shared: Database, user: str, sub: str) -> None:
        """A mark for a row we never heard of makes one of unknown status, older than any news."""
        receive(shared, body("invoice.created", 5, subscriptionId=sub, customerId=user))
        assert current(shared, user) == (sub, "unknown")
        receive(shared, state(user, sub, 1))
        assert current(shared, user) == (sub, "active")

    def test_an_event_without_a_time_only_marks(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """It cannot be ordered, so it changes nothing by itself."""
        receive(shared, state(user, sub, 1))
        event = body("subscription.canceled", None, subscriptionId=sub, customerId=user)
        assert receive(shared, event) == ["applied"]
        assert row(shared, sub)["status"] == "active"
        assert row(shared, sub)["refresh_due"] is not None


class TestSeveralRows:
    def test_news_touches_its_own_row(self, shared: Database, user: str, sub: str) -> None:
        """The end of an old subscription is not the end of the new one."""
        old, new = f"{sub}_old", f"{sub}_new"
        receive(
            shared,
            state(user, old, 1),
            state(user, new, 5),
            body("subscription.canceled", 6, subscriptionId=old, customerId=user),
        )
        assert current(shared, user) == (new, "active")
        assert row(shared, old)["status"] == "canceled"

    def test_a_replaced_pending_checkout(self, shared: Database, user: str, sub: str) -> None:
        """Live wins over pending, pending over ended, and among pending the newest."""
        first, second, third = (f"{sub}_{n}" for n in "abc")
        for minutes, each in ((1, first), (2, second), (3, third)):
            receive(
                shared,
                body("subscription.created", minutes, subscriptionId=each, customerId=user,
                     status="pending_payment"),
            )  # fmt: skip
        assert current(shared, user) == (third, "pending_payment")
        receive(shared, body("subscription.canceled", 4, subscriptionId=third, customerId=user))
        assert current(shared, user) == (second, "pending_payment")
        receive(
            shared,
            body("subscription.activated", 5, subscriptionId=first, customerId=user,
                 status="active"),
        )  # fmt: skip
        assert current(shared, user) == (first, "active")

    def test_none_ends_all_that_was_live(self, shared: Database, user: str, sub: str) -> None:
        """`none` names no subscription: it ends every live one, and no pending one."""
        live, due, waiting = f"{sub}_a", f"{sub}_b", f"{sub}_c"
        receive(
            shared,
            state(user, live, 1),
            state(user, due, 2, "past_due"),
            body("subscription.created", 3, subscriptionId=waiting, customerId=user,
                 status="pending_payment"),
            state(user, None, 4),
        )  # fmt: skip
        assert [row(shared, each)["status"] for each in (live, due, waiting)] == [
            "canceled",
            "canceled",
            "pending_payment",
        ]
        # Which plan and period they ended with may have changed unheard.
        assert all(row(shared, each)["refresh_due"] for each in (live, due))
        assert entitled(shared, user) == {"storage": None}
        assert periods(shared, user) == []

    def test_late_none_does_not_end_what_began_later(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """The `none` between two subscriptions may arrive after the second one."""
        receive(shared, state(user, sub, 5), state(user, None, 4))
        assert current(shared, user) == (sub, "active")
        assert entitled(shared, user) == {"storage": 100}
        assert len(periods(shared, user)) == 1

    def test_none_ends_what_we_hear_of_later(self, shared: Database, user: str, sub: str) -> None:
        """An activation that is older than `none` opens no access, though its row is new to us."""
        receive(shared, state(user, None, 4), state(user, sub, 3))
        assert current(shared, user) == (sub, "canceled")
        assert entitled(shared, user) == {}
        assert periods(shared, user) == []

    def test_a_subscription_of_somebody_else(self, shared: Database, user: str, sub: str) -> None:
        """It moves to the user whom the newest change names, with all that it gives."""
        receive(shared, state(user, sub, 1))
        other = add_user(shared)
        assert receive(shared, state(other, sub, 2, "past_due")) == ["applied"]
        assert current(shared, user) is None
        assert current(shared, other) == (sub, "past_due")
        assert [entitled(shared, each)["storage"] for each in (user, other)] == [None, 100]
        assert [len(periods(shared, each)) for each in (user, other)] == [0, 1]


class TestWhoIsMeant:
    def test_by_commets_own_id(self, shared: Database, sub: str) -> None:
        """Customers made in Commet's dashboard are spoken of by Commet's id."""
        user = add_user(shared, customer=f"cus_{sub}")
        assert receive(shared, state(f"cus_{sub}", sub, 1)) == ["applied"]
        assert current(shared, user) == (sub, "active")

    def test_nobody_we_know(self, shared: Database, sub: str) -> None:
        """An event for a stranger is stored and acknowledged."""
        assert receive(shared, state(f"usr_of_{sub}", sub, 1)) == ["ignored"]
        assert shared.one("select 1 from subscriptions where id = %s", [sub]) is None

    def test_the_other_mode(self, shared: Database, user: str, sub: str) -> None:
        """A live event on a sandbox stack is stored and changes nothing."""
        assert receive(shared, state(user, sub, 1, mode="live")) == ["ignored"]
        assert current(shared, user) is None

    def test_unknown_types(self, shared: Database, user: str, sub: str) -> None:
        """Commet adds events without notice."""
        event = body("subscription.teleported", 1, subscriptionId=sub, customerId=user)
        assert receive(shared, event) == ["ignored"]

    def test_an_unknown_status_gives_no_access(self, shared: Database, user: str, sub: str) -> None:
        """And enum values, too."""
        receive(shared, state(user, sub, 1, "hibernating"))
        found = mirror.current(shared, user)
        assert found is not None
        assert not found.gives_access({"active", "trialing", "past_due"})


class TestEntitlements:
    def test_what_is_no_longer_listed_allows_nothing(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """It stays as a row that allows nothing, which older news cannot bring back."""
        receive(shared, state(user, sub, 1, features=[metered("a"), metered("b", included=5)]))
        assert entitled(shared, user) == {"a": 100, "b": 5}
        receive(shared, state(user, sub, 3, features=[metered("a")]))
        assert entitled(shared, user) == {"a": 100, "b": None}
        receive(shared, state(user, sub, 2, features=[metered("b"), metered("c")]))
        assert entitled(shared, user) == {"a": 100, "b": None}

    def test_an_older_set_adds_nothing(self, shared: Database, user: str, sub: str) -> None:
        """A set is whole: a feature that only an older one lists is not granted."""
        receive(shared, state(user, sub, 2, features=[metered("a")]))
        receive(shared, state(user, sub, 1, features=[metered("a", included=7), metered("b")]))
        assert entitled(shared, user) == {"a": 100}

    def test_a_price_is_kept(self, shared: Database, user: str, sub: str) -> None:
        """Change that leaves the unit price out does not make usage free."""
        receive(shared, state(user, sub, 1))
        silent = metered()
        del silent["consumption"]["overage"]["unitPrice"]
        receive(shared, state(user, sub, 2, features=[silent]))
        price = "select unit_price from entitlements where user_id = %s"
        assert shared.value(price, [user]) == 1000

    def test_large_allowances(self, shared: Database, user: str, sub: str) -> None:
        """Bytes and tokens come by the billion."""
        receive(shared, state(user, sub, 1, features=[metered(included=5_000_000_000_000)]))
        assert entitled(shared, user) == {"storage": 5_000_000_000_000}


class TestPeriods:
    def test_opened_and_confirmed(self, shared: Database, user: str, sub: str) -> None:
        """The first whole state opens the period; the same again leaves it as it is."""
        receive(shared, state(user, sub, 1), state(user, sub, 2))
        start, end = map(datetime.fromisoformat, SEPTEMBER)
        assert periods(shared, user) == [(sub, "pln_pro", start, end, False)]

    def test_a_provisional_one_is_confirmed(self, shared: Database, user: str, sub: str) -> None:
        """What we opened because Commet was silent becomes the real one, end included."""
        october = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
        receive(shared, state(user, sub, 1))
        shared.execute(
            "update usage_period set starts_at = %s, ends_at = %s, provisional = true"
            " where user_id = %s",
            [october[0], "2026-10-31T00:00:00Z", user],
        )
        receive(shared, state(user, sub, 2, features=[metered(period=october)]))
        start, end = map(datetime.fromisoformat, october)
        assert periods(shared, user) == [(sub, "pln_pro", start, end, False)]
        assert periods(shared, user, opened=False) == []

    def test_late_news_of_the_last_period(self, shared: Database, user: str, sub: str) -> None:
        """After the roll-over, what is told of the period before opens nothing anew."""
        receive(shared, state(user, sub, 1))
        shared.execute("update usage_period set closed_at = now() where user_id = %s", [user])
        shared.execute(
            "insert into usage_period (user_id, subscription_id, plan_id, starts_at, ends_at,"
            " provisional) values (%s, %s, 'pln_pro', '2026-10-01Z', '2026-11-01Z', true)",
            [user, sub],
        )
        before = periods(shared, user)
        receive(shared, state(user, sub, 2))
        assert periods(shared, user) == before

    def test_another_plan_opens_another(self, shared: Database, user: str, sub: str) -> None:
        """A plan change starts counting anew, even on the same day."""
        receive(shared, state(user, sub, 1), state(user, sub, 2, plan="pln_max"))
        assert [each[1] for each in periods(shared, user)] == ["pln_max"]
        assert [each[1] for each in periods(shared, user, opened=False)] == ["pln_pro"]

    def test_closed_by_the_end_and_opened_again(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """An ended subscription counts nothing; coming back within its period goes on with it."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, state(user, sub, 1), body("subscription.canceled", 2, **about))
        assert periods(shared, user) == []
        receive(shared, state(user, sub, 3))
        assert len(periods(shared, user)) == 1
        assert periods(shared, user, opened=False) == []

    def test_a_late_state_does_not_reopen(self, shared: Database, user: str, sub: str) -> None:
        """The end came first: the state before it opens no period."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("subscription.canceled", 2, **about), state(user, sub, 1))
        assert periods(shared, user) == []

    def test_live_without_a_period_is_asked_about(
        self, shared: Database, user: str, sub: str
    ) -> None:
        """Paid, but nothing can be counted yet: the row is marked until there is a period."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("subscription.activated", 1, **about, status="active"))
        assert row(shared, sub)["refresh_due"] is not None

    def test_a_revoked_change_is_asked_about(self, shared: Database, user: str, sub: str) -> None:
        """Another change may have replaced it, in a webhook that is dated a moment before."""
        about = {"subscriptionId": sub, "customerId": user, "status": "active"}
        receive(
            shared,
            state(user, sub, 1),
            body("subscription.plan_change_scheduled", 2, **about,
                 scheduledPlan={"id": "pln_pro", "name": "Pro"}, scheduledBillingInterval="monthly",
                 effectiveAt=SEPTEMBER[1]),
        )  # fmt: skip
        assert row(shared, sub)["refresh_due"] is None
        receive(
            shared,
            body("subscription.plan_change_revoked", 2.001, **about,
                 revokedPlan={"id": "pln_free", "name": "Free"}),
        )  # fmt: skip
        assert row(shared, sub)["refresh_due"] is not None


def history(user: str, sub: str) -> list[bytes]:
    """Somebody pays, upgrades, falls behind, recovers, leaves, and starts again."""
    old = {"subscriptionId": f"{sub}_1", "customerId": user}
    new = {"subscriptionId": f"{sub}_2", "customerId": user}
    later = ("2026-09-03T00:00:00Z", "2026-10-03T00:00:00Z")
    return [
        body("subscription.created", 0, **old, planId="pln_pro", planName="Pro",
             status="pending_payment"),
        state(user, f"{sub}_1", 1, "pending_payment", features=[]),
        body("checkout.ready", 2, **old, checkoutUrl="https://pay.example/1"),
        body("subscription.activated", 3, **old, status="active",
             currentPeriodStart=SEPTEMBER[0], currentPeriodEnd=SEPTEMBER[1]),
        state(user, f"{sub}_1", 4),
        body("subscription.plan_changed", 5, **old, billingInterval="monthly",
             currentPlan={"id": "pln_max", "name": "Max"}),
        state(user, f"{sub}_1", 6, plan="pln_max", features=[metered("a"), metered("b")]),
        body("subscription.plan_change_scheduled", 6.2, **old, status="active",
             scheduledPlan={"id": "pln_free", "name": "Free"}, scheduledBillingInterval=None,
             effectiveAt=SEPTEMBER[1]),
        body("subscription.plan_change_revoked", 6.4, **old, status="active",
             revokedPlan={"id": "pln_free", "name": "Free"}),
        body("subscription.plan_change_scheduled", 6.6, **old, status="active",
             scheduledPlan={"id": "pln_pro", "name": "Pro"}, scheduledBillingInterval="monthly",
             effectiveAt=SEPTEMBER[1]),
        body("subscription.past_due", 7, **old, status="past_due"),
        body("invoice.created", 7.5, **old),
        body("subscription.cancellation_scheduled", 8, **old, status="past_due"),
        body("subscription.canceled", 9, **old, status="canceled"),
        state(user, None, 10),
        body("subscription.created", 11, **new, planId="pln_pro", status="pending_payment"),
        state(user, f"{sub}_2", 12, features=[metered("b", period=later)]),
    ]  # fmt: skip


def outcome(db: Database, user: str, sub: str) -> tuple[Any, ...]:
    """Everything that must not depend on the order of events."""
    rows = db.all(
        "select id, status, plan_id, plan_name, billing_interval, period_start, period_end,"
        " cancel_at_period_end, scheduled_change, trial_ends_at, checkout_url, created_at,"
        " known_at"
        " from subscriptions where user_id = %s order by id",
        [user],
    )
    plain = [{**each, "id": each["id"].removeprefix(sub)} for each in rows]
    opened = [(p[0].removeprefix(sub), *p[1:]) for p in periods(db, user)]
    granted = {feature: n for feature, n in entitled(db, user).items() if n is not None}
    return plain, opened, granted


class TestConvergence:
    @pytest.mark.parametrize("length", [4, 8, 9, 10, 14, 15, 17])
    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_any_order_with_duplicates(
        self, shared: Database, length: int, data: st.DataObject
    ) -> None:
        """However the events of a history are shuffled and doubled, they end in the same rows."""
        order = data.draw(
            st.lists(st.integers(0, length - 1), max_size=6).flatmap(
                lambda doubled: st.permutations([*range(length), *doubled])
            )
        )
        told_user, mixed_user = add_user(shared), add_user(shared)
        receive(shared, *history(told_user, told_user)[:length])
        mixed = history(mixed_user, mixed_user)
        outcomes = receive(shared, *(mixed[index] for index in order))
        assert set(outcomes) <= {"applied", "duplicate"}
        assert outcome(shared, mixed_user, mixed_user) == outcome(shared, told_user, told_user)

    def test_concurrent_deliveries(self, shared: Database, migrated_url: str, user: str) -> None:
        """Many environments applying one user's events at once: no deadlock, same rows."""
        told_user = add_user(shared)
        receive(shared, *history(told_user, told_user))
        bodies = history(user, user)

        def deliver(events: Sequence[bytes]) -> list[str]:
            with own_database(migrated_url) as db:
                return receive(db, *events)

        with ThreadPoolExecutor(4) as pool:
            shuffled = [bodies, bodies[::-1], bodies[7:] + bodies[:7], bodies[::2] + bodies[1::2]]
            outcomes = [word for words in pool.map(deliver, shuffled) for word in words]
        assert sorted(outcomes) == ["applied"] * 17 + ["duplicate"] * 51
        assert outcome(shared, user, user) == outcome(shared, told_user, told_user)


class TestConfirm:
    @pytest.fixture
    def known(self) -> dict[str, Any]:
        """A whole answer of Commet's."""
        return {
            "status": "active", "plan_id": "pln_pro", "plan_name": "Pro",
            "billing_interval": "monthly", "period_start": SEPTEMBER[0],
            "period_end": SEPTEMBER[1], "cancel_at_period_end": False, "trial_ends_at": None,
            "checkout_url": None, "created_at": SEPTEMBER[0], "scheduled_change": None,
        }  # fmt: skip

    def confirm(self, db: Database, sub: str, known: dict[str, Any], minutes: float) -> str:
        version = row(db, sub)["version"]
        at = moment(minutes)
        return mirror.confirm(db, sub, version, known, at=at, asked_at=moment(9))

    def test_an_older_answer_leaves_a_booked_change(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """The webhook that booked it is a minute newer than the answer, which does not know it."""
        booked = {
            "plan_id": "pln_free", "plan_name": "Free", "interval": None,
            "effective_at": SEPTEMBER[1],
        }  # fmt: skip
        change = Change(sub, known | {"scheduled_change": booked})
        mirror.record_change(shared, user, change, at=moment(2), now=moment(2))
        assert self.confirm(shared, sub, known, 1) == "stale"
        assert row(shared, sub)["scheduled_change"] == booked
        assert self.confirm(shared, sub, known, 3) == "healed"  # a newer one knows it was revoked
        assert row(shared, sub)["scheduled_change"] is None

    def answer(self, db: Database, sub: str, known: dict[str, Any], version: int) -> str:
        """An answer to a question that was asked when the row was read at this version."""
        return mirror.confirm(db, sub, version, known, at=moment(9), asked_at=moment(9))

    def test_takes_the_mark_away(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """What Commet itself says fills the row."""
        receive(shared, body("invoice.created", 1, subscriptionId=sub, customerId=user))
        assert self.confirm(shared, sub, known, 1) == "healed"
        found = row(shared, sub)
        assert (found["status"], found["plan_id"]) == ("active", "pln_pro")
        assert found["refresh_due"] is None
        assert found["confirmed_at"] is not None

    def test_loses_against_news_that_came_meanwhile(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """The version moved between question and answer: the answer may be the older one."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("invoice.created", 1, **about))
        version = row(shared, sub)["version"]
        receive(shared, body("subscription.canceled", 2, **about))
        assert self.answer(shared, sub, known, version) == "stale"
        assert row(shared, sub)["status"] == "canceled"
        assert row(shared, sub)["refresh_due"] is not None

    def test_a_mark_that_came_meanwhile_stays(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """A second mark tells of something the answer may not know yet."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("invoice.created", 1, **about))
        version = row(shared, sub)["version"]
        receive(shared, body("payment.recovered", 2, **about))
        assert self.answer(shared, sub, known, version) == "stale"
        assert row(shared, sub)["refresh_due"] is not None

    def test_loses_against_newer_events(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """An answer from a replica that lags, contradicting an event, is not written."""
        receive(shared, state(user, sub, 5, "past_due"))
        assert self.confirm(shared, sub, known, 1) == "stale"
        assert row(shared, sub)["status"] == "past_due"
        assert self.confirm(shared, sub, known, 5 - 4 / 60) != "stale"

    def test_fills_in_what_an_end_did_not_tell(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """A newer word on one column keeps no answer from another."""
        begun = {"currentPeriodStart": SEPTEMBER[0], "currentPeriodEnd": "2026-09-15T00:00:00Z"}
        about = {"subscriptionId": sub, "customerId": user}
        receive(
            shared,
            body("subscription.activated", 0, **about, status="active", **begun),
            state(user, None, 5),
        )
        assert self.confirm(shared, sub, known | {"status": "canceled"}, 1) == "healed"
        assert row(shared, sub)["period_end"] == datetime.fromisoformat(SEPTEMBER[1])

    def test_wins_long_after_the_event(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """No replica lags for ten minutes: what Commet says then is what holds."""
        receive(shared, state(user, sub, 5, "past_due"))
        version = row(shared, sub)["version"]
        late = moment(16)
        outcome = mirror.confirm(shared, sub, version, known, at=moment(1), asked_at=late)
        assert outcome == "healed"
        assert row(shared, sub)["status"] == "active"

    def test_an_older_word_that_there_is_none(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """Confirmed a moment later than it: it does not end the subscription again."""
        receive(shared, state(user, sub, 1), state(user, None, 5))
        assert self.confirm(shared, sub, known, 5 - 4 / 60) == "healed"
        mirror.record_change(shared, user, Change(features=[]), at=moment(10), now=moment(10))
        assert row(shared, sub)["status"] == "active"

    def test_wins_where_it_agrees(
        self, shared: Database, user: str, sub: str, known: dict[str, Any]
    ) -> None:
        """Events that do not change the subscription leave its `updatedAt` behind."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, state(user, sub, 1), body("trial.will_end", 5, **about, status="active"))
        assert self.confirm(shared, sub, known, 1) != "stale"
        assert row(shared, sub)["refresh_due"] is None
        assert row(shared, sub)["period_end"] == datetime.fromisoformat(SEPTEMBER[1])


class TestClaims:
    def claims(self, db: Database, user: str, now: datetime = NOW) -> bool:
        return mirror.lease_refresh(db, user, now)

    def test_no_row_no_question(self, shared: Database, user: str) -> None:
        """Somebody who never started to pay costs Commet nothing."""
        assert not self.claims(shared, user)

    def test_nothing_due(self, shared: Database, user: str, sub: str) -> None:
        """A live row within its period, unmarked, is the truth as far as we know."""
        receive(shared, state(user, sub, 1))
        activated = {
            "status": "active",
            "currentPeriodStart": SEPTEMBER[0],
            "currentPeriodEnd": SEPTEMBER[1],
        }
        receive(
            shared,
            body("subscription.activated", 2, subscriptionId=sub, customerId=user, **activated),
        )
        assert not self.claims(shared, user)

    def test_a_period_nobody_told(self, shared: Database, user: str, sub: str) -> None:
        """The event that carries it may be lost."""
        receive(shared, state(user, sub, 1))
        assert self.claims(shared, user)

    def test_not_confirmed_for_a_day(self, shared: Database, user: str, sub: str) -> None:
        """Nothing happened, or nobody told."""
        self.test_nothing_due(shared, user, sub)
        shared.execute("update subscriptions set recheck_at = now() where id = %s", [sub])
        assert self.claims(shared, user)

    @pytest.mark.parametrize(
        ("event", "due"),
        [
            (("subscription.created", {"status": "pending_payment"}), True),
            (("subscription.canceled", {}), True),
            (("invoice.created", {}), True),
            (("subscription.paused", {}), False),
        ],
    )
    def test_what_is_due(
        self, shared: Database, user: str, sub: str, event: tuple[str, dict[str, str]], due: object
    ) -> None:
        """A young unpaid checkout may have been paid; a mark tells that something is missing."""
        name, data = event
        now = moment(60)
        receive(shared, body(name, 1, subscriptionId=sub, customerId=user, **data))
        assert self.claims(shared, user, now) is due

    def test_an_old_checkout_is_left_alone(self, shared: Database, user: str, sub: str) -> None:
        """After a day nobody asks any more."""
        receive(
            shared, body("subscription.created", 0, subscriptionId=sub, customerId=user,
                         status="pending_payment"),
        )  # fmt: skip
        assert not self.claims(shared, user, moment(0) + timedelta(days=1))
        assert self.claims(shared, user, moment(0) + timedelta(hours=23))

    def test_a_period_that_ended(self, shared: Database, user: str, sub: str) -> None:
        """A live row past its end: the renewal was not told, or it is over."""
        receive(
            shared,
            state(user, sub, 1),
            body("subscription.activated", 1, subscriptionId=sub, customerId=user,
                 status="active", currentPeriodStart=SEPTEMBER[0],
                 currentPeriodEnd=SEPTEMBER[1]),
        )  # fmt: skip
        end = datetime.fromisoformat(SEPTEMBER[1])
        assert not self.claims(shared, user, end - timedelta(seconds=1))
        assert self.claims(shared, user, end)

    def test_once_in_ten_seconds_also_at_once(
        self, shared: Database, migrated_url: str, user: str, sub: str
    ) -> None:
        """Of many callers, for many rows, exactly one may ask."""
        for each in ("a", "b"):
            receive(shared, body("invoice.created", 1, subscriptionId=sub + each, customerId=user))

        def claim(_: int) -> bool:
            with own_database(migrated_url) as db:
                return self.claims(db, user)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(claim, range(16))) == 1
        receive(shared, body("invoice.created", 2, subscriptionId=sub + "c", customerId=user))
        assert not self.claims(shared, user)

    def test_the_pause_grows_to_ten_minutes(self, shared: Database, user: str, sub: str) -> None:
        """Each question in a row doubles the pause; news starts it anew."""
        about = {"subscriptionId": sub, "customerId": user}
        receive(shared, body("invoice.created", 1, **about))
        age = "update subscriptions set checked_at = checked_at - %s where id = %s"
        pauses = []
        for _ in range(8):
            assert self.claims(shared, user)
            seconds = 10
            while seconds < 4000:
                shared.execute(age, [timedelta(seconds=seconds), sub])
                due = "select refresh_is_due(s, %s) from subscriptions s where id = %s"
                if shared.value(due, [NOW, sub]):
                    break
                shared.execute(age, [timedelta(seconds=-seconds), sub])
                seconds += 10
            pauses.append(seconds)
        assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
        self.claims(shared, user)
        receive(shared, body("invoice.created", 2, **about))
        shared.execute(age, [timedelta(seconds=10), sub])
        assert self.claims(shared, user)


class TestRecordChange:
    def test_boundaries_of_what_columns_hold(self, shared: Database, user: str, sub: str) -> None:
        """The largest and the oldest things a parsed event can hold fit the tables."""
        receive(
            shared,
            body("trial.started", 1, subscriptionId=sub, customerId=user, planName="x" * 500,
                 status="s" * 500, trialEndsAt="9999-12-31T23:59:59.999999Z"),
            state(user, sub, 2, features=[metered(
                included=999_999_999_999_999, period=("0001-01-01", "9999-12-31"))]),
        )  # fmt: skip
        assert row(shared, sub)["refresh_due"] is not None

    def test_a_period_needs_its_subscription(self, shared: Database, user: str) -> None:
        """A period for a subscription nobody spoke of is not opened."""
        change = Change(features=[], period=AllowancePeriod("sub_nobody", *SEPTEMBER))
        mirror.record_change(shared, user, change, at=moment(1), now=NOW)
        assert periods(shared, user) == []


def test_askable(shared: Database, user: str, sub: str) -> None:
    """Of many users, only those Commet could say something new about."""
    other = add_user(shared)
    receive(shared, body("invoice.created", 1, subscriptionId=sub, customerId=user))
    assert mirror.askable(shared, [user, other], NOW) == [user]
    assert mirror.lease_refresh(shared, user, NOW)
    assert mirror.askable(shared, [user, other], NOW) == []
