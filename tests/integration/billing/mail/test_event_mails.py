"""Users get one mail about an outgoing event that concerns them, and nobody else gets one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from billing.accounts import erasing
from billing.audit.trail import SYSTEM
from billing.database.connection import Database
from billing.events import log
from billing.mail import preferences
from billing.mail.preferences import Preferences
from tests.integration.billing.conftest import add_user
from tests.integration.billing.racing import Race

PERIOD = {"period_start": "2026-09-01T00:00:00Z", "period_end": "2026-10-01T00:00:00.000000Z"}
OF_USAGE = {"feature": "storage", "used": "4.1", "included": "5", **PERIOD}
EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "usage_threshold": ("usage.threshold_reached", {"threshold": {"percent": 80}, **OF_USAGE}),
    "spend_threshold": (
        "spend.threshold_reached",
        {
            "threshold": {"percent": 100},
            "spent": "20",
            "limit": "20",
            "currency": "usd",
            **PERIOD,
        },
    ),
    "payment_failed": (
        "payment.failed",
        {"invoice_id": "inv_1", "amount": "29.00", "currency": "usd"},
    ),
    "trial_ending": (
        "subscription.changed",
        {
            "subscription_id": "sub_1",
            "plan": "pro",
            "changes": ["trial_ending"],
            "trial_ends_at": "2026-09-14T12:00:00Z",
        },
    ),
}
FIELDS = {
    "usage_threshold": {
        "feature": "storage",
        "percent": "80",
        "used": "4.1",
        "included": "5",
        "date": PERIOD["period_end"],
    },
    "spend_threshold": {
        "percent": "100",
        "spent": "20",
        "limit": "20",
        "currency": "usd",
        "date": PERIOD["period_end"],
    },
    "payment_failed": {"amount": "29.00", "currency": "usd"},
    "trial_ending": {"plan": "pro", "date": "2026-09-14T12:00:00Z"},
}
THRESHOLDS = ["usage_threshold", "spend_threshold"]
OTHERS = ["payment_failed", "trial_ending"]


def own_account(db: Database, user_id: str = "usr_ana", *, verified: bool = True) -> str:
    add_user(db, user_id)
    db.execute(
        "update users set own_account = true, verified_at = case when %s then now() end"
        " where id = %s",
        [verified, user_id],
    )
    return user_id


def of_provider(db: Database, user_id: str = "usr_bea", *, told: str | None = None) -> str:
    add_user(db, user_id)
    db.execute(
        "insert into identities (issuer, subject, user_id, created_at, email_sha256)"
        " values ('https://id.example', %(user)s, %(user)s, now(),"
        " sha256(convert_to(coalesce(%(told)s, %(user)s || '@example.com'), 'UTF8')))",
        {"user": user_id, "told": told},
    )
    return user_id


def emit(db: Database, user_id: str, kind: str, *, at: datetime | None = None) -> None:
    type_, data = EVENTS[kind]
    emit_as(db, user_id, type_, data, at=at)


def emit_as(
    db: Database, user_id: str, type_: str, data: dict[str, Any], *, at: datetime | None = None
) -> None:
    when = at or datetime.now(UTC)
    db.execute("select emit_event(%s, %s, %s, %s)", [user_id, type_, when, Jsonb(data)])


def mails(db: Database) -> list[tuple[str, str, str]]:
    rows = db.all("select user_id, address, kind from mails order by id")
    return [(row["user_id"], row["address"], row["kind"]) for row in rows]


class TestWhatIsSent:
    def test_nobody_is_asked_for_a_payment_that_was_made_up_for(self, db: Database) -> None:
        """The news of both arrived together, or the later one first."""
        for user, outcome in (("usr_ana", "recovered"), ("usr_bea", None)):
            own_account(db, user)
            db.execute(
                "insert into payment_trouble (user_id, kind, about, opened_at, changed_at, outcome)"
                " values (%s, 'failed_payment', 'inv_1', now(), now(), %s)",
                [user, outcome],
            )
            emit(db, user, "payment_failed")
        log.place(db)
        assert [user for user, *_ in mails(db)] == ["usr_bea"]

    @pytest.mark.parametrize("kind", EVENTS)
    def test_each_kind_comes_from_its_event(self, db: Database, kind: str) -> None:
        own_account(db)
        emit(db, "usr_ana", kind)
        log.place(db)
        assert mails(db) == [("usr_ana", "usr_ana@example.com", kind)]
        assert db.value("select fields from mails") == FIELDS[kind]
        of = "select e.type from mails m join outgoing_event e on e.id = m.event"
        assert db.value(of) == EVENTS[kind][0]

    def test_a_feature_has_the_name_that_people_know(self, db: Database) -> None:
        own_account(db)
        db.execute(
            "insert into entitlements (user_id, feature, name, type, allowed, changed_at)"
            " values ('usr_ana', 'storage', 'Cloud storage', 'usage', true, now())"
        )
        emit(db, "usr_ana", "usage_threshold")
        log.place(db)
        assert db.value("select fields->>'feature' from mails") == "Cloud storage"

    @pytest.mark.parametrize(
        "type_", ["access.granted", "payment.recovered", "usage.limit_reached", "usage.corrected"]
    )
    def test_other_events_make_no_mail(self, db: Database, type_: str) -> None:
        own_account(db)
        emit_as(db, "usr_ana", type_, OF_USAGE)
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_other_changes_of_a_subscription_make_no_mail(self, db: Database) -> None:
        own_account(db)
        emit_as(db, "usr_ana", "subscription.changed", {"plan": "pro", "changes": ["plan"]})
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_no_address_of_a_page_is_kept(self, db: Database) -> None:
        """Whoever has a recovery link sees what its page says of the user."""
        own_account(db)
        data = {"amount": "29.00", "currency": "usd", "recovery_url": "https://pay.example/r"}
        emit_as(db, "usr_ana", "payment.failed", data)
        log.place(db)
        assert "pay.example" not in str(db.value("select to_jsonb(m) from mails m"))
        with pytest.raises(psycopg.errors.CheckViolation):
            db.execute('update mails set fields = fields || \'{"recovery_url": "x"}\'')

    def test_it_is_kept_for_three_days_by_the_later_clock(self, db: Database) -> None:
        """The clock of the local stack may be ahead of the database's."""
        own_account(db)
        ahead = datetime.now(UTC) + timedelta(days=40)
        emit(db, "usr_ana", "payment_failed", at=ahead)
        emit(db, "usr_ana", "trial_ending", at=datetime.now(UTC) - timedelta(days=40))
        log.place(db)
        ends = [row["expires_at"] for row in db.all("select expires_at from mails order by id")]
        assert ends[0] == ahead + timedelta(days=3)
        assert ends[1] > datetime.now(UTC) + timedelta(days=2)


