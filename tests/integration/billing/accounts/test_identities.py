"""Users of an identity provider, on the tables they live in."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from billing.accounts import accounts, identities
from billing.accounts.accounts import User
from billing.audit import trail
from billing.credentials.identity_tokens import Identity
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.errors import NotFound
from tests.integration.billing.conftest import NOW
from tests.integration.billing.racing import Race, racing

ISSUER = "https://id.example"


@pytest.fixture
def ana() -> Identity:
    """An identity that no other test has."""
    return Identity(
        issuer=ISSUER,
        subject=uuid4().hex,
        email=f"{uuid4().hex[:12]}@Example.com",
        email_verified=True,
        name="Ana",
        issued_at=NOW,
        authenticated_at=NOW,
    )


def told(db: Database, identity: Identity, minutes: float = 0, **changes: Any) -> User:
    """The user to whom a token leads, issued so many minutes later."""
    issued_at = identity.issued_at + timedelta(minutes=minutes)
    return identities.user_of(db, replace(identity, issued_at=issued_at, **changes), NOW)


def row(db: Database, user: User) -> dict[str, Any]:
    found = db.one(
        "select u.*, i.proven_email_key, i.told_at from identities i"
        " join users u on u.id = i.user_id where u.id = %s",
        [user.id],
    )
    assert found is not None
    return found


class TestFirstSight:
    def test_a_user_appears_with_an_id_of_ours(self, shared: Database, ana: Identity) -> None:
        user = told(shared, ana)
        assert user.id.startswith("usr_")
        assert (user.email, user.name) == (ana.email, "Ana")
        assert (row(shared, user)["own_account"], row(shared, user)["verified_at"]) == (False, None)
        assert row(shared, user)["created_at"] == NOW
        told(shared, ana, 1)
        (entry,) = trail.page(shared, user.id, cursor=None, limit=9).entries
        assert (entry.actor_kind, entry.actor, entry.action) == (
            "user",
            user.id,
            "account.registered",
        )

    def test_the_next_token_leads_to_the_same_user(self, shared: Database, ana: Identity) -> None:
        assert told(shared, ana, 5) == told(shared, ana)

    def test_another_issuer_with_the_same_subject_is_another_user(
        self, shared: Database, ana: Identity
    ) -> None:
        other = told(shared, replace(ana, issuer="https://other.example", email=None))
        assert other.id != told(shared, ana).id

    def test_subjects_in_other_case_are_others(self, shared: Database, ana: Identity) -> None:
        upper = replace(ana, subject=ana.subject.upper(), email=None)
        assert told(shared, upper).id != told(shared, ana).id

    @pytest.mark.parametrize("email", [None, "no address", "a@b", "a\u200b@example.com", "a" * 999])
    def test_without_an_address_that_could_be_typed_in(
        self, shared: Database, ana: Identity, email: str | None
    ) -> None:
        user = told(shared, replace(ana, email=email, name="\x00"))
        assert (user.email, user.name) == (None, None)
        assert row(shared, user)["proven_email_key"] is None

    def test_many_first_requests_at_once_make_one_user(
        self, shared: Database, ana: Identity, connect: Callable[[], Database]
    ) -> None:
        together = Barrier(8)

        def come(own: Database) -> str:
            together.wait()
            return told(own, ana).id

        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(come, [connect() for _ in range(8)]))
        assert len(found) == 1
        count = "select count(*) from users where email = %s"
        assert shared.value(count, [ana.email]) == 1

    def test_the_second_of_two_waits_for_the_first(self, race: Race, ana: Identity) -> None:
        first = race.first(lambda mine: told(mine, ana))
        other = race.second(lambda mine: told(mine, ana))
        assert other.waits
        race.commit()
        assert other.answer == first

    def test_the_routine_alone_needs_rights_on_the_tables(
        self, shared: Database, ana: Identity, migrated_url: str
    ) -> None:
        """A role that cannot write users has one appear, and finds no other schema's tables."""
        role = sql.Identifier(f"narrow_{uuid4().hex[:8]}")
        with psycopg.connect(migrated_url, autocommit=True) as admin:
            admin.execute(sql.SQL("create role {}").format(role))
            admin.execute(sql.SQL("grant execute on function user_of_identity to {}").format(role))
            try:
                admin.execute(sql.SQL("set role {}").format(role))
                admin.execute("create temporary table identities (issuer text)")
                found = admin.execute(
                    "select id from user_of_identity"
                    "(%s, %s, 'usr_narrow', null, null, false, null, now(), now(), null)",
                    [ISSUER, ana.subject],
                ).fetchone()
                assert found == ("usr_narrow",)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    admin.execute("select id from public.users")
            finally:
                admin.execute("reset role")
                admin.execute(sql.SQL("drop owned by {}").format(role))
                admin.execute(sql.SQL("drop role {}").format(role))
        assert identities.find(shared, ISSUER, ana.subject).id == "usr_narrow"


