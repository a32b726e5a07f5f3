"""What webhooks did not tell: found, and repaired without a human."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from billing.clock import wall_clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.config import from_env
from billing.database import rounds
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.operations import reconcile, sweep
from billing.subscriptions import from_answer, mirror, refresh
from billing.subscriptions.access import Access
from standin.testing import StandIn
from tests.integration.billing.conftest import add_user, start_checkout
from tests.integration.billing.subscriptions.test_checkout import _cancel

URL = "http://127.0.0.1:9/hook"
SETTINGS = replace(
    from_env({"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": "1000"}), webhook_url=URL
)

Buy = Callable[..., tuple[str, str]]


def soon() -> Deadline:
    return Deadline.after(20)


@pytest.fixture
def remote(remote: StandIn) -> StandIn:
    """A stand-in with nothing in it: a sweep sees everybody."""
    remote.control.reset()
    return remote


@pytest.fixture
def run(db: Database, commet: Commet) -> Callable[..., dict[str, int]]:
    """A run of reconcile for which every pause is over."""

    def once(seconds: float = 20, **changes: Any) -> dict[str, int]:
        pauses_are_over(db)
        return reconcile.run(
            db, commet, replace(SETTINGS, **changes),
            clock=wall_clock, deadline=Deadline.after(seconds),
        )  # fmt: skip

    return once


@pytest.fixture
def buy(db: Database, commet: Commet, remote: StandIn) -> Buy:
    """Makes a user who has paid, and whom no webhook told us of; their id and subscription's."""

    def make(*, refreshed: bool = True) -> tuple[str, str]:
        user = add_user(db)
        sub = start_checkout(db, commet, user)
        remote.control.pay(sub)
        if refreshed:
            heal(db, commet, user)
        return user, sub

    return make


def pauses_are_over(db: Database) -> None:
    db.execute(
        "update subscriptions set checked_at = null,"
        " refresh_due = case when refresh_due is not null then now() end"
    )


def heal(db: Database, commet: Commet, user: str) -> None:
    refresh.refresh(db, commet, user, now=wall_clock(), deadline=soon())


def status(db: Database, sub: str) -> Any:
    return db.value("select status from subscriptions where id = %s", [sub])


def endpoint(commet: Commet, url: str = URL, *, active: bool = True) -> str:
    made = commet.create_webhook(
        url=url, events=["subscription.activated"], description="x", idempotency_key=url,
        deadline=soon(),
    )  # fmt: skip
    if not active:
        commet.update_webhook(made.id, is_active=False, deadline=soon())
    return made.id


class TestEndpoint:
    Run = Callable[..., dict[str, int]]

    def test_disabled(self, db: Database, commet: Commet, buy: Buy, run: Run) -> None:
        """Switched on again, and everything live is asked about: what was missed is not sent."""
        user, sub = buy()
        run()
        endpoint(commet, active=False)
        db.execute("delete from entitlements where user_id = %s", [user])
        summary = run()
        assert summary["webhook_endpoint_disabled"] == 1
        assert [each.is_active for each in commet.webhooks(soon())] == [True]
        assert summary["swept_subscriptions"] == 1
        assert db.value("select count(*) from entitlements where user_id = %s", [user]) > 0
        assert run()["webhook_endpoint_disabled"] == 0
        assert status(db, sub) == "active"

    @pytest.mark.usefixtures("remote")
    def test_switched_on_and_nobody_heard(
        self, db: Database, commet: Commet, remote: StandIn, buy: Buy, run: Run
    ) -> None:
        """The change took effect, its answer was lost: everything is read again all the same."""
        user, _ = buy()
        run()
        endpoint(commet, active=False)
        db.execute("delete from entitlements where user_id = %s", [user])
        remote.control.fault(
            match={"method": "PATCH", "path": "/webhooks/*"}, action={"reset": "after"}, times=None
        )
        run()
        assert [each.is_active for each in commet.webhooks(soon())] == [True]
        run()
        assert db.value("select count(*) from entitlements where user_id = %s", [user]) > 0

    def test_somebody_elses(self, commet: Commet, run: Run) -> None:
        """Only our own address is looked after."""
        endpoint(commet)
        endpoint(commet, "http://127.0.0.1:9/another", active=False)
        assert run()["webhook_endpoint_disabled"] == 0
        assert {each.url: each.is_active for each in commet.webhooks(soon())} == {
            URL: True,
            "http://127.0.0.1:9/another": False,
        }

    @pytest.mark.usefixtures("remote")
    def test_missing(self, run: Run) -> None:
        """Nobody tells us anything: that is for a person, and they are told."""
        assert run()["webhook_endpoint_missing"] == 1
        assert run(webhook_url="")["webhook_endpoint_missing"] == 0

    @pytest.mark.parametrize("action", [{"status": 500}, {"status": 403, "code": "forbidden"}])
    def test_commet_does_not_say(
        self, remote: StandIn, run: Run, buy: Buy, action: dict[str, Any]
    ) -> None:
        """The rest of the run goes on."""
        buy(refreshed=False)
        remote.control.fault(match={"path": "/webhooks"}, action=action, times=None)
        summary = run()
        assert summary["webhook_endpoint_missing"] == 0
        assert summary["refreshed"] == 1


