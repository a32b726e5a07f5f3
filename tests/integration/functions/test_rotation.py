"""Each secret of the stack is rotated under a warm function, and no request fails.

Secrets are where they are in AWS, in Secrets Manager, and read through the same code; keys, roles
and signatures are those of a real Postgres and of the Commet stand-in.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from billing import wiring
from billing.credentials.secrets import Secrets, SecretsManagerStore
from billing.database.connection import Database, connector
from billing.deadline import Deadline
from billing.errors import DatabaseUnavailable
from billing.subscriptions.from_webhook import HANDLED
from functions.webhook import app as webhook
from standin.testing import standin
from tests.conftest import SecretsManager
from tests.environments import forget
from tests.integration.functions.calling import ask, call, event, service_key, variables

pytestmark = pytest.mark.handlers

MINUTE, FIVE_MINUTES = 60.0, 300.0


@dataclass
class Stack:
    """The secrets of a stack, and a clock that can be moved on."""

    manager: SecretsManager
    arns: dict[str, str] = field(default_factory=dict)
    later: float = 0.0

    def put(self, name: str, value: object, *stages: str) -> None:
        self.manager.put(self.arns[name], json.dumps(value), *stages)


@pytest.fixture
def stack(
    migrated_url: str,
    secrets_manager: SecretsManager,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stack]:
    """A function's environment, which has not read anything yet."""
    parts = urlsplit(migrated_url)
    made = Stack(secrets_manager)
    made.arns = {
        name: secrets_manager.create("{}")
        for name in ("database", "commet", "webhook", "service_keys")
    }
    login = {"username": parts.username, "password": parts.password or ""}
    made.put("database", login)
    told = variables(migrated_url) | {
        "SECRETS_ENDPOINT_URL": secrets_manager.url,
        "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": "",
    }
    told |= {f"{name.upper()}_SECRET_ARN": arn for name, arn in made.arns.items()}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(webhook.metrics.provider, "namespace", "test")
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + made.later)
    forget()
    yield made
    forget()


class TestServiceKeys:
    OLD, NEW = (f"svc_app_{letter * 64}" for letter in "ab")

    def listed(self, *keys: str) -> dict[str, object]:
        return {"keys": [service_key("app", key, "read") for key in keys]}

    def opens(self, key: str) -> bool:
        """Whether it is let in; that there is no such user is the answer to a good key."""
        return call("GET", "/users/usr_none/dashboard", token=key).status == 404

    def test_rotation(self, stack: Stack) -> None:
        """Add, wait a minute, move callers over, remove: five minutes later it opens nothing."""
        stack.put("service_keys", self.listed(self.OLD))
        assert (self.opens(self.OLD), self.opens(self.NEW)) == (True, False)
        stack.put("service_keys", self.listed(self.OLD, self.NEW))
        stack.later += MINUTE
        assert (self.opens(self.NEW), self.opens(self.OLD)) == (True, True)
        stack.put("service_keys", self.listed(self.NEW))
        stack.later += FIVE_MINUTES
        assert (self.opens(self.NEW), self.opens(self.OLD)) == (True, False)


class TestWebhookSecret:
    def accepted(self, secret: str) -> bool:
        body = json.dumps({"id": f"whev_{uuid4().hex}", "event": HANDLED[0], "data": {}})
        signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
        headers = {"x-commet-signature": signature}
        answer = ask(webhook, event("POST", "/webhooks/commet", body, headers, []))
        return answer.status == 200

    @pytest.mark.parametrize(("hours", "believed"), [(0, True), (23, True), (25, False)])
    def test_rotation(self, stack: Stack, hours: float, believed: bool) -> None:  # noqa: FBT001
        """What is on its way signed with the old one is believed for a day, and then no longer."""
        vault = wiring.webhook_vault()
        stack.put("webhook", {"secrets": ["whsec_old"]})
        assert self.accepted("whsec_old")
        then = datetime.now(UTC) - timedelta(hours=hours)
        vault.write(vault.read().renewed("whsec_new", endpoint_id="whe_2", rotation="2", now=then))
        assert self.accepted("whsec_new")
        assert self.accepted("whsec_old") is believed

    def test_one_that_was_stolen(self, stack: Stack) -> None:
        """Taken out of the secret by hand, it is believed for five minutes at most."""
        stack.put("webhook", {"secrets": ["whsec_new", "whsec_stolen"]})
        assert self.accepted("whsec_stolen")
        stack.put("webhook", {"secrets": ["whsec_new"]})
        stack.later += FIVE_MINUTES
        assert (self.accepted("whsec_stolen"), self.accepted("whsec_new")) == (False, True)


