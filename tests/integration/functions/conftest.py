"""The functions run on the same databases as the modules of the layer, as their own roles."""

import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from argon2 import PasswordHasher

from billing import wiring
from billing.accounts import passwords
from billing.config import DatabaseSettings
from billing.database import connection
from billing.database.connection import Connection, Database
from billing.errors import BillingError
from tests import environments
from tests.integration.billing.conftest import keep
from tests.integration.functions import documented
from tests.unit.cloudformation import ROOT, TEMPLATE, app_of, load, of_type

FUNCTIONS = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
# The migrations are the owner's, and this one uses no database.
WITHOUT_ROLE = {"MigrateFunction", "RegisterWebhookFunction"}
# Their answers are pages for people, which docs/openapi.json does not describe.
PAGES = {"PagesFunction", "OpsFunction"}

_Login = tuple[DatabaseSettings, str, str]
_connect = connection._connect


@pytest.fixture(autouse=True)
def nothing_left(database_url: str) -> None:
    """Every test finds the tables empty: what one leaves behind must not decide another."""


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a password takes as long as the rest of most tests. e2e has the real parameters."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(1, 64, 1))


@pytest.fixture(scope="session")
def _kept() -> Iterator[dict[_Login, list[Connection]]]:
    """Connections of earlier environments, by what they were opened with."""
    kept: dict[_Login, list[Connection]] = defaultdict(list)
    yield kept
    for connections in kept.values():
        for each in connections:
            each.close()


@pytest.fixture(autouse=True)
def warm_connections(
    migrated_url: str, _kept: dict[_Login, list[Connection]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment begins with the connection of one that has ended.

    Postgres plans every statement and compiles every routine anew for a new connection, which
    takes longer than most tests. Only connections of the tables' owner are kept: other logins are
    those of tests about logins.
    """
    owner = urlsplit(migrated_url).username
    lent: dict[Connection, _Login] = {}

    def connect(
        settings: DatabaseSettings, login: Mapping[str, Any], application: str
    ) -> Connection:
        key = (settings, str(login["username"]), application)
        opened = _kept[key].pop() if _kept[key] else _connect(settings, login, application)
        if login["username"] == owner:
            lent[opened] = key
        return opened

    def leave(database: Database) -> None:
        used = database._connection
        if used is not None and used in lent:
            database._connection = None
            keep(used, _kept[lent.pop(used)])
        database.close()

    monkeypatch.setattr(connection, "_connect", connect)
    monkeypatch.setattr(environments, "leave", leave)


@pytest.fixture(autouse=True)
def roles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every handler acts as the database role of its function, and as no other.

    What it answers must be documented, unless it is a page.

    The tests themselves log in as the owner of the tables, because they look everywhere.
    """
    for name in FUNCTIONS.keys() - WITHOUT_ROLE:
        app = app_of(FUNCTIONS[name]).relative_to(ROOT).with_suffix("")
        module = importlib.import_module(".".join(app.parts))
        variables: dict[str, Any] = FUNCTIONS[name]["Environment"]["Variables"]
        role = "billing_accounts" if "DATABASE_SECRET_ARN" in variables else "billing_app"
        if name == "PagesFunction":
            role = "billing_pages"
        acting = _acting_as(role, module.handler, is_documented=name not in PAGES)
        monkeypatch.setattr(module, "handler", acting)


def _acting_as(
    role: str, handler: Callable[..., Any], *, is_documented: bool
) -> Callable[..., Any]:
    def run(event: Any, context: Any) -> Any:
        with _role(role):
            answer = handler(event, context)
        if is_documented:
            documented.check(event, answer)
        return answer

    return run


@contextmanager
def _role(name: str) -> Iterator[None]:
    _say(f"set role {name}")
    try:
        yield
    finally:
        _say("reset role")


def _say(statement: str) -> None:
    """A test may have no database, or one that does not answer."""
    with suppress(psycopg.Error, BillingError):
        wiring.database().execute(statement)
