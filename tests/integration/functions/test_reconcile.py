"""The repairing function through its handler: its schedule's run, its counts and its failures."""

from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import psycopg
import pytest

from billing import wiring
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database
from billing.operations import endpoint_watch, housekeeping
from billing.subscriptions import inbox
from functions.reconcile import app
from tests.integration.billing.conftest import NOW, add_user
from tests.integration.conftest import Context
from tests.integration.functions.test_deliver_usage import metrics

pytestmark = pytest.mark.handlers

SETTINGS = replace(
    from_env({"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": "1000"}),
    webhook_url="http://127.0.0.1:9/hook",
)


@pytest.fixture(autouse=True)
def environment(db: Database, commet: Commet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's own, with this database and the stand-in for Commet."""
    monkeypatch.setattr(app.metrics.provider, "namespace", "UsageBilling")
    monkeypatch.setattr(wiring, "database", lambda: db)
    monkeypatch.setattr(wiring, "commet", lambda: commet)
    monkeypatch.setattr(wiring, "clock", lambda: wall_clock)
    monkeypatch.setattr(wiring, "settings", lambda: SETTINGS)


def test_each_count_of_a_run_is_a_metric(capsys: pytest.CaptureFixture[str]) -> None:
    """A count without a metric would end a run that had done its work."""
    summary = app.handler({}, Context(55))
    assert summary.keys() == app.METRICS.keys()
    written = metrics(capsys.readouterr().out)
    assert written == {app.METRICS[name].value: float(count) for name, count in summary.items()}


def test_a_run_with_a_failed_step_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The alarm on failed invocations rings; the other steps were taken and counted."""

    def refused(*_: object, **__: object) -> int:
        raise psycopg.errors.UndefinedColumn("no such column")

    monkeypatch.setattr(housekeeping, "prune_ledger", refused)
    with pytest.raises(RuntimeError, match=r"reconcile\.step_failed"):
        app.handler({}, Context(55))
    written = metrics(capsys.readouterr().out)
    assert (written["StepsFailed"], written["Refreshed"]) == (1, 0)


class TestSettings:
    """Each step of a run is handed its own setting, the time it is and the time it has."""

    @pytest.fixture
    def handed(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """What the steps were handed in a run, at noon and with 55 seconds."""
        settings = from_env(
            {
                "COMMET_MODE": "sandbox",
                "COMMET_CALLS_PER_SECOND": "500",
                "WEBHOOK_URL": "http://127.0.0.1:9/hook",
                "INBOX_PAYLOAD_DAYS": "3",
                "INBOX_ID_DAYS": "5",
                "DELIVERY_DAYS": "7",
                "LEDGER_DAYS": "90",
            }
        )
        handed: dict[str, Any] = {}

        def watch(module: ModuleType, name: str) -> None:
            step = getattr(module, name)

            def watched(*given: Any, **named: Any) -> Any:
                deadline = named.get("deadline")
                left = deadline.remaining() if deadline else None
                handed[name] = {"given": given, "seconds": left} | named
                return step(*given, **named)

            monkeypatch.setattr(module, name, watched)

        for name in ("prune_inbox", "compact_deliveries", "prune_ledger", "tidy_sign_ins"):
            watch(housekeeping, name)
        watch(endpoint_watch, "look_after")
        watch(inbox, "retry_failed")
        monkeypatch.setattr(wiring, "settings", lambda: settings)
        monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
        app.handler({}, Context(55))
        return handed

    def test_how_long_things_are_kept(self, handed: dict[str, Any]) -> None:
        assert handed["prune_inbox"]["payload_age"] == timedelta(days=3)
        assert handed["prune_inbox"]["id_age"] == timedelta(days=5)
        assert handed["compact_deliveries"]["before"] == NOW - timedelta(days=7)
        assert handed["prune_ledger"]["before"] == NOW - timedelta(days=90)

    def test_what_time_it_is(self, handed: dict[str, Any]) -> None:
        assert handed["tidy_sign_ins"]["given"][1] == NOW
        assert handed["retry_failed"]["clock"]() == NOW

    def test_whose_events_and_which_endpoint(self, handed: dict[str, Any]) -> None:
        assert handed["retry_failed"]["mode"] == "sandbox"
        assert handed["look_after"]["given"][1] == "http://127.0.0.1:9/hook"

    def test_time_is_kept_to_say_what_was_done(self, handed: dict[str, Any]) -> None:
        """Of the 55 seconds Lambda gives, five."""
        assert 40 < handed["prune_inbox"]["seconds"] <= 50


def test_the_budget_of_calls(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket of the whole stack holds two seconds' worth of what is set."""
    monkeypatch.setattr(wiring, "settings", lambda: replace(SETTINGS, commet_calls_per_second=500))
    app.handler({}, Context(55))
    assert 900 < db.value("select tokens from call_budget") <= 1000


def test_a_command_is_obeyed_and_nothing_else_is_done(db: Database) -> None:
    add_user(db, "usr_ana")
    shown = app.handler({"command": "show", "user": "usr_ana"}, Context(55))
    assert shown["user"]["id"] == "usr_ana"
    assert app.handler({"command": "repair_drift"}, Context(55)) == {"repairing": 0}
    assert db.value("select count(*) from call_budget") == 0