class TestContact:
    def test_what_the_issuer_tells_anew_is_kept(self, shared: Database, ana: Identity) -> None:
        told(shared, ana)
        user = told(shared, ana, 1, email="new@example.org", email_verified=False, name="Anna")
        assert (user.email, user.name) == ("new@example.org", "Anna")
        assert row(shared, user)["email_key"] == "new@example.org"
        assert row(shared, user)["proven_email_key"] is None
        told(shared, ana, 2, email="new@example.org", name="Anna")
        assert row(shared, user)["proven_email_key"] == "new@example.org"

    def test_an_older_token_changes_nothing(self, shared: Database, ana: Identity) -> None:
        """It is good for as long as it is; its address is not the newest."""
        told(shared, ana, 0)
        new = told(shared, ana, 2, email="new@example.net")
        assert told(shared, ana, 1, name="Old") == new
        assert told(shared, ana, 0) == new

    def test_the_same_again_writes_nothing(self, shared: Database, ana: Identity) -> None:
        """Requests that only read do not make the row a bottleneck."""
        user = told(shared, ana)
        where = "select u.xmin::text, i.xmin::text as i from users u, identities i"
        where += " where u.id = %s and i.user_id = u.id"
        before = shared.one(where, [user.id])
        told(shared, ana, 9)
        told(shared, ana, 9, email=None, name=None, email_verified=False)
        told(shared, ana, 9, email_verified=False)
        assert shared.one(where, [user.id]) == before

    def test_a_token_without_an_address_takes_none_away(
        self, shared: Database, ana: Identity
    ) -> None:
        """An access token beside an ID token."""
        told(shared, ana)
        user = told(shared, ana, 1, email=None, name="Anna", email_verified=False)
        assert (user.email, user.name) == (ana.email, "Anna")
        assert row(shared, user)["proven_email_key"] is not None

    @pytest.mark.parametrize("minutes", [0, -5])
    def test_the_first_token_may_have_had_none(
        self, shared: Database, ana: Identity, minutes: float
    ) -> None:
        """An access token came first; the ID token of that sign-in, or an older one, follows."""
        told(shared, ana, email=None, name=None, email_verified=False)
        user = told(shared, ana, minutes)
        assert (user.email, user.name) == (ana.email, "Ana")

    def test_what_was_changed_here_stays(self, shared: Database, ana: Identity) -> None:
        """Until the issuer tells of another address than before."""
        user = told(shared, ana)
        accounts.put_user(
            shared,
            user_id=user.id,
            email=f"{user.id}@example.org",
            name="Ann",
            now=NOW,
            deadline=Deadline.after(20),
        )
        assert told(shared, ana, 1).email == f"{user.id}@example.org"
        assert told(shared, ana, 2, name="Anna").email == f"{user.id}@example.org"
        assert told(shared, ana, 3, email=f"2{user.id}@example.org").email == (
            f"2{user.id}@example.org"
        )

    def test_of_two_tokens_at_once_the_newer_has_the_last_word(
        self, race: Race, shared: Database, ana: Identity
    ) -> None:
        """The issuer tells the old address again, after a newer token told another one."""
        told(shared, ana)
        race.first(lambda mine: told(mine, ana, 1, email=f"2{ana.email}"))
        other = race.second(lambda mine: told(mine, ana, 2, name="Anna"))
        assert other.waits
        race.commit()
        assert (other.answer.email, other.answer.name) == (ana.email, "Anna")

    def test_an_older_token_waits_for_a_newer_one_that_is_being_written(
        self, database_url: str, db: Database, ana: Identity
    ) -> None:
        """It would change the address after the newer token was compared with the old one."""
        told(db, ana)

        def connect() -> Connection:
            return psycopg.connect(database_url, autocommit=True, row_factory=dict_row)

        def paused(mine: Database) -> User:
            mine.execute("set race.pauses = 'on'")
            return told(mine, ana, 2, name="Anna")

        with closing(connect()) as admin, racing(connect) as gate:
            admin.execute(
                "create function pause() returns trigger language plpgsql as"
                " $$ begin perform pg_advisory_xact_lock(1); return null; end $$"
            )
            admin.execute(
                "create trigger pause before update on identities for each statement"
                " when (current_setting('race.pauses', true) = 'on') execute function pause()"
            )
            try:
                gate.first(lambda mine: mine.execute("select pg_advisory_xact_lock(1)"))
                newer = gate.second(paused)
                assert newer.waits
                older = gate.second(lambda mine: told(mine, ana, 1, email=f"2{ana.email}"))
                gate.commit()
                assert (newer.answer.name, older.answer.id) == ("Anna", newer.answer.id)
            finally:
                gate.commit()
                admin.execute("drop function pause cascade")
        assert identities.find(db, ISSUER, ana.subject).email == ana.email

    def test_an_address_that_is_somebody_elses_is_contact_data(
        self, shared: Database, ana: Identity
    ) -> None:
        """Nobody is found by it, and nobody is kept from it."""
        account, _ = accounts.sign_up(
            shared, email=str(ana.email), password_hash="hash", name=None, now=NOW
        )
        user = told(shared, ana)
        assert user.id != account.id
        assert user.email == account.email
        assert accounts.user_by_id(shared, account.id) == account


class TestFind:
    def test_who_has_come(self, shared: Database, ana: Identity) -> None:
        with pytest.raises(NotFound):
            identities.find(shared, ISSUER, ana.subject)
        user = told(shared, ana)
        assert identities.find(shared, ISSUER, ana.subject) == user
        with pytest.raises(NotFound):
            identities.find(shared, f"{ISSUER}/", ana.subject)
