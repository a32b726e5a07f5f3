"""What a role of the functions must be able to do, and how its sessions are set."""

import os
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from billing.config import DatabaseSettings
from billing.credentials.secrets import Secrets
from billing.database import health
from billing.database.connection import SESSION, Connection, Database, connector
from billing.database.privileges import APP
from billing.database.probe import RoleCannotWork, probe
from billing.errors import DatabaseUnavailable

NAME = f"session_test_{os.getpid()}"
# What a company's roles may be set to, for reasons of its own.
ODD = {
    "timezone": "Asia/Tokyo",
    "datestyle": "German, DMY",
    "default_transaction_isolation": "serializable",
    "search_path": "elsewhere",
    "standard_conforming_strings": "off",
    "intervalstyle": "sql_standard",
}


class Login:
    """The secret of the role."""

    def get(self, *_: str) -> str:
        return f'{{"username": "{NAME}", "password": "p"}}'


class Role:
    """A role that has the rights of the functions' role, and sessions set oddly."""

    def __init__(self, url: str, admin: Database) -> None:
        self._url = urlsplit(url)
        self._admin = admin

    def set(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            statement = sql.SQL("alter role {} set {} = {}").format(
                sql.Identifier(NAME), sql.Identifier(name), sql.Literal(value)
            )
            self._admin.execute(statement.as_string())

    def may(self, privilege: str) -> None:
        """Grants the rights of `privilege`, or takes them."""
        self._admin.execute(f"{privilege} {NAME}")

    def connects(self, *, pooled: bool = False) -> Callable[[], Connection]:
        """As a function connects."""
        settings = DatabaseSettings(
            host=self._url.hostname or "", port=self._url.port or 0, name=self._url.path[1:],
            sslmode="disable", ca="", pooled=pooled, secret_id="arn",
        )  # fmt: skip
        return connector(settings, Secrets(Login()), "unit")

    def as_it_is(self) -> Connection:
        """A connection that sets nothing."""
        url = self._url._replace(netloc=f"{NAME}:p@{self._url.hostname}:{self._url.port}")
        return psycopg.connect(urlunsplit(url), autocommit=True, row_factory=dict_row)


@pytest.fixture
def role(migrated_url: str, shared: Database) -> Iterator[Role]:
    shared.execute(f"create role {NAME} login password 'p' in role billing_app")
    made = Role(migrated_url, shared)
    made.set(ODD)
    yield made
    shared.execute(f"drop role {NAME}")


@pytest.fixture
def database(role: Role) -> Iterator[Database]:
    opened = Database(role.connects())
    yield opened
    opened.close()


class TestSession:
    @pytest.mark.parametrize("name", SESSION)
    def test_it_is_ours_however_the_role_is_set(self, database: Database, name: str) -> None:
        """Days, dates and races would mean something else."""
        assert database.value(f"show {name}") == SESSION[name]

    @pytest.mark.parametrize("name", ODD)
    def test_behind_a_pooler_the_role_must_be_set(self, role: Role, name: str) -> None:
        """A pooler takes no options. The log names the setting."""
        role.set({**SESSION, name: ODD[name]})
        with pytest.raises(DatabaseUnavailable) as caught:
            Database(role.connects(pooled=True)).value("select 1")
        assert f"another {name} than" in str(caught.value.__cause__)

    def test_behind_a_pooler_a_role_that_is_set(self, role: Role) -> None:
        role.set(SESSION)
        with role.connects(pooled=True)() as connection:
            assert connection.execute("show timezone").fetchone() == {"TimeZone": "UTC"}

    def test_the_last_year_can_be_read(self, database: Database) -> None:
        """In Tokyo this is year 10000, for which Python has no date."""
        last = database.value("select timestamptz '9999-12-31 23:30:00+00'")
        assert (last.year, last.hour) == (9999, 23)


class TestHealth:
    def test_a_server_that_takes_writes(self, database: Database) -> None:
        health.check(database)

    def test_a_server_that_only_reads(self, role: Role, database: Database) -> None:
        """After a failover the old writer may still answer."""
        role.set({"default_transaction_read_only": "on"})
        with pytest.raises(DatabaseUnavailable):
            health.check(database)

    def test_a_role_that_may_not_write(self, role: Role, database: Database) -> None:
        role.may("revoke billing_app from")
        with pytest.raises(DatabaseUnavailable):
            health.check(database)


class TestProbe:
    def test_a_role_that_can_work(self, role: Role) -> None:
        probe(NAME, APP, role.connects())

    def test_a_search_path_that_leads_elsewhere(self, role: Role) -> None:
        with pytest.raises(RoleCannotWork, match=f"{NAME} cannot work: its search_path does not"):
            probe(NAME, APP, role.as_it_is)

    def test_tables_that_it_may_not_use(self, role: Role) -> None:
        role.may("revoke billing_app from")
        with pytest.raises(RoleCannotWork, match=r"it may not (select|insert|update|delete)"):
            probe(NAME, APP, role.connects())

    def test_columns_that_it_may_not_change(self, role: Role, shared: Database) -> None:
        """A privilege may be one of single columns."""
        one = "update (expires_at) on sessions"
        shared.execute(f"revoke {one} from billing_app")
        try:
            with pytest.raises(RoleCannotWork, match="it may not update sessions"):
                probe(NAME, APP, role.connects())
        finally:
            shared.execute(f"grant {one} to billing_app")

    def test_routines_that_it_may_not_execute(self, role: Role, shared: Database) -> None:
        """A company may have revoked that from everybody."""
        one = "execute on function decimals_of"
        shared.execute(f"revoke {one} from public")
        try:
            with pytest.raises(RoleCannotWork, match="it may not execute decimals_of"):
                probe(NAME, APP, role.connects())
        finally:
            shared.execute(f"grant {one} to public")