class TestSweep:
    def go(self, db: Database, commet: Commet, seconds: float = 20) -> sweep.Swept:
        budget = Budget(db, 1000)
        return sweep.run(db, commet, budget, clock=wall_clock, deadline=Deadline.after(seconds))

    def marked(self, db: Database, sub: str) -> bool:
        return bool(
            db.value("select refresh_due is not null from subscriptions where id = %s", [sub])
        )

    def test_all_is_well(self, db: Database, commet: Commet, buy: Buy) -> None:
        """Rows that say what Commet says are confirmed; once a day is enough."""
        _, sub = buy()
        db.execute("update subscriptions set confirmed_at = null")
        assert self.go(db, commet) == sweep.Swept(compared=1)
        assert db.value("select confirmed_at from subscriptions") is not None
        assert not self.marked(db, sub)
        assert self.go(db, commet) == sweep.Swept()

    def test_an_event_that_never_came(
        self, db: Database, commet: Commet, remote: StandIn, buy: Buy
    ) -> None:
        """A change differs from the list, an end is missing from it: both are marked."""
        subs = [buy()[1] for _ in range(3)]
        _cancel(remote, subs[1])
        db.execute("update subscriptions set cancel_at_period_end = true where id = %s", [subs[0]])
        swept = self.go(db, commet)
        assert (swept.compared, swept.differing) == (2, 1)
        assert [self.marked(db, sub) for sub in subs] == [True, True, False]

    def test_a_subscription_nobody_told_of(
        self, db: Database, buy: Buy, run: Callable[..., dict[str, int]]
    ) -> None:
        """Recorded for its user, and asked about; a stranger's is left alone."""
        user, sub = buy()
        stranger, _ = buy()
        db.execute("truncate subscriptions, entitlements, usage_period cascade")
        db.execute("delete from checkout_attempt where user_id = %s", [stranger])
        db.execute("delete from users where id = %s", [stranger])
        summary = run()
        assert (summary["swept_missing"], summary["swept_subscriptions"]) == (1, 2)
        found = mirror.current(db, user)
        assert found is not None
        assert (found.id, found.status) == (sub, "active")
        assert db.value("select count(*) from entitlements where user_id = %s", [user]) > 0

    def test_goes_on_where_it_stopped(
        self, db: Database, commet: Commet, remote: StandIn, buy: Buy,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Out of time, killed, or Commet down: no page is read twice, none is left out."""
        for _ in range(30):  # more than a page
            buy()
        asked: list[tuple[str, str | None]] = []
        ask = commet.list_subscriptions

        def counted(*, status: str, cursor: str | None, deadline: Deadline) -> Any:
            asked.append((status, cursor))
            return ask(status=status, cursor=cursor, deadline=deadline)

        monkeypatch.setattr(commet, "list_subscriptions", counted)
        remote.control.fault(
            match={"path": "/subscriptions"}, action={"status": 500}, times=3, skip=1
        )
        with pytest.raises(CommetUnavailable):
            self.go(db, commet)
        remote.control.clear_faults()
        assert self.go(db, commet, seconds=0) == sweep.Swept()
        rest = self.go(db, commet)
        assert 0 < rest.compared < 30
        assert asked[1] == asked[2]  # the page that failed
        assert len(set(asked)) == len(asked) - 1
        assert [s for s, _ in asked] == ["active"] * 3 + ["trialing", "past_due", "paused"]

    def test_one_run_at_a_time(self, db: Database, commet: Commet, buy: Buy) -> None:
        """A second run finds it taken; one that died gives it back after two minutes."""
        buy()
        assert rounds.take_up(
            db, sweep.NAME, start={"status": "active", "cursor": None, "recheck": False},
            every=timedelta(days=1), now=wall_clock(),
        )  # fmt: skip
        assert self.go(db, commet) == sweep.Swept()
        db.execute("update rounds set leased_until = now()")
        assert self.go(db, commet).compared == 1

    def test_on_request(self, db: Database, commet: Commet, buy: Buy) -> None:
        """Asked for, it begins anew, and everything live is asked about once more."""
        _, sub = buy()
        self.go(db, commet)
        sweep.request(db)
        due = "select recheck_at <= now() from subscriptions where id = %s"
        assert db.value(due, [sub]) is False
        assert self.go(db, commet).compared == 1
        assert db.value(due, [sub]) is True

    def test_a_page_that_cannot_be_read(
        self, db: Database, commet: Commet, buy: Buy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A cursor grown old begins its status anew; after three tries the round goes on."""
        buy()
        ask = commet.list_subscriptions

        def refused(*, status: str, cursor: str | None, deadline: Deadline) -> Any:
            if status == "active":
                raise CommetRefused("validation_error", commet_status=400)
            return ask(status=status, cursor=cursor, deadline=deadline)

        monkeypatch.setattr(commet, "list_subscriptions", refused)
        for _ in range(3):
            with pytest.raises(CommetRefused):
                self.go(db, commet)
        self.go(db, commet)
        cursor_row = db.one("select position, finished_at from rounds")
        assert cursor_row is not None
        assert cursor_row["position"] is None
        assert cursor_row["finished_at"] is not None
        assert db.value("select bool_and(refresh_due is not null) from subscriptions")

    def test_one_odd_subscription(
        self, db: Database, commet: Commet, buy: Buy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What cannot be read hides nobody else's, and counts as unseen."""
        (_, odd), (_, well) = buy(), buy()
        send = commet._send

        def spoiled(call: Any, deadline: Deadline) -> Any:
            answer = send(call, deadline)
            for each in answer["data"]:
                if each["id"] == odd:
                    each["plan"] = None
            return answer

        monkeypatch.setattr(commet, "_send", spoiled)
        assert self.go(db, commet) == sweep.Swept(compared=1)
        assert [self.marked(db, sub) for sub in (odd, well)] == [True, False]

    def test_a_list_without_end(
        self, db: Database, commet: Commet, buy: Buy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Commet names the same page again: an error, not a loop."""
        buy()
        page = {"data": [], "hasMore": True, "nextCursor": "again"}
        monkeypatch.setattr(commet, "_send", lambda *_: page)
        with pytest.raises(CommetUnavailable):
            self.go(db, commet)


class TestGone:
    """Commet answers 404 about a subscription that is live here."""

    @pytest.fixture
    def gone(self, buy: Buy, remote: StandIn) -> tuple[str, str]:
        bought = buy()
        remote.control.reset()
        return bought

    def test_until_the_end_of_what_was_paid(
        self, db: Database, commet: Commet, gone: tuple[str, str]
    ) -> None:
        """A key of the wrong organization must not lock everybody out at once."""
        user, sub = gone
        db.execute("update subscriptions set refresh_due = now()")
        heal(db, commet, user)
        assert status(db, sub) == "active"
        assert db.value("select count(*) from entitlements where allowed") > 0
        assert not mirror.lease_refresh(db, user, wall_clock())

    def test_after_it(self, db: Database, commet: Commet, gone: tuple[str, str]) -> None:
        """Then access ends, and nothing more is counted."""
        user, sub = gone
        db.execute(
            "update subscriptions set period_end = now() - interval '1 second', checked_at = null"
        )
        assert mirror.lease_refresh(db, user, wall_clock())
        heal(db, commet, user)
        assert status(db, sub) == "canceled"
        assert db.value("select count(*) from entitlements where allowed") == 0
        assert db.value("select count(*) from usage_period where closed_at is null") == 0

    def test_whose_end_nobody_told(
        self, db: Database, commet: Commet, gone: tuple[str, str]
    ) -> None:
        """Believed for a day after the last word about it."""
        user, sub = gone
        db.execute("update subscriptions set period_end = null")
        heal(db, commet, user)
        assert status(db, sub) == "active"
        db.execute("update subscriptions set changed_at = changed_at - interval '25 hours'")
        heal(db, commet, user)
        assert status(db, sub) == "canceled"


class TestDue:
    def test_everybody_in_one_run(
        self, db: Database, buy: Buy, run: Callable[..., dict[str, int]]
    ) -> None:
        """However many rows one of them has, and for however many reasons each is due."""
        users = [buy()[0] for _ in range(12)]
        for user in users:
            for number in range(3):
                db.execute(
                    "insert into subscriptions (id, user_id, status, created_at, changed_at,"
                    " refresh_due, recheck_at)"
                    " values (%s, %s, 'pending_payment', now(), now(), now(), now())",
                    [f"sub_{user}_{number}", user],
                )
        db.execute("update subscriptions set refresh_due = now(), recheck_at = now()")
        assert run()["refreshed"] == 12
        assert db.value("select count(*) from subscriptions where refresh_due is not null") == 0

    def test_the_schedule_lengthens_nobodys_pause(
        self, db: Database, commet: Commet, remote: StandIn
    ) -> None:
        """Asked about in vain six times; then they pay, and are let in by their first request."""
        user = add_user(db)
        sub = start_checkout(db, commet, user)
        for _ in range(6):
            db.execute("update subscriptions set checked_at = null, recheck_at = now()")
            assert reconcile.run(
                db, commet, SETTINGS, clock=wall_clock, deadline=soon()
            )["refreshed"] == 1  # fmt: skip
        remote.control.pay(sub)
        db.execute("update subscriptions set checked_at = now() - interval '11 seconds'")
        access = Access(db, SETTINGS, lambda: commet, wall_clock)
        assert access.standing(user, soon())[1]

    def test_a_young_checkout_is_never_refused_on_an_old_answer(
        self, db: Database, commet: Commet
    ) -> None:
        """Whoever polls too often to be asked about is told that it is not known, not to pay."""
        user = add_user(db)
        db.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at, checks,"
            " checked_at, confirmed_at) values ('sub_1', %s, 'pending_payment', now(), now(), 6,"
            " now() - interval '20 seconds', now() - interval '20 seconds')",
            [user],
        )
        access = Access(db, SETTINGS, lambda: commet, wall_clock)
        assert set(access.ask_about({user}, soon()).unconfirmed) == {user}
        db.execute("update subscriptions set created_at = now() - interval '61 minutes'")
        assert dict(access.ask_about({user}, soon()).unconfirmed) == {}

    def test_a_late_answer_takes_no_entitlement_away(
        self, db: Database, commet: Commet, remote: StandIn
    ) -> None:
        """Asked before the payment, answered after its events: what they granted stays."""
        user = add_user(db)
        sub = start_checkout(db, commet, user)
        rows = mirror.refreshable(db, user)
        truth = refresh.ask(commet, user, rows, now=wall_clock(), deadline=soon())
        remote.control.pay(sub)
        heal(db, commet, user)
        refresh.write(db, rows, replace(truth, asked_at=wall_clock() + timedelta(seconds=5)))
        assert status(db, sub) == "active"
        assert db.value("select count(*) from entitlements where allowed") > 0
        assert db.value("select refresh_due is not null from subscriptions")

    def test_a_pause_that_should_be_over(self, db: Database) -> None:
        """Its `resumed` may be lost: before they are refused, Commet is asked."""
        user = add_user(db)
        db.execute(
            "insert into subscriptions (id, user_id, status, period_end, created_at, changed_at)"
            " values ('sub_1', %s, 'paused', now() - interval '1 minute', now(), now())",
            [user],
        )
        assert mirror.lease_refresh(db, user, wall_clock())

    def test_a_step_that_fails(
        self, db: Database, buy: Buy, run: Callable[..., dict[str, int]]
    ) -> None:
        """The database refuses one of them: the others are taken, and it is counted."""
        _, sub = buy(refreshed=False)
        db.execute("alter table rounds rename to gone")
        try:
            summary = run()
        finally:
            db.execute("alter table gone rename to rounds")
        assert summary["steps_failed"] >= 1
        assert status(db, sub) == "active"
        assert "inbox_dead" in summary

    def test_each_piece_of_housekeeping_by_itself(
        self, run: Callable[..., dict[str, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Merging deliveries takes too long: webhooks and the ledger still lose what is old."""

        def too_long(*_: object, **__: object) -> int:
            raise psycopg.errors.QueryCanceled

        monkeypatch.setattr("billing.operations.housekeeping.compact_deliveries", too_long)
        summary = run()
        assert summary["steps_failed"] == 1
        assert {"payloads_pruned", "ledger_pruned"} <= set(summary)

    def test_those_in_doubt_come_first(self, db: Database) -> None:
        """A mark before a row that merely was not confirmed for a day."""
        for name, columns in {
            "stale": "recheck_at = now() - interval '9 days'",
            "marked": "refresh_due = now()",
        }.items():
            user = add_user(db, f"usr_{name}")
            db.execute(
                "insert into subscriptions"
                " (id, user_id, status, period_end, created_at, changed_at)"
                " values (%s, %s, 'active', now() + interval '9 days', now(), now())",
                [f"sub_{name}", user],
            )
            db.execute(f"update subscriptions set {columns} where id = 'sub_{name}'")  # noqa: S608
        now = wall_clock()
        claims = [mirror.lease_refreshes(db, now, limit=1) for _ in range(3)]
        assert claims == [["usr_marked"], ["usr_stale"], []]

    def test_an_abandoned_checkout_is_asked_about_less_and_less(self, db: Database) -> None:
        """By the schedule; the person themselves may ask again after ten minutes."""
        user = add_user(db)
        db.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at, recheck_at)"
            " values ('sub_1', %s, 'pending_payment', now(), now(), now())",
            [user],
        )
        pauses = []
        for _ in range(12):
            db.execute("update subscriptions set checked_at = null, recheck_at = now()")
            assert mirror.lease_refreshes(db, wall_clock(), limit=9) == [user]
            pauses.append(
                db.value("select extract(epoch from recheck_at - now()) from subscriptions")
            )
        assert len(pauses) == 12
        assert all(one < other for one, other in pairwise(pauses))
        assert pauses[-1] > 3600 * 10
        db.execute("update subscriptions set checked_at = now() - interval '11 seconds'")
        assert mirror.lease_refreshes(db, wall_clock(), limit=9) == []
        assert mirror.lease_refresh(db, user, wall_clock())

    def test_an_answer_is_good_for_a_day(self, db: Database, buy: Buy) -> None:
        """More or less: not everybody is asked about in the same minute."""
        for _ in range(4):
            buy()
        rows = db.all("select extract(epoch from recheck_at - now()) as seconds from subscriptions")
        waits = {row["seconds"] for row in rows}
        assert len(waits) == 4
        assert all(0.85 * 86400 < each < 1.15 * 86400 for each in waits)


def test_a_summary_is_a_known_answer(commet: Commet, buy: Buy) -> None:
    """What Commet lists is what it answers about one: comparing them finds no difference."""
    _, sub = buy()
    (listed,), _ = commet.list_subscriptions(status="active", cursor=None, deadline=soon())
    one = commet.subscription(sub, soon())
    assert from_answer.known_of(listed) == from_answer.known_of(one)
