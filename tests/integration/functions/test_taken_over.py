"""What a taken-over function cannot do with its database role `app`: take accounts over."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from billing import wiring
from billing.database.connection import Database
from tests.integration.functions.test_accounts import (
    Person,
    environment,  # noqa: F401 - a fixture
    sign_up,
)


@pytest.fixture
def ana() -> Person:
    return sign_up(verified=True)


@pytest.fixture
def as_app(migrated_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute("set role billing_app")
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        # A session of its own for somebody else, or one whose token it knows.
        "update sessions set user_id = 'usr_eve'",
        "update sessions set token_sha256 = sha256('known')",
        "insert into sessions (token_sha256, id, user_id, created_at, last_seen_at, expires_at)"
        " select sha256('known'), 'x', id, now(), now(), now() + interval '1 day' from users",
        # Another address, to which the link goes that sets the password.
        "update users set email = 'eve@example.com', email_key = 'eve@example.com'",
        "update users set email_key = 'eve@example.com'",
        "select verify_address(id, 'eve@example.com', 'eve@example.com', now()) from users",
        "select free_address(id, now()) from users",
        "update users set verified_at = now() - interval '1 day'",
        "update users set verified_at = null",
        "update users set own_account = false",
        "insert into users (id, email, own_account, verified_at, created_at)"
        " values ('usr_eve', 'ana@example.com', true, now(), now())",
        # The ids from which the tokens of links are made, and passwords.
        "select id from exported_account_tokens",
        "select id from account_tokens",
        "select fields from exported_mails",
        "select fields from mails",
        "select hash from exported_passwords",
        "update passwords set hash = 'known'",
    ],
)
def test_it_takes_no_account_over(ana: Person, as_app: psycopg.Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.Error) as caught:
        as_app.execute(statement)
    assert isinstance(caught.value, InsufficientPrivilege | psycopg.errors.UndefinedColumn), (
        caught.value
    )
    assert ana.is_in()


def test_a_table_of_its_own_does_not_help(ana: Person, as_app: psycopg.Connection) -> None:
    """Who owns a table named like that of the passwords is not the role that reads these."""
    as_app.execute("create temporary table passwords ()")
    with pytest.raises(InsufficientPrivilege):
        as_app.execute("update users set email_key = 'eve@example.com'")
    assert ana.is_in()


def test_it_verifies_only_who_has_a_customer(as_app: psycopg.Connection) -> None:
    """Who buys counts as verified, and that is the app's to say; nobody else is."""
    eve = sign_up()
    as_app.execute("select verify_customer(%s)", [eve.id])
    verified = "select verified_at is not null from users where id = %s"
    db: Database = wiring.database()
    assert db.value(verified, [eve.id]) is False
