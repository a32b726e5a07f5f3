"""Each age at which the mirror, the inbox or a checkout decides otherwise, at both sides."""

from datetime import datetime, timedelta
from typing import cast

import pytest

from billing.commet.answers import Plan
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.subscriptions import checkout, inbox, mirror, plans, refresh
from billing.subscriptions.changes import Change
from tests.integration.billing.conftest import NOW, add_user, after, subscriber
from tests.integration.billing.signed import body, moment, state

MOMENT = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SUB = "sub_usr_ana"


def ana(frozen: Database, **columns: object) -> None:
    """A user with a subscription, with columns as given: an age stands for so much before now."""
    subscriber(frozen)()
    change(frozen, "subscriptions", **columns)


def change(frozen: Database, table: str, **columns: object) -> None:
    for column, value in columns.items():
        to = "now() - %s" if isinstance(value, timedelta) else "%s"
        frozen.execute(f"update {table} set {column} = {to}", [value])  # noqa: S608


def is_true(frozen: Database, call: str) -> bool:
    """What a function of one subscription and a time says."""
    return bool(frozen.value(f"select {call} from subscriptions s", [NOW]))  # noqa: S608


class TestDoubt:
    @pytest.mark.parametrize(("age", "doubt"), [(DAY - MOMENT, True), (DAY, False)])
    def test_of_an_unpaid_checkout_for_a_day(
        self, frozen: Database, age: timedelta, *, doubt: bool
    ) -> None:
        ana(frozen, status="pending_payment", created_at=NOW - age)
        assert is_true(frozen, "is_in_doubt(s, %s)") is doubt

    @pytest.mark.parametrize(("age", "doubt"), [(-MOMENT, False), (timedelta(0), True)])
    def test_of_a_period_that_ended(self, frozen: Database, age: timedelta, *, doubt: bool) -> None:
        ana(frozen, period_end=NOW - age)
        assert is_true(frozen, "is_in_doubt(s, %s)") is doubt

    @pytest.mark.parametrize(
        ("created", "confirmed", "found"),
        [
            (HOUR - MOMENT, 10 * SECOND + MOMENT, True),
            (HOUR, 10 * SECOND + MOMENT, False),
            (HOUR - MOMENT, 10 * SECOND, False),
        ],
    )
    def test_an_answer_about_a_young_checkout_is_good_for_ten_seconds(
        self, frozen: Database, created: timedelta, confirmed: timedelta, *, found: bool
    ) -> None:
        """In its first hour, when people pay. It was asked about just before it was confirmed."""
        ana(
            frozen, status="pending_payment", created_at=NOW - created,
            confirmed_at=confirmed, checked_at=confirmed, checks=9,
        )  # fmt: skip
        assert bool(mirror.unanswered(frozen, ["usr_ana"], NOW)) is found


class TestAsking:
    @pytest.mark.parametrize(("age", "asked"), [(10 * SECOND - MOMENT, True), (10 * SECOND, False)])
    def test_once_in_ten_seconds(self, frozen: Database, age: timedelta, *, asked: bool) -> None:
        ana(frozen, checked_at=age)
        assert bool(frozen.value("select was_just_asked(s) from subscriptions s")) is asked

    @pytest.mark.parametrize(
        ("checks", "pause"),
        [(1, 10 * SECOND), (2, 20 * SECOND), (7, 10 * MINUTE), (99, 10 * MINUTE)],
    )
    @pytest.mark.parametrize(("early", "due"), [(MOMENT, False), (timedelta(0), True)])
    def test_after_a_pause_that_doubles(
        self, frozen: Database, checks: int, pause: timedelta, early: timedelta, *, due: bool
    ) -> None:
        ana(frozen, checks=checks, checked_at=pause - early, refresh_due=timedelta(0))
        assert is_true(frozen, "refresh_is_due(s, %s)") is due


class TestAnAnswer:
    """Commet's answer says `paused`, which contradicts the newest change: `active`."""

    def confirm(self, frozen: Database, *, at: datetime, asked_at: datetime) -> str:
        ana(frozen)
        said = Change(SUB, {"status": "active"})
        mirror.record_change(frozen, "usr_ana", said, at=NOW, now=NOW)
        version = frozen.value("select version from subscriptions")
        known: dict[str, object] = {"status": "paused", "cancel_at_period_end": False}
        return mirror.confirm(frozen, SUB, version, known, at=at, asked_at=asked_at)

    @pytest.mark.parametrize(
        ("lag", "word"), [(5 * SECOND, "healed"), (5 * SECOND + MOMENT, "stale")]
    )
    def test_as_old_as_the_newest_change(self, frozen: Database, lag: timedelta, word: str) -> None:
        """Answers may lag five seconds behind webhooks."""
        assert self.confirm(frozen, at=NOW - lag, asked_at=NOW) == word

    @pytest.mark.parametrize(
        ("later", "word"), [(10 * MINUTE - MOMENT, "stale"), (10 * MINUTE, "healed")]
    )
    def test_asked_for_long_after(self, frozen: Database, later: timedelta, word: str) -> None:
        """Ten minutes after the change the answer counts, however old it calls itself."""
        assert self.confirm(frozen, at=NOW - DAY, asked_at=NOW + later) == word


