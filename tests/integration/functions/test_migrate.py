"""The function that CloudFormation calls: it always answers, and migrates when it should."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

import functions.migrate.app as migrate_function
from billing.database.migrate import _LOCK, MigrationChanged, migrate
from billing.deadline import Deadline
from tests.conftest import SecretsManager
from tests.environments import forget
from tests.integration.billing.database.test_migrate import (  # noqa: F401 - two are fixtures
    folder,
    opens,
    tables,
    url,
)
from tests.integration.conftest import CloudFormation, Context

pytestmark = pytest.mark.handlers

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> Ask:
    def request(
        kind: str, outcome: list[str] | Exception, resource_id: str | None = None
    ) -> dict[str, Any]:
        def run(_: Deadline) -> list[str]:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(migrate_function, "_migrate", run)
        migrate_function.handler(cloudformation.event(kind, resource_id), Context())
        return cloudformation.answer

    return request


class TestCustomResource:
    def test_create(self, ask: Ask) -> None:
        answer = ask("Create", ["0001_accounts.sql"])
        assert (answer["Status"], answer["Reason"]) == ("SUCCESS", "1 applied")
        assert answer["PhysicalResourceId"] == "migrations"

    def test_update_keeps_the_resource(self, ask: Ask) -> None:
        """Another physical id would make CloudFormation delete the old one."""
        assert ask("Update", [], "migrations-of-old")["PhysicalResourceId"] == "migrations-of-old"

    def test_delete_leaves_the_data_alone(self, ask: Ask) -> None:
        """Nothing is run: were it, this would fail."""
        assert ask("Delete", AssertionError("ran"), "migrations")["Status"] == "SUCCESS"

    @pytest.mark.parametrize(
        "failure",
        [
            psycopg.OperationalError("connection refused"),
            MigrationChanged("0001_accounts.sql was changed after it had been applied."),
        ],
    )
    def test_a_failure_rolls_back_with_a_reason(self, ask: Ask, failure: Exception) -> None:
        answer = ask("Update", failure)
        assert answer["Status"] == "FAILED"
        assert str(failure) in answer["Reason"]

    def test_a_bug_is_answered_too(self, ask: Ask) -> None:
        """Or CloudFormation would wait for the whole time-out. What a bug says may be secret."""
        answer = ask("Create", RuntimeError("password 123"))
        assert answer["Status"] == "FAILED"
        assert "RuntimeError at test_migrate.py:" in answer["Reason"]
        assert "password" not in answer["Reason"]


class TestBuild:
    """Whether CloudFormation publishes what it deploys."""

    LAYER = "arn:aws:lambda:eu-central-1:123456789012:layer:usage-billing-common:"

    def answer(
        self, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch, **was: str
    ) -> dict[str, Any]:
        monkeypatch.setattr(migrate_function, "_migrate", lambda _: [])
        event = cloudformation.event(
            "Update", "migrations", BuildId="b" * 16, Layer=f"{self.LAYER}10"
        )
        migrate_function.handler(event | {"OldResourceProperties": was}, Context())
        return cloudformation.answer

    def test_a_newer_layer_under_the_same_build(
        self, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`sam deploy` without a build id: the functions would stay on the old code, silently."""
        answer = self.answer(cloudformation, monkeypatch, BuildId="b" * 16, Layer=f"{self.LAYER}9")
        assert answer["Status"] == "FAILED"
        assert "make deploy" in answer["Reason"]

    @pytest.mark.parametrize(
        "was",
        [
            pytest.param({"BuildId": "a" * 16, "Layer": f"{LAYER}9"}, id="another build"),
            pytest.param({"BuildId": "b" * 16, "Layer": f"{LAYER}10"}, id="nothing new"),
            pytest.param({"BuildId": "b" * 16, "Layer": f"{LAYER}11"}, id="that one taken back"),
            pytest.param({"BuildId": "b" * 16}, id="from a release that named no layer"),
        ],
    )
    def test_what_goes_on(
        self,
        cloudformation: CloudFormation,
        monkeypatch: pytest.MonkeyPatch,
        was: dict[str, str],
    ) -> None:
        assert self.answer(cloudformation, monkeypatch, **was)["Status"] == "SUCCESS"


