"""Asking Commet: who has just paid gets in at once, and asking is rationed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from billing.accounts import accounts, profile
from billing.clock import wall_clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database, Row
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.operations import reconcile
from billing.subscriptions import mirror
from billing.subscriptions.access import Access
from billing.subscriptions.refresh import refresh
from standin.testing import StandIn
from tests.integration.billing.conftest import add_user, own_database, start_checkout
from tests.integration.billing.subscriptions.test_checkout import _cancel

Make = Callable[[], Commet]
SETTINGS = from_env({"COMMET_MODE": "sandbox"})


@pytest.fixture
def pending(shared: Database, commet: Commet, user: str) -> str:
    """A checkout that was started; its subscription's id."""
    return start_checkout(shared, commet, user)


@pytest.fixture
def access(shared: Database, client: Make) -> Access:
    return Access(shared, SETTINGS, client, wall_clock)


def asked(remote: StandIn, user: str) -> int:
    """How often Commet was asked for this user's current subscription."""
    sent = remote.control.requests(method="GET", path="/subscriptions/active")
    return sum(each["query"].get("customerId") == user for each in sent)


def row(db: Database, sub: str) -> Row:
    found = db.one("select * from subscriptions where id = %s", [sub])
    assert found is not None
    return found


def mark(db: Database, sub: str) -> None:
    db.execute(
        "update subscriptions set refresh_due = now(), checked_at = null where id = %s", [sub]
    )


def granted(db: Database, user: str) -> Any:
    query = "select count(*) from entitlements where user_id = %s and allowed"
    return db.value(query, [user])


def opened(db: Database, user: str) -> Any:
    query = "select count(*) from usage_period where user_id = %s and closed_at is null"
    return db.value(query, [user])


def soon() -> Deadline:
    return Deadline.after(20)


class TestAccess:
    def test_just_paid_and_no_webhook(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """Back from the checkout page before Commet's webhook: in, with everything that is paid."""
        remote.control.pay(pending)
        found, allowed = access.standing(user, soon())
        assert allowed
        assert found is not None
        assert (found.id, found.status) == (pending, "active")
        assert granted(shared, user) == 1
        assert opened(shared, user) == 1

    def test_not_paid(self, access: Access, user: str, pending: str) -> None:
        """Asked, and told no."""
        found, allowed = access.standing(user, soon())
        assert not allowed
        assert found is not None
        assert found.id == pending

    def test_nobody(self, remote: StandIn, access: Access, user: str) -> None:
        """No row, no question."""
        assert access.standing(user, soon()) == (None, False)
        assert asked(remote, user) == 0

    def test_once_in_ten_seconds(
        self, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """Polling costs Commet one question."""
        assert pending
        for _ in range(5):
            access.standing(user, soon())
        assert asked(remote, user) == 1

    def test_once_also_at_once(
        self, migrated_url: str, remote: StandIn, client: Make, user: str, pending: str
    ) -> None:
        """From many environments at the same moment, too."""
        assert pending

        def poll(_: int) -> bool:
            with own_database(migrated_url) as db:
                return Access(db, SETTINGS, client, wall_clock).ask(user, soon())

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(poll, range(12))) == 1
        assert asked(remote, user) == 1

    def test_who_has_access_is_not_asked_about(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """Only before a refusal: the mirror is enough to let somebody in."""
        remote.control.pay(pending)
        access.standing(user, soon())
        mark(shared, pending)
        assert access.standing(user, soon())[1]
        assert asked(remote, user) == 1

    @pytest.mark.parametrize(
        "action",
        [{"reset": "before"}, {"status": 500, "code": "internal_error"}, {"invalid_json": True},
         {"status": 403, "code": "forbidden"}],
    )  # fmt: skip
    def test_commet_in_trouble(
        self, remote: StandIn, access: Access, user: str, pending: str, action: dict[str, Any]
    ) -> None:
        """The mirror answers, and says how old it is."""
        before, _ = access.standing(user, Deadline.after(0))
        remote.control.fault(match={"path": "/subscriptions/active"}, action=action, times=None)
        found, allowed = access.standing(user, soon())
        assert not allowed
        assert found == before
        assert found is not None
        assert found.id == pending

    @pytest.mark.parametrize("allowed", [True, False])
    def test_past_due(self, shared: Database, client: Make, user: str, allowed: object) -> None:
        """The deployer's one setting decides."""
        shared.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at)"
            " values (%s, %s, 'past_due', now(), now())",
            [f"sub_{user}", user],
        )
        settings = replace(SETTINGS, past_due_has_access=allowed)  # type: ignore[arg-type]
        standing = Access(shared, settings, client, wall_clock).standing(user, soon())
        assert standing[1] is allowed