class TestCommetKey:
    def test_rotation(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        """The old key is refused, the new one is read, and the call succeeds: nobody notices."""
        stack.put("commet", {"api_key": "ck_sandbox_old"})
        with standin(api_key="ck_sandbox_old") as before:
            monkeypatch.setenv("COMMET_BASE_URL", before.base_url)
            assert wiring.commet().plans(Deadline.after(10))
        stack.put("commet", {"api_key": "ck_sandbox_new"})
        with standin(api_key="ck_sandbox_new", port=urlsplit(before.base_url).port or 0) as after:
            assert wiring.commet().plans(Deadline.after(10))
            refused = [r["status"] for r in after.control.requests()]
        assert refused == [401, 200]


class TestDatabaseLogin:
    @pytest.fixture
    def role(self, migrated_url: str) -> Iterator["Role"]:
        """The role of the functions, with the password `one`."""
        with psycopg.connect(migrated_url, autocommit=True) as owner:
            role = Role(owner, f"billing_app_{uuid4().hex[:8]}")
            owner.execute(sql.SQL("create role {} login").format(sql.Identifier(role.name)))
            role.learns("one")
            yield role
            owner.execute(sql.SQL("drop role {}").format(sql.Identifier(role.name)))

    def login(self, role: "Role", password: str) -> dict[str, str]:
        return {"username": role.name, "password": password}

    def test_rotation(self, stack: Stack, role: "Role") -> None:
        """As Secrets Manager does it: at every step there are connections, old ones and new."""
        stack.put("database", self.login(role, "one"))
        warm = wiring.database()
        assert self.works()
        stack.put("database", self.login(role, "two"), "AWSPENDING")  # createSecret
        assert self.works()
        role.learns("two")  # setSecret: the current secret is wrong from here
        assert self.works()
        assert warm.value("select 1") == 1
        stack.put("database", self.login(role, "two"))  # finishSecret
        assert self.works()
        assert warm.value("select 1") == 1
        warm.close()

    def test_to_another_role(self, stack: Stack, role: "Role") -> None:
        """Two roles that take turns: the old one works until the next time."""
        other = Role(role.owner, f"{role.name}_clone")
        role.owner.execute(
            sql.SQL("create role {} login password 'two' in role {}").format(
                sql.Identifier(other.name), sql.Identifier(role.name)
            )
        )
        stack.put("database", self.login(role, "one"))
        assert wiring.database().value("select current_user") == role.name
        stack.put("database", self.login(other, "two"))
        role.learns("three")
        wiring.database().close()
        assert wiring.database().value("select current_user") == other.name
        wiring.database().close()
        role.owner.execute(sql.SQL("drop role {}").format(sql.Identifier(other.name)))

    def test_one_that_is_just_wrong(self, stack: Stack, role: "Role") -> None:
        """No more than three log-ins are tried, also where a rotation got stuck."""
        stack.put("database", self.login(role, "wrong"))
        stack.put("database", self.login(role, "wrong"), "AWSPENDING")
        with pytest.raises(DatabaseUnavailable):
            wiring.database().value("select 1")

    def works(self) -> bool:
        """In a warm environment that has to connect anew, and in a cold one."""
        warm = Database(connector(wiring.settings().database, wiring.secrets(), "warm"))
        cold = Database(
            connector(
                wiring.settings().database,
                Secrets(SecretsManagerStore(wiring.settings().secrets_endpoint)),
                "cold",
            )
        )
        try:
            return bool(warm.value("select 1") == cold.value("select 1") == 1)
        finally:
            warm.close()
            cold.close()


@dataclass
class Role:
    """A role of the database, whose password the owner of everything sets."""

    owner: psycopg.Connection[Any]
    name: str

    def learns(self, password: str) -> None:
        self.owner.execute(
            sql.SQL("alter role {} password {}").format(
                sql.Identifier(self.name), sql.Literal(password)
            )
        )