class TestAWebhookFromTheFuture:
    """What claims to come from more than five minutes ahead counts as five minutes ahead."""

    def receive(self, db: Database, ahead: timedelta, status: str, *, now: datetime = NOW) -> None:
        minutes = (now + ahead - moment(0)) / MINUTE
        about = {"subscriptionId": SUB, "customerId": "usr_ana", "status": status}
        event = body(f"subscription.{status}", minutes, **about)
        assert inbox.receive(db, event, mode="sandbox", now=now).outcome == "applied"

    @pytest.mark.parametrize(
        ("ahead", "recorded"),
        [
            (5 * MINUTE - SECOND, 5 * MINUTE - SECOND),
            (5 * MINUTE, 5 * MINUTE),
            (5 * MINUTE + SECOND, 5 * MINUTE),
            (3650 * DAY, 5 * MINUTE),
        ],
    )
    def test_is_dated_no_later(
        self, frozen: Database, ahead: timedelta, recorded: timedelta
    ) -> None:
        add_user(frozen, "usr_ana")
        self.receive(frozen, ahead, "paused")
        assert frozen.value("select changed_at from subscriptions") == NOW + recorded
        assert frozen.value("select occurred_at from webhooks") == NOW + recorded

    def test_does_not_outdo_what_comes_later(self, frozen: Database) -> None:
        add_user(frozen, "usr_ana")
        self.receive(frozen, 3650 * DAY, "paused")
        self.receive(frozen, timedelta(0), "past_due", now=after(minutes=6))
        assert frozen.value("select status from subscriptions") == "past_due"

    def test_nor_when_it_is_retried(self, frozen: Database) -> None:
        """The time of the retry counts then."""
        add_user(frozen, "usr_ana")
        payload = state("usr_ana", SUB, 5_000_000)
        event = inbox.receive(frozen, payload, mode="live", now=NOW).event_id
        change(frozen, "webhooks", status="failed")
        assert inbox._retry(frozen, event, payload, mode="sandbox", now=NOW) == "applied"
        assert frozen.value("select changed_at from subscriptions") == NOW + 5 * MINUTE


class TestTheInbox:
    @pytest.fixture
    def failed(self, frozen: Database) -> str:
        event = inbox.receive(frozen, state("usr_ana", SUB, 1), mode="live", now=NOW).event_id
        change(frozen, "webhooks", status="failed", error=None, due_at=timedelta(0))
        return event

    def lease(self, frozen: Database) -> int:
        return len(frozen.all(inbox._sql["lease_failed_webhooks"], {"limit": 9}))

    @pytest.mark.parametrize(("age", "leased"), [(MINUTE - MOMENT, 0), (MINUTE, 1)])
    @pytest.mark.usefixtures("failed")
    def test_a_lease_of_a_minute(self, frozen: Database, age: timedelta, leased: int) -> None:
        assert self.lease(frozen) == 1
        frozen.execute("update webhooks set due_at = due_at - %s", [age])
        assert self.lease(frozen) == leased

    @pytest.mark.parametrize(
        ("attempts", "pause"), [(1, 20 * SECOND), (8, 2560 * SECOND), (9, HOUR), (11, HOUR)]
    )
    def test_pauses_double_up_to_an_hour(
        self, frozen: Database, failed: str, attempts: int, pause: timedelta
    ) -> None:
        change(frozen, "webhooks", attempts=attempts)
        values = {"id": failed, "max_attempts": inbox.MAX_ATTEMPTS, "error": "e"}
        assert frozen.value(inbox._sql["postpone_webhook"], values) == "failed"
        assert frozen.value("select due_at - now() from webhooks") == pause

    @pytest.mark.parametrize(("age", "woken"), [(10 * MINUTE - MOMENT, 1), (10 * MINUTE, 0)])
    def test_of_somebody_who_appeared_meanwhile(
        self, frozen: Database, age: timedelta, woken: int
    ) -> None:
        """Looked for among the webhooks of the last ten minutes; a user's row wakes all others."""
        add_user(frozen, "usr_ana")
        inbox.receive(frozen, state("usr_ana", SUB, 1), mode="sandbox", now=NOW)
        change(
            frozen, "webhooks",
            status="ignored", error="unknown_customer", received_at=age,
        )  # fmt: skip
        frozen.execute(inbox._sql["wake_ignored"], {"mode": "sandbox"})
        count = "select count(*) from webhooks where status = 'failed'"
        assert frozen.value(count) == woken