class TestSettle:
    def test_silence_is_no_refusal(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """Until Commet has answered, nobody who may have paid is told to pay."""
        remote.control.fault(
            match={"path": "/subscriptions/active"}, action={"status": 500}, times=None
        )
        first = access.ask_about({user}, soon())
        assert (set(first.answered), set(first.unconfirmed)) == (set(), {user})
        assert first.unconfirmed[user] == row(shared, pending)["changed_at"]
        again = access.ask_about({user}, soon())  # too soon to ask, and still no answer
        assert set(again.unconfirmed) == {user}
        remote.control.clear_faults()
        shared.execute("update subscriptions set checked_at = null where id = %s", [pending])
        answered = access.ask_about({user}, soon())
        assert (set(answered.answered), dict(answered.unconfirmed)) == ({user}, {})
        after = access.ask_about({user}, soon())  # asked and told no, ten seconds have not passed
        assert (set(after.answered), dict(after.unconfirmed)) == (set(), {})

    def test_who_never_bought_is_refused_at_once(
        self, remote: StandIn, access: Access, user: str
    ) -> None:
        """No row, no question, no doubt."""
        doubts = access.ask_about({user}, soon())
        assert (set(doubts.answered), dict(doubts.unconfirmed)) == (set(), {})
        assert asked(remote, user) == 0

    def test_who_has_ended_is_refused_at_once(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """Whatever else is missing of the row, and whether Commet answers or not."""
        shared.execute("update subscriptions set status = 'canceled' where id = %s", [pending])
        mark(shared, pending)
        remote.control.fault(
            match={"path": "/subscriptions/active"}, action={"status": 500}, times=None
        )
        assert dict(access.ask_about({user}, soon()).unconfirmed) == {}
        assert asked(remote, user) > 0

    def test_five_of_many(self, shared: Database, remote: StandIn, access: Access) -> None:
        """A batch asks about five of its users; the others may come again."""
        users = {add_user(shared) for _ in range(8)}
        for user in users:
            shared.execute(
                "insert into subscriptions (id, user_id, status, created_at, changed_at)"
                " values (%s, %s, 'pending_payment', now(), now())",
                [f"sub_{user}", user],
            )
            access._commet().create_customer(
                user_id=user, email=f"{user}@example.com", name=None, deadline=soon()
            )
        shared.execute("delete from call_budget")  # the calls above have used up much of it
        doubts = access.ask_about(users, soon())
        assert len(doubts.answered) == 5
        assert set(doubts.unconfirmed) == users - set(doubts.answered)
        assert sum(asked(remote, user) for user in users) == 5

    def test_the_budget_is_spent(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """However many users are in doubt, the whole stack asks no more than its budget."""
        assert pending
        Budget(shared, SETTINGS.commet_calls_per_second).pause(60)
        try:
            assert set(access.ask_about({user}, soon()).unconfirmed) == {user}
        finally:
            shared.execute("delete from call_budget")
        assert asked(remote, user) == 0

    def test_commet_asks_for_a_pause(
        self, shared: Database, remote: StandIn, access: Access, user: str, pending: str
    ) -> None:
        """One answer of 429 is heard by everybody."""
        assert pending
        remote.control.fault(
            match={"path": "/subscriptions/active"},
            action={"status": 429, "code": "rate_limited", "retry_after": 60},
            times=None,
        )
        try:
            assert set(access.ask_about({user}, soon()).unconfirmed) == {user}
            assert not Budget(shared, 100).take(1)
        finally:
            shared.execute("delete from call_budget")


class TestRefresh:
    def run(self, db: Database, commet: Commet, user: str) -> None:
        refresh(db, commet, user, now=wall_clock(), deadline=soon())

    def test_the_whole_truth(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """Status, plan, period, entitlements; the mark is gone."""
        remote.control.pay(pending)
        mark(shared, pending)
        self.run(shared, commet, user)
        found = row(shared, pending)
        assert (found["status"], found["plan_name"], found["refresh_due"]) == (
            "active",
            "Usage Pro",
            None,
        )
        assert found["period_start"] < found["period_end"]
        assert found["confirmed_at"] is not None

    def test_the_end(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """Nothing active: each row believed live is read by its id; nothing may be used."""
        remote.control.pay(pending)
        self.run(shared, commet, user)
        assert (granted(shared, user), opened(shared, user)) == (1, 1)
        _cancel(remote, pending)
        self.run(shared, commet, user)
        assert row(shared, pending)["status"] == "canceled"
        assert (granted(shared, user), opened(shared, user)) == (0, 0)

    def test_all_or_nothing(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """Entitlements did not answer: the row stays marked, else nobody would ask for them."""
        remote.control.pay(pending)
        mark(shared, pending)
        remote.control.fault(match={"path": "/feature-access"}, action={"reset": "before"}, times=3)
        with pytest.raises(CommetUnavailable):
            self.run(shared, commet, user)
        assert row(shared, pending)["refresh_due"] is not None
        remote.control.clear_faults()
        self.run(shared, commet, user)
        assert granted(shared, user) == 1

    def test_a_key_that_may_not_ask(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """A restricted key says nothing about the customer: entitlements stay."""
        remote.control.pay(pending)
        self.run(shared, commet, user)
        remote.control.fault(
            match={"path": "/feature-access"}, action={"status": 403, "code": "forbidden"}
        )
        with pytest.raises(CommetRefused):
            self.run(shared, commet, user)
        assert granted(shared, user) == 1

    @pytest.mark.parametrize(
        "action",
        [{"status": 404, "code": "no_active_subscription"}, {"status": 402, "code": "forbidden"}],
    )
    def test_a_customer_who_may_use_nothing(
        self, shared: Database, commet: Commet, remote: StandIn, pending: str,
        action: dict[str, Any],
    ) -> None:  # fmt: skip
        """Commet may answer with an error of its choice: nothing is granted."""
        user = row(shared, pending)["user_id"]
        remote.control.pay(pending)
        self.run(shared, commet, user)
        remote.control.fault(match={"path": "/feature-access"}, action=action)
        self.run(shared, commet, user)
        assert granted(shared, user) == 0

    def test_a_row_that_is_gone(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """One subscription Commet no longer has keeps no other from being confirmed."""
        remote.control.pay(pending)
        shared.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at)"
            " values (%s, %s, 'pending_payment', now(), now())",
            [f"sub_gone_{user}", user],
        )
        self.run(shared, commet, user)
        assert row(shared, pending)["status"] == "active"
        assert row(shared, f"sub_gone_{user}")["status"] == "pending_payment"

    def test_news_that_came_meanwhile(
        self, shared: Database, commet: Commet, remote: StandIn, pending: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A webhook between question and answer wins, and the row stays marked."""
        user = row(shared, pending)["user_id"]
        remote.control.pay(pending)
        mark(shared, pending)
        ask = commet.active_subscription

        def slow(user_id: str, deadline: Deadline) -> Any:
            answer = ask(user_id, deadline)
            shared.execute(
                "select record_subscription(%s, %s, now() + interval '1 minute',"
                ' \'{"status": "past_due"}\', false)',
                [user, pending],
            )
            return answer

        monkeypatch.setattr(commet, "active_subscription", slow)
        self.run(shared, commet, user)
        found = row(shared, pending)
        assert found["status"] == "past_due"
        assert found["refresh_due"] is not None

    def test_a_subscription_we_never_heard_of(
        self, shared: Database, commet: Commet, remote: StandIn, user: str, pending: str
    ) -> None:
        """Made in Commet's dashboard: found by asking."""
        remote.control.pay(pending)
        shared.execute("delete from subscriptions where id = %s", [pending])
        self.run(shared, commet, user)
        assert row(shared, pending)["status"] == "active"
        assert opened(shared, user) == 1


class TestReconcile:
    def run(self, db: Database, commet: Commet, seconds: float = 20) -> dict[str, int]:
        return reconcile.run(
            db, commet, SETTINGS, clock=wall_clock, deadline=Deadline.after(seconds)
        )

    @pytest.fixture
    def paid(self, db: Database, commet: Commet, remote: StandIn) -> list[str]:
        """Two users who paid while no webhook came."""
        users = []
        for _ in range(2):
            user = add_user(db)
            remote.control.pay(start_checkout(db, commet, user))
            users.append(user)
        return users

    def statuses(self, db: Database, users: list[str]) -> list[str]:
        found = [mirror.current(db, user) for user in users]
        return [each.status for each in found if each]

    def test_heals_what_no_webhook_told(
        self, db: Database, commet: Commet, paid: list[str]
    ) -> None:
        """Pending checkouts that were paid; a second run has nothing left to do."""
        summary = self.run(db, commet)
        assert (summary["refreshed"], summary["refresh_failed"], summary["healed"]) == (2, 0, 2)
        assert self.statuses(db, paid) == ["active", "active"]
        assert self.run(db, commet)["refreshed"] == 0

    @pytest.mark.parametrize(
        "trouble", [CommetUnavailable(), CommetRefused("forbidden", commet_status=403)]
    )
    def test_trouble_of_one(
        self, db: Database, commet: Commet, paid: list[str], trouble: Exception,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Commet fails for one user: the other is healed, the first comes due again."""
        ask = commet.active_subscription

        def fails_for_one(user_id: str, deadline: Deadline) -> Any:
            if user_id == paid[0]:
                raise trouble
            return ask(user_id, deadline)

        monkeypatch.setattr(commet, "active_subscription", fails_for_one)
        summary = self.run(db, commet)
        assert (summary["refreshed"], summary["refresh_failed"]) == (1, 1)
        assert self.statuses(db, paid) == ["pending_payment", "active"]
        monkeypatch.undo()
        db.execute(
            "update subscriptions set checked_at = checked_at - interval '1 hour',"
            " recheck_at = recheck_at - interval '1 hour'"
        )
        assert self.run(db, commet)["refreshed"] == 1
        assert self.statuses(db, paid) == ["active", "active"]

    def test_commet_is_down(
        self, db: Database, commet: Commet, remote: StandIn, paid: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """It answers nobody: the run stops asking instead of sitting out one user after another."""
        monkeypatch.setattr(reconcile, "_AT_ONCE", 1)
        remote.control.fault(action={"status": 500}, times=None)
        summary = self.run(db, commet)
        assert (summary["refreshed"], summary["refresh_failed"]) == (0, 1)
        assert sum(asked(remote, user) > 0 for user in paid) == 1

    def test_a_bug_of_one(self, db: Database, commet: Commet, paid: list[str]) -> None:
        """A row that cannot be written stops nobody else."""
        db.execute(
            "create or replace function fail() returns trigger language plpgsql as"
            " $$ begin raise exception 'a bug'; end $$"
        )
        db.execute(
            "create trigger fail_one before insert on entitlements for each row"
            f" when (new.user_id = '{paid[0]}') execute function fail()"
        )
        try:
            summary = self.run(db, commet)
        finally:
            db.execute("drop trigger fail_one on entitlements")
        assert (summary["refreshed"], summary["refresh_failed"]) == (1, 1)
        assert self.statuses(db, [paid[1]]) == ["active"]

    @pytest.mark.usefixtures("remote")
    def test_more_than_a_batch(
        self, db: Database, commet: Commet, paid: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes on until nothing is due."""
        monkeypatch.setattr(reconcile, "_AT_ONCE", 1)
        assert self.run(db, commet)["refreshed"] == 2
        assert self.statuses(db, paid) == ["active", "active"]

    def test_no_time(self, db: Database, commet: Commet, remote: StandIn, paid: list[str]) -> None:
        """Out of time: nothing is asked, nothing is lost."""
        summary = self.run(db, commet, seconds=0)
        assert summary["refreshed"] == 0
        assert [asked(remote, user) for user in paid] == [0, 0]

    def test_tidies(self, db: Database, commet: Commet) -> None:
        """Sessions that ended and counters of yesterday go."""
        now = wall_clock()
        user, _ = accounts.sign_up(
            db, email="a@b.c", password_hash="hash", name=None, now=now - timedelta(days=8)
        )
        profile.verify_address(db, user.id, None, now)
        good = accounts.begin_session(db, user, "hash", now)
        db.execute(
            "insert into attempts values ('old', %s, 1), ('new', %s, 1)",
            [now - timedelta(days=2), now],
        )
        self.run(db, commet)
        assert db.value("select count(*) from sessions") == 1
        assert db.value("select count(*) from account_tokens") == 0
        assert accounts.user_of_session(db, good.token, now).id == user.id
        assert [r["key"] for r in db.all("select key from attempts")] == ["new"]
