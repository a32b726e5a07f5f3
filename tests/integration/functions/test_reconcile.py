"""The repairing function through its handler: its schedule's run, its counts and its failures."""

from dataclasses import replace

import psycopg
import pytest

from billing import wiring
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database
from billing.operations import housekeeping
from functions.reconcile import app
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