class TestOnADatabase:
    """The whole way: CloudFormation's event, secrets, a real Postgres, the answer."""

    @pytest.fixture(autouse=True)
    def _environment(
        self,
        url: str,  # noqa: F811
        secrets_manager: SecretsManager,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[None]:
        parts = urlsplit(url)
        login = {"username": parts.username, "password": parts.password or ""}
        arn = secrets_manager.create(json.dumps(login))
        variables = {
            "DATABASE_HOST": str(parts.hostname),
            "DATABASE_PORT": str(parts.port),
            "DATABASE_NAME": parts.path[1:],
            "DATABASE_SSLMODE": "disable",
            "DATABASE_SECRET_ARN": arn,
            "DATABASE_ACCOUNTS_SECRET_ARN": arn,
            "DATABASE_OWNER_SECRET_ARN": arn,
            "SECRETS_ENDPOINT_URL": secrets_manager.url,
            "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": "",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        forget()
        yield
        forget()

    @pytest.fixture
    def build(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
        """The migrations of the build that is deployed, to be changed."""
        monkeypatch.setattr(migrate_function, "migrate", partial(migrate, folder=folder))
        return folder

    def asking(self, cloudformation: CloudFormation, kind: str, **more: str) -> dict[str, Any]:
        resource = None if kind == "Create" else "migrations"
        event = cloudformation.event(kind, resource, **more)
        return migrate_function.handler(event, Context())

    def test_the_life_of_a_stack(
        self,
        cloudformation: CloudFormation,
        build: Path,
        url: str,  # noqa: F811
    ) -> None:
        """Created, deployed again with nothing new and with something, and deleted."""
        first = self.asking(cloudformation, "Create")
        assert first["Status"] == "SUCCESS"
        assert first["Reason"] != "0 applied"
        assert self.asking(cloudformation, "Update")["Reason"] == "0 applied"
        (build / "tables/9000_more.sql").write_text("create table more (id integer)")
        assert self.asking(cloudformation, "Update")["Reason"] == "1 applied"
        before = tables(opens(url))
        assert self.asking(cloudformation, "Delete")["Status"] == "SUCCESS"
        assert tables(opens(url)) == before

    @pytest.mark.usefixtures("build")
    def test_by_hand(self) -> None:
        """What was applied is answered; a second time nothing is left to do."""
        assert "0001_accounts.sql" in migrate_function.handler({}, Context())["applied"]
        assert migrate_function.handler({}, Context()) == {"applied": []}

    @pytest.mark.usefixtures("build")
    @pytest.mark.parametrize(
        ("secret", "reads_passwords"),
        [("DATABASE_SECRET_ARN", False), ("DATABASE_ACCOUNTS_SECRET_ARN", True)],
    )
    def test_each_role_may_use_its_tables(
        self,
        url: str,  # noqa: F811
        secrets_manager: SecretsManager,
        monkeypatch: pytest.MonkeyPatch,
        secret: str,
        reads_passwords: bool,  # noqa: FBT001 - pytest names it
    ) -> None:
        """The secret names the role; the owner's secret makes the tables."""
        role = f"app_{uuid4().hex[:8]}"
        arn = secrets_manager.create(json.dumps({"username": role, "password": "x"}))
        monkeypatch.setenv(secret, arn)
        may = (
            "select has_table_privilege(%(role)s, 'users', 'insert') as users,"
            " has_table_privilege(%(role)s, 'passwords', 'select') as passwords"
        )
        with opens(url)() as owner:
            owner.execute(f"create role {role} login password 'x'".encode())
            try:
                migrate_function.handler({}, Context())
                assert owner.execute(may, {"role": role}).fetchall() == [
                    {"users": True, "passwords": reads_passwords}
                ]
            finally:
                owner.execute(f"drop owned by {role}; drop role {role}".encode())

    @pytest.mark.usefixtures("build")
    def test_accounts_may_do_what_pages_do_while_there_are_pages(
        self,
        url: str,  # noqa: F811
        secrets_manager: SecretsManager,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """When pages are switched off, the migration takes these privileges back."""
        role = f"accounts_{uuid4().hex[:8]}"
        arn = secrets_manager.create(json.dumps({"username": role, "password": "x"}))
        monkeypatch.setenv("DATABASE_ACCOUNTS_SECRET_ARN", arn)
        may = (
            "select has_table_privilege(%(role)s, 'usage_event', 'select') as ledger,"
            " has_table_privilege(%(role)s, 'usage_event', 'insert') as adds,"
            " has_table_privilege(%(role)s, 'passwords', 'select') as passwords"
        )
        with opens(url)() as owner:
            owner.execute(f"create role {role} login password 'x'".encode())
            try:
                for pages in ("true", "false"):
                    monkeypatch.setenv("PAGES", pages)
                    forget()
                    migrate_function.handler({}, Context())
                    assert owner.execute(may, {"role": role}).fetchall() == [
                        {"ledger": pages == "true", "adds": False, "passwords": True}
                    ]
            finally:
                owner.execute(f"drop owned by {role}; drop role {role}".encode())

    @pytest.mark.usefixtures("build")
    @pytest.mark.parametrize(
        ("harm", "told"),
        [
            ("alter role {} set search_path = elsewhere", None),
            ("revoke execute on all functions in schema public from public", "may not execute"),
            ("alter role {} nologin", "Secret: arn:"),
        ],
    )
    def test_a_role_that_cannot_work_stops_the_deployment(  # noqa: PLR0917 - fixtures and cases
        self,
        url: str,  # noqa: F811
        cloudformation: CloudFormation,
        secrets_manager: SecretsManager,
        monkeypatch: pytest.MonkeyPatch,
        harm: str,
        told: str | None,
    ) -> None:
        """Before any function of the new version answers. A search_path is set by each session."""
        role = f"app_{uuid4().hex[:8]}"
        arn = secrets_manager.create(json.dumps({"username": role, "password": "x"}))
        monkeypatch.setenv("DATABASE_SECRET_ARN", arn)
        with opens(url)() as owner:
            owner.execute(f"create role {role} login password 'x'".encode())
            try:
                assert self.asking(cloudformation, "Create")["Status"] == "SUCCESS"
                owner.execute(harm.format(role).encode())
                answer = self.asking(cloudformation, "Update")
                assert answer["Status"] == ("FAILED" if told else "SUCCESS")
                assert told is None or told in answer["Reason"]
                assert told != "may not execute" or role in answer["Reason"]
            finally:
                owner.execute(f"drop owned by {role}; drop role {role}".encode())

    def test_a_deployment_that_fails_and_is_rolled_back(
        self,
        cloudformation: CloudFormation,
        build: Path,
        url: str,  # noqa: F811
    ) -> None:
        """The reason is Postgres's, the tables are as they were, and the old build goes on."""
        self.asking(cloudformation, "Create")
        before = tables(opens(url))
        bad = build / "tables/9000_bad.sql"
        bad.write_text("create table more (id integer); alter table nowhere add x integer")
        failed = self.asking(cloudformation, "Update")
        assert failed["Status"] == "FAILED"
        assert 'relation "nowhere" does not exist' in failed["Reason"]
        assert tables(opens(url)) == before
        bad.unlink()  # CloudFormation now asks for the build before
        assert self.asking(cloudformation, "Update")["Status"] == "SUCCESS"

    def test_a_rollback_after_tables_have_changed(
        self,
        cloudformation: CloudFormation,
        build: Path,
        url: str,  # noqa: F811
    ) -> None:
        """A later step of the deployment failed: the old build leaves the newer tables alone."""
        new = build / "tables/9000_more.sql"
        new.write_text("create table more (id integer)")
        self.asking(cloudformation, "Create")
        new.unlink()
        assert self.asking(cloudformation, "Update")["Reason"] == "0 applied"
        assert "more" in tables(opens(url))

    def test_the_same_request_twice_at_once(self, cloudformation: CloudFormation) -> None:
        """Both succeed; one of them has done it."""
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(self.asking, cloudformation, "Create") for _ in range(2)]
            answers = [run.result() for run in runs]
        assert [answer["Status"] for answer in answers] == ["SUCCESS"] * 2
        assert min(answer["Reason"] for answer in answers) == "0 applied"

    def test_one_that_has_to_wait(
        self,
        cloudformation: CloudFormation,
        url: str,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """However long another one takes, waiting for it is no failure."""
        # Not less: on a busy machine Postgres' own cleaning may hold a table for some milliseconds.
        monkeypatch.setattr("billing.database.migrate._LOCK_WAIT_MS", 250)
        waiting = (
            "select pid from pg_stat_activity where wait_event = 'advisory'"
            " and application_name = 'migrate' and now() - query_start > interval '400 ms'"
        )
        with opens(url)() as other, ThreadPoolExecutor(1) as pool:
            other.execute("select pg_advisory_lock(%s)", [_LOCK])
            second = pool.submit(self.asking, cloudformation, "Create")
            while not other.execute(waiting).fetchall() and not second.done():
                pass
            other.execute("select pg_advisory_unlock(%s)", [_LOCK])
            assert second.result()["Status"] == "SUCCESS"

    @pytest.mark.parametrize(
        ("secret", "told"),
        [
            (("DATABASE_OWNER_SECRET_ARN", None), "ResourceNotFoundException"),
            (("DATABASE_SECRET_ARN", None), "ResourceNotFoundException"),
            (("DATABASE_OWNER_SECRET_ARN", '{"user": "hunter2"}'), "no username and no password"),
            (("DATABASE_SECRET_ARN", '{"password": "hunter2"}'), "no username"),
            (("DATABASE_SECRET_ARN", "hunter2"), "not valid JSON"),
            (("DATABASE_ACCOUNTS_SECRET_ARN", None), "ResourceNotFoundException"),
        ],
    )
    def test_a_secret_that_will_not_do(
        self,
        cloudformation: CloudFormation,
        secrets_manager: SecretsManager,
        monkeypatch: pytest.MonkeyPatch,
        secret: tuple[str, str | None],
        told: str,
    ) -> None:
        """Which one and what is wrong with it: the log goes with a stack that was never made."""
        name, text = secret
        arn = "arn:of-nothing" if text is None else secrets_manager.create(text)
        monkeypatch.setenv(name, arn)
        answer = self.asking(cloudformation, "Create")
        assert answer["Status"] == "FAILED"
        assert told in answer["Reason"]
        assert arn in answer["Reason"]
        assert "hunter2" not in answer["Reason"]

    def test_a_setting_that_will_not_do(
        self, cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALLOWED_ORIGINS", "app.example.com")
        answer = self.asking(cloudformation, "Create")
        assert answer["Status"] == "FAILED"
        assert "ALLOWED_ORIGINS must list origins" in answer["Reason"]

    def test_one_that_takes_too_long(
        self,
        cloudformation: CloudFormation,
        build: Path,
        url: str,  # noqa: F811
    ) -> None:
        """Postgres ends it in time for its reason to be told; nothing goes on or stays."""
        (build / "tables/9000_slow.sql").write_text(
            "create table slow (id integer); select pg_sleep(60)"
        )
        event = cloudformation.event("Create")
        answer = migrate_function.handler(event, Context(15 + 3))
        assert answer["Status"] == "FAILED"
        assert "statement timeout" in answer["Reason"]
        assert tables(opens(url)) == set()
