"""The functions run on the same databases as the modules of the layer, as their own roles."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from argon2 import PasswordHasher

from billing import wiring
from billing.accounts import passwords
from billing.errors import BillingError
from tests.integration.functions import documented
from tests.unit.cloudformation import ROOT, TEMPLATE, app_of, load, of_type

FUNCTIONS = of_type(load(TEMPLATE)["Resources"], "AWS::Serverless::Function")
# The migrations are the owner's, and this one uses no database.
WITHOUT_ROLE = {"MigrateFunction", "RegisterWebhookFunction"}
# Their answers are pages for people, which docs/openapi.json does not describe.
PAGES = {"PagesFunction", "OpsFunction"}


@pytest.fixture(autouse=True)
def nothing_left(database_url: str) -> None:
    """Every test finds the tables empty: what one leaves behind must not decide another."""


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing a password takes as long as the rest of most tests. e2e has the real parameters."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(1, 64, 1))


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