class TestWhoGetsThem:
    def test_a_user_of_an_identity_provider(self, db: Database) -> None:
        of_provider(db)
        emit(db, "usr_bea", "payment_failed")
        log.place(db)
        assert mails(db) == [("usr_bea", "usr_bea@example.com", "payment_failed")]

    def test_not_at_an_address_that_was_changed_here(self, db: Database) -> None:
        """Nobody has proven it, so it may be a stranger's."""
        of_provider(db, told="before@example.com")
        emit(db, "usr_bea", "payment_failed")
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_not_an_own_account_whose_address_is_not_proven(self, db: Database) -> None:
        own_account(db, verified=False)
        emit(db, "usr_ana", "payment_failed")
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_not_a_user_whom_a_product_registered(self, db: Database) -> None:
        add_user(db, "customer-17")
        emit(db, "customer-17", "payment_failed")
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_not_a_suppressed_address(self, db: Database) -> None:
        own_account(db)
        db.execute(
            "insert into suppressed_addresses (address_sha256, reason)"
            " values (address_digest('usr_ana@example.com'), 'bounce')"
        )
        emit(db, "usr_ana", "payment_failed")
        assert log.place(db) >= 1
        assert mails(db) == []

    def test_not_an_erased_user(self, db: Database) -> None:
        own_account(db)
        emit(db, "usr_ana", "payment_failed")
        erasing.erase(db, "usr_ana", by=SYSTEM)
        log.place(db)
        assert mails(db) == []