class TestACheckout:
    """One request at a time for half a minute; the same key for 23 of Commet's 24 hours."""

    def lease(self, frozen: Database) -> int | None:
        """The number of the attempt, None while somebody else has the lease."""
        values = {
            "user_id": "usr_ana", "plan_code": "p", "billing_interval": None, "success_url": "s",
            "skips_trial": False,
        }  # fmt: skip
        row = frozen.one(checkout._sql["lease_checkout"], values)
        return None if row is None else int(row["attempt"])

    @pytest.mark.parametrize(("age", "attempt"), [(30 * SECOND, None), (30 * SECOND + MOMENT, 1)])
    def test_a_lease_ends(self, frozen: Database, age: timedelta, attempt: int | None) -> None:
        ana(frozen)
        assert self.lease(frozen) == 1
        frozen.execute("update checkout_attempt set leased_until = leased_until - %s", [age])
        assert self.lease(frozen) == attempt

    @pytest.mark.parametrize(("age", "attempt"), [(23 * HOUR, 1), (23 * HOUR + MOMENT, 2)])
    def test_a_key_is_used_while_commet_knows_it(
        self, frozen: Database, age: timedelta, attempt: int
    ) -> None:
        """Afterwards Commet would make a second subscription under the same key."""
        ana(frozen)
        self.lease(frozen)
        change(frozen, "checkout_attempt", leased_until=None, started_at=age)
        assert self.lease(frozen) == attempt

    def test_a_new_attempt_is_new_for_as_long(self, frozen: Database) -> None:
        """Its time begins with the attempt, and not with the one before."""
        ana(frozen)
        self.lease(frozen)
        change(frozen, "checkout_attempt", leased_until=None, started_at=24 * HOUR)
        assert self.lease(frozen) == 2
        change(frozen, "checkout_attempt", leased_until=None)
        assert self.lease(frozen) == 2


class Shop:
    """Sells nothing, and counts who asks."""

    def __init__(self) -> None:
        self.asked = 0

    def plans(self, _: Deadline) -> list[Plan]:
        self.asked += 1
        return []


class TestPlans:
    @pytest.mark.parametrize(
        ("max_age", "seconds"), [(plans.FRESH, 60), (plans.RECENT, 10)], ids=["fresh", "recent"]
    )
    @pytest.mark.parametrize("early", [MOMENT, timedelta(0)])
    def test_an_answer_is_good_for_so_long(
        self, frozen: Database, max_age: timedelta, seconds: int, early: timedelta
    ) -> None:
        shop, soon = Shop(), Deadline.after(20)
        commet = cast("Commet", shop)
        plans.catalogue(frozen, lambda: commet, now=NOW, deadline=soon)
        then = NOW + timedelta(seconds=seconds) - early
        plans.catalogue(frozen, lambda: commet, now=then, deadline=soon, max_age=max_age)
        assert shop.asked == (1 if early else 2)

    @pytest.mark.parametrize(("age", "asks"), [(10 * SECOND, False), (10 * SECOND + MOMENT, True)])
    def test_one_request_in_ten_seconds_asks(
        self, frozen: Database, age: timedelta, *, asks: bool
    ) -> None:
        frozen.execute(
            "insert into plans_cache (id, catalogue, as_of, tried_at)"
            " values (1, '[]', now(), now() - %s)",
            [age],
        )
        assert (frozen.one(plans._sql["lease_plans"]) is not None) is asks


class TestASubscriptionThatCommetDoesNotKnow:
    """Believed until the end of what was paid, or for a day after the last word about it."""

    @pytest.mark.parametrize(
        ("columns", "asked_at", "live"),
        [
            ({"period_end": NOW}, NOW - MOMENT, True),
            ({"period_end": NOW}, NOW, False),
            ({"changed_at": NOW, "period_end": None}, NOW + DAY - MOMENT, True),
            ({"changed_at": NOW, "period_end": None}, NOW + DAY, False),
        ],
    )
    def test_for_how_long(
        self, frozen: Database, columns: dict[str, object], asked_at: datetime, *, live: bool
    ) -> None:
        ana(frozen, **columns)
        rows = mirror.refreshable(frozen, "usr_ana")
        truth = refresh.Truth("usr_ana", asked_at, [], {SUB}, Change(features=[]))
        refresh.write(frozen, rows, truth)
        found = mirror.current(frozen, "usr_ana")
        assert found is not None
        assert found.status == ("active" if live else "canceled")


def test_what_ends_a_subscription_moves_no_period_that_was_over(frozen: Database) -> None:
    """The end of an old period says when its terms were those that usage is billed on."""
    ana(frozen)
    over = NOW - DAY
    change(frozen, "usage_period", closed_at=over)
    frozen.execute(
        "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
        " values ('usr_ana', %s, %s, %s)",
        [SUB, over, NOW + DAY],
    )
    ended = Change(SUB, {"status": "canceled"})
    mirror.record_change(frozen, "usr_ana", ended, at=NOW, now=NOW)
    closed = frozen.all("select closed_at from usage_period order by id")
    assert [row["closed_at"] for row in closed] == [over, NOW]
