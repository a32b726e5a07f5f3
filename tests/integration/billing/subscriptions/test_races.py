"""Changes, answers and webhooks of one user that meet: the newest word stands."""

from datetime import datetime

import pytest

from billing.database.connection import Database
from billing.delivery import outbox
from billing.subscriptions import checkout, inbox, mirror
from billing.subscriptions.changes import Change
from tests.integration.billing.conftest import NOW, Subscribe, add_user, after
from tests.integration.billing.racing import Race, passes_by
from tests.integration.billing.signed import state

SUB = "sub_usr_ana"


def change(db: Database, at: datetime, *, ends_all: bool = False, **known: object) -> None:
    said = Change(ends_all=True) if ends_all else Change(SUB, known)
    mirror.record_change(db, "usr_ana", said, at=at, now=NOW)


def confirm(db: Database, *, at: datetime, status: str, plan_name: str = "Pro") -> str:
    """What became of Commet's answer about the row that was read at version 1."""
    known: dict[str, object] = {
        "status": status,
        "plan_id": None,
        "plan_name": plan_name,
        "billing_interval": "monthly",
        "period_start": None,
        "period_end": None,
        "cancel_at_period_end": False,
        "trial_ends_at": None,
        "checkout_url": None,
    }
    return mirror.confirm(db, SUB, 1, known, at=at, asked_at=at)


def row(db: Database, *columns: str) -> tuple[object, ...]:
    found = db.one("select * from subscriptions where id = %s", [SUB])
    assert found is not None
    return tuple(found[column] for column in columns)


class TestChanges:
    def test_none_and_a_subscription_unheard_of(self, race: Race, db: Database) -> None:
        """That there is none at all is newer than the start of a subscription heard of later."""
        add_user(db, "usr_ana")
        race.first(lambda mine: change(mine, after(minutes=2), ends_all=True))
        other = race.second(
            lambda mine: change(mine, after(minutes=1), status="active", plan_name="Pro")
        )
        race.commit()
        assert other.answer is None
        assert row(db, "status") == ("canceled",)

    def test_an_answer_is_not_overwritten(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Commet's answer names another plan; a change that says nothing of plans leaves it."""
        subscribe()
        answer = lambda mine: confirm(mine, at=after(minutes=1), status="active", plan_name="Max")  # noqa: E731
        assert race.first(answer) == "healed"
        later = lambda mine: change(mine, after(minutes=2), cancel_at_period_end=True)  # noqa: E731
        other = race.second(later)
        race.commit()
        assert other.answer is None
        assert row(db, "plan_name", "cancel_at_period_end") == ("Max", True)

    def test_an_answer_waits_for_a_change(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """And is asked for again: the row is not the one that it was about."""
        subscribe()
        race.first(lambda mine: change(mine, after(minutes=2), cancel_at_period_end=True))
        other = race.second(
            lambda mine: confirm(mine, at=after(minutes=1), status="active", plan_name="Max")
        )
        assert other.waits
        race.commit()
        assert other.answer == "stale"
        assert row(db, "cancel_at_period_end") == (True,)

    def test_an_answer_older_than_a_change(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        """Asked before the end was heard of: the answer changes nothing, and is asked for again."""
        subscribe()
        race.first(lambda mine: change(mine, after(minutes=2), status="canceled"))
        other = race.second(lambda mine: confirm(mine, at=after(minutes=1), status="active"))
        race.commit()
        assert other.answer == "stale"
        assert row(db, "status") == ("canceled",)


class TestOneLockFirst:
    """Who writes several rows of a user locks the user first, so no two of them can deadlock."""

    BUSY = "select from users for no key update"
    FREE = "select count(*) from (select from subscriptions for update skip locked) as free"

    @pytest.mark.parametrize(
        ("statement", "status"),
        [
            (mirror._sql["lease_refresh"], "pending_payment"),
            (checkout._sql["mark_other_pending"], "pending_payment"),
            (outbox._sql["doubt_subscriptions"], "active"),
        ],
        ids=["lease_refresh", "mark_other_pending", "doubt_subscriptions"],
    )
    def test_nothing_is_locked_before(
        self, race: Race, db: Database, subscribe: Subscribe, statement: str, status: str
    ) -> None:
        subscribe(status=status)
        db.execute("update subscriptions set refresh_due = now()")
        race.first(lambda mine: mine.execute(self.BUSY))
        values = {"user_id": "usr_ana", "users": ["usr_ana"], "now": NOW, "id": "sub_new"}
        other = race.second(lambda mine: mine.execute(statement, values))
        assert other.waits
        assert db.value(self.FREE) == 1
        race.commit()
        assert other.answer is None


class TestRefreshes:
    def test_one_question_of_two_callers(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe(status="pending_payment")
        db.execute("update subscriptions set refresh_due = now()")
        assert race.first(lambda mine: mirror.lease_refresh(mine, "usr_ana", NOW))
        other = race.second(lambda mine: mirror.lease_refresh(mine, "usr_ana", NOW))
        race.commit()
        assert not other.answer

    def test_the_schedule_waits_for_nobody(
        self, race: Race, db: Database, subscribe: Subscribe
    ) -> None:
        subscribe()
        db.execute("update subscriptions set refresh_due = now()")
        passes_by(
            race, db, "select from users for no key update",
            lambda mine: mirror.lease_refreshes(mine, NOW, limit=10),
            nothing=[], all_of_it=["usr_ana"],
        )  # fmt: skip


class TestInbox:
    BUSY = "select from webhooks for update"

    @pytest.fixture
    def failed(self, db: Database) -> tuple[str, bytes]:
        """A webhook that could not be applied when it came."""
        add_user(db, "usr_ana")
        payload = state("usr_ana", SUB, 1)
        event = inbox.receive(db, payload, mode="live", now=NOW).event_id
        db.execute("update webhooks set status = 'failed', due_at = now()")
        return event, payload

    def test_one_webhook_of_two_runs(
        self, race: Race, db: Database, failed: tuple[str, bytes]
    ) -> None:
        """The second run learns that there is nothing left to do, and counts nothing."""
        retry = lambda mine: inbox._retry(mine, *failed, mode="sandbox", now=NOW)  # noqa: E731
        assert race.first(retry) == "applied"
        other = race.second(retry)
        race.commit()
        assert other.answer is None
        assert row(db, "status", "version") == ("active", 1)

    @pytest.mark.usefixtures("failed")
    def test_retrying_waits_for_nobody(self, race: Race, db: Database) -> None:
        lease = lambda mine: len(mine.all(inbox._sql["lease_failed_webhooks"], {"limit": 9}))  # noqa: E731
        passes_by(race, db, self.BUSY, lease, nothing=0, all_of_it=1)

    @pytest.mark.usefixtures("failed")
    def test_redriving_waits_for_nobody(self, race: Race, db: Database) -> None:
        db.execute("update webhooks set status = 'dead', due_at = null")
        passes_by(race, db, self.BUSY, inbox.redrive, nothing=0, all_of_it=1)