class TestOnce:
    def test_each_event_makes_one_mail(self, db: Database) -> None:
        own_account(db)
        for _ in range(3):
            emit(db, "usr_ana", "payment_failed")
        while log.place(db, 2):
            pass
        assert db.value("select count(distinct event) from mails") == 3
        assert len(mails(db)) == 3

    def test_asked_again_it_makes_none(self, db: Database) -> None:
        own_account(db)
        emit(db, "usr_ana", "payment_failed")
        log.place(db)
        db.execute("select queue_event_mails(array(select id from outgoing_event))")
        assert len(mails(db)) == 1

    def test_several_runs_at_once_make_one(
        self, db: Database, connect: Callable[[], Database]
    ) -> None:
        own_account(db)
        for _ in range(10):
            emit(db, "usr_ana", "payment_failed")
        databases = [connect() for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            placed = list(pool.map(lambda each: log.place(each, 4), databases))
        assert sum(placed) >= 10
        assert len(mails(db)) == 10

    def test_a_run_that_is_rolled_back_makes_none(self, db: Database, race: Race) -> None:
        own_account(db)
        emit(db, "usr_ana", "payment_failed")
        race.first(log.place)
        race.first(lambda mine: mine.execute("rollback"))
        assert mails(db) == []
        log.place(db)
        assert len(mails(db)) == 1

    def test_twenty_an_hour_about_thresholds_leave_others_alone(self, db: Database) -> None:
        own_account(db)
        for _ in range(25):
            emit(db, "usr_ana", "usage_threshold")
        emit(db, "usr_ana", "payment_failed")
        log.place(db)
        kinds = [kind for _, _, kind in mails(db)]
        assert kinds == ["usage_threshold"] * 20 + ["payment_failed"]


class TestErasureMeanwhile:
    def test_who_is_being_erased_gets_none(self, db: Database, race: Race) -> None:
        """Else the address would stay in the outbox."""
        own_account(db)
        emit(db, "usr_ana", "payment_failed")
        race.first(lambda mine: erasing.erase(mine, "usr_ana", by=SYSTEM))
        other = race.second(log.place)
        waited = other.waits
        race.commit()
        assert (waited, other.answer > 0) == (True, True)
        assert mails(db) == []

    def test_who_is_erased_right_after_keeps_none(self, db: Database, race: Race) -> None:
        own_account(db)
        emit(db, "usr_ana", "payment_failed")
        race.first(log.place)
        other = race.second(lambda mine: erasing.erase(mine, "usr_ana", by=SYSTEM))
        waited = other.waits
        race.commit()
        other.answer  # noqa: B018 - waits for it
        assert waited
        assert mails(db) == []

    def test_who_is_being_erased_chooses_nothing(self, db: Database, race: Race) -> None:
        own_account(db)
        race.first(lambda mine: erasing.erase(mine, "usr_ana", by=SYSTEM))
        off = Preferences(thresholds=False)
        other = race.second(lambda mine: preferences.change(mine, "usr_ana", off, by=SYSTEM))
        waited = other.waits
        race.commit()
        assert (waited, other.answer) == (True, False)
        assert db.all("select * from mail_preferences") == []


class TestPreferences:
    def test_everything_is_sent_to_who_chose_nothing(self, db: Database) -> None:
        own_account(db)
        assert preferences.read(db, "usr_ana") == Preferences(thresholds=True)

    @pytest.mark.parametrize("kind", [*THRESHOLDS, *OTHERS])
    def test_mails_about_thresholds_can_be_switched_off(self, db: Database, kind: str) -> None:
        own_account(db)
        preferences.change(db, "usr_ana", Preferences(thresholds=False), by=SYSTEM)
        assert preferences.read(db, "usr_ana") == Preferences(thresholds=False)
        emit(db, "usr_ana", kind)
        log.place(db)
        assert [each for _, _, each in mails(db)] == ([] if kind in THRESHOLDS else [kind])

    def test_switched_on_again_they_come(self, db: Database) -> None:
        own_account(db)
        for wanted in (False, True):
            preferences.change(db, "usr_ana", Preferences(thresholds=wanted), by=SYSTEM)
        emit(db, "usr_ana", "usage_threshold")
        log.place(db)
        assert len(mails(db)) == 1

    def test_the_audit_trail_has_each_change_once(self, db: Database) -> None:
        own_account(db)
        for wanted in (True, False, False, True):
            assert preferences.change(db, "usr_ana", Preferences(thresholds=wanted), by=SYSTEM)
        found = db.all("select details from audit where action = 'account.mails_changed'")
        assert [row["details"]["thresholds"] for row in found] == [False, True]

    def test_an_unknown_user_chooses_nothing(self, db: Database) -> None:
        assert not preferences.change(db, "usr_none", Preferences(thresholds=False), by=SYSTEM)

    def test_an_erased_user_leaves_none(self, db: Database) -> None:
        own_account(db)
        preferences.change(db, "usr_ana", Preferences(thresholds=False), by=SYSTEM)
        erasing.erase(db, "usr_ana", by=SYSTEM)
        assert db.all("select * from mail_preferences") == []
        assert not preferences.change(db, "usr_ana", Preferences(thresholds=False), by=SYSTEM)
