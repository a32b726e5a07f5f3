"""The function that CloudFormation calls: it always answers, and migrates when it should."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import functions.migrate.app as migrate_function
from billing.migrations import MigrationChanged
from tests.integration.conftest import CloudFormation, Context


@pytest.fixture
def ask(
    cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    def request(
        kind: str, outcome: list[str] | Exception, resource_id: str | None = None
    ) -> dict[str, Any]:
        def run() -> list[str]:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(migrate_function, "_migrate", run)
        migrate_function.handler(cloudformation.event(kind, resource_id), Context())
        return cloudformation.answer

    return request


class TestCustomResource:
    def test_create(self, ask: Callable[..., dict[str, Any]]) -> None:
        answer = ask("Create", ["0001_accounts.sql"])
        assert (answer["Status"], answer["Reason"]) == ("SUCCESS", "1 applied")
        assert answer["PhysicalResourceId"] == "migrations"

    def test_update_keeps_the_resource(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Another physical id would make CloudFormation delete the old one."""
        assert ask("Update", [], "migrations-of-old")["PhysicalResourceId"] == "migrations-of-old"

    def test_delete_leaves_the_data_alone(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Nothing is run: were it, this would fail."""
        assert ask("Delete", AssertionError("ran"), "migrations")["Status"] == "SUCCESS"

    @pytest.mark.parametrize(
        "failure",
        [
            psycopg.OperationalError("connection refused"),
            MigrationChanged("0001_accounts.sql was changed after it had been applied."),
        ],
    )
    def test_a_failure_rolls_back_with_a_reason(
        self, ask: Callable[..., dict[str, Any]], failure: Exception
    ) -> None:
        answer = ask("Update", failure)
        assert answer["Status"] == "FAILED"
        assert str(failure) in answer["Reason"]

    def test_a_bug_is_answered_too(self, ask: Callable[..., dict[str, Any]]) -> None:
        """Or CloudFormation would wait for the whole time-out. What a bug says may be secret."""
        answer = ask("Create", RuntimeError("password 123"))
        assert answer["Status"] == "FAILED"
        assert answer["Reason"] == "RuntimeError; see the function's log."
