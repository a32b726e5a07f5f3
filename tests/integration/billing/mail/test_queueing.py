"""A mail is queued once, within limits, and never to an address that is suppressed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from billing.database.connection import Database
from tests.integration.billing.conftest import add_user
from tests.integration.billing.racing import Race

NOW = datetime(2026, 9, 10, 12, 15, tzinfo=UTC)
LINKS = ("verify_email", "email_changing", "reset_password", "sign_in_link")
NOTICES = ("email_changed_notice", "password_changed")


@pytest.fixture
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


def queue(
    db: Database,
    user: str,
    kind: str = "reset_password",
    *,
    to: str = "ana@example.com",
    now: datetime = NOW,
    **fields: Any,
) -> int | None:
    if kind in LINKS:
        fields.setdefault("token_id", "tok_1")
    found = db.value("select queue_mail(%s, %s, %s, %s, %s)", [user, to, kind, Jsonb(fields), now])
    assert found is None or isinstance(found, int)
    return found


def queued(db: Database) -> list[tuple[str, str, str]]:
    rows = db.all("select user_id, address, kind from mails order by id")
    return [(row["user_id"], row["address"], row["kind"]) for row in rows]


class TestQueueMail:
    @pytest.mark.parametrize("kind", [*LINKS, *NOTICES])
    def test_each_kind_waits_to_be_sent(self, db: Database, ana: str, kind: str) -> None:
        assert queue(db, ana, kind) is not None
        assert queued(db) == [("usr_ana", "ana@example.com", kind)]

    def test_a_statement_that_makes_the_user_queues_the_mail_too(self, db: Database) -> None:
        db.execute(
            "with made as (insert into users (id, email, created_at)"
            " values ('usr_bea', 'bea@example.com', now()) returning id, email)"
            " select queue_mail(id, email, 'verify_email', '{\"token_id\": \"t\"}', now())"
            " from made"
        )
        assert queued(db) == [("usr_bea", "bea@example.com", "verify_email")]

    def test_it_goes_with_its_user(self, db: Database, ana: str) -> None:
        queue(db, ana)
        db.execute("delete from users where id = %s", [ana])
        assert queued(db) == []

    def test_it_is_not_sent_after_its_link_has_ended(self, db: Database, ana: str) -> None:
        ends = NOW + timedelta(minutes=15)
        queue(db, ana, expires_at=ends.isoformat())
        assert db.value("select expires_at from mails") == ends

    @pytest.mark.parametrize(("kind", "days"), [("verify_email", 1), ("password_changed", 3)])
    def test_without_an_end_it_is_given_up_later(
        self, db: Database, ana: str, kind: str, days: int
    ) -> None:
        queue(db, ana, kind)
        assert db.value("select expires_at - queued_at from mails") == timedelta(days=days)

    def test_a_link_needs_the_id_of_its_token(self, db: Database, ana: str) -> None:
        with pytest.raises(psycopg.errors.RaiseException, match="token_id"):
            queue(db, ana, token_id=None)

    @pytest.mark.parametrize("name", ["token", "link", "password"])
    def test_nothing_else_is_stored(self, db: Database, ana: str, name: str) -> None:
        """So that no caller leaves a secret in the outbox by mistake."""
        field: dict[str, Any] = {name: "secret"}
        with pytest.raises(psycopg.errors.CheckViolation):
            queue(db, ana, **field)


class TestLimits:
    @pytest.mark.parametrize("kind", LINKS)
    def test_an_address_gets_three_links_an_hour(self, db: Database, ana: str, kind: str) -> None:
        sent = [queue(db, ana, kind) for _ in range(5)]
        assert [each is not None for each in sent] == [True, True, True, False, False]
        assert queue(db, ana, kind, now=NOW + timedelta(hours=1)) is not None

    def test_an_address_may_be_spelled_otherwise(self, db: Database, ana: str) -> None:
        spellings = [
            "Ana@example.com",
            "ana@EXAMPLE.com",
            "\uff21na@example.com",
            "ana@example.com",
        ]
        assert [queue(db, ana, to=each) is not None for each in spellings] == [True] * 3 + [False]

    def test_whoever_asks_for_it(self, db: Database) -> None:
        """Strangers together send no more to an address than one of them."""
        users = [add_user(db) for _ in range(5)]
        assert [queue(db, each) is not None for each in users] == [True] * 3 + [False] * 2

    def test_one_purpose_leaves_the_others_alone(self, db: Database, ana: str) -> None:
        """Who signs up with a stranger's address cannot keep them from a new password."""
        stranger = add_user(db)
        for _ in range(4):
            queue(db, stranger, "verify_email")
        assert queue(db, ana, "reset_password") is not None
        assert queue(db, ana, "sign_in_link") is not None

    def test_an_account_sends_ten_links_an_hour(self, db: Database, ana: str) -> None:
        sent = [queue(db, ana, "email_changing", to=f"{n}@example.com") for n in range(12)]
        assert [each is not None for each in sent] == [True] * 10 + [False] * 2

    def test_what_an_address_is_refused_does_not_count_for_the_account(
        self, db: Database, ana: str
    ) -> None:
        """Anybody may ask for a new password of somebody else's account, over and over."""
        for _ in range(20):
            queue(db, ana, "reset_password")
        assert queue(db, ana, "email_changing", to="new@example.com") is not None

    def test_notices_are_not_kept_back_by_links(self, db: Database, ana: str) -> None:
        for n in range(12):
            queue(db, ana, "email_changing", to=f"{n}@example.com")
        assert queue(db, ana, "password_changed") is not None

    def test_a_deleted_account_leaves_its_count(self, db: Database, ana: str) -> None:
        """An account may be made and deleted again and again."""
        for _ in range(3):
            queue(db, ana)
        db.execute("delete from users where id = %s", [ana])
        assert queue(db, add_user(db, "usr_ana_2")) is None

    def test_no_address_is_kept_to_count_by(self, db: Database, ana: str) -> None:
        queue(db, ana)
        keys = [row["key"] for row in db.all("select key from attempts")]
        assert len(keys) == 2
        assert not [key for key in keys if "@" in key]

    def test_the_last_turn_is_taken_once(self, db: Database, ana: str, race: Race) -> None:
        bea = add_user(db, "usr_bea")
        for _ in range(2):
            queue(db, ana)
        first = race.first(lambda mine: queue(mine, ana))
        other = race.second(lambda mine: queue(mine, bea))
        waited = other.waits
        race.commit()
        assert (first is not None, waited, other.answer) == (True, True, None)

    def test_a_turn_of_a_mail_that_was_not_queued_is_free_again(
        self, db: Database, ana: str, race: Race
    ) -> None:
        for _ in range(2):
            queue(db, ana)
        race.first(lambda mine: queue(mine, ana))
        race.first(lambda mine: mine.execute("rollback"))
        assert queue(db, ana) is not None


class TestSuppression:
    @pytest.mark.parametrize("kind", [*LINKS, *NOTICES])
    def test_a_suppressed_address_gets_no_mail(self, db: Database, ana: str, kind: str) -> None:
        suppress(db, "ana@example.com")
        assert queue(db, ana, kind, to="Ana@Example.com") is None
        assert queue(db, ana, kind, to="bea@example.com") is not None

    def test_it_uses_up_no_turn(self, db: Database, ana: str) -> None:
        suppress(db, "ana@example.com")
        queue(db, ana)
        assert db.all("select key from attempts") == []


def suppress(db: Database, address: str) -> None:
    db.execute(
        "insert into suppressed_addresses (address_sha256, reason)"
        " values (address_digest(%s), 'bounce')",
        [address],
    )


def test_more_connections_at_once(db: Database, ana: str, connect: Callable[[], Database]) -> None:
    """Ten requests at the same moment send three mails."""
    databases = [connect() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        sent = list(pool.map(lambda each: queue(each, ana), databases))
    assert sum(each is not None for each in sent) == 3
    assert db.value("select count(*) from mails") == 3
