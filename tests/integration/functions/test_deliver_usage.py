"""The delivery function and its operator's commands, through their handlers."""

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from billing import wiring
from billing.config import from_env
from billing.database.connection import Database
from billing.errors import CommetRefused, InvalidRequest
from billing.operations import commands
from billing.usage.accepting import UsageEvent, accept
from billing.usage.reservations import reserve
from functions.deliver_usage import app
from tests.integration.billing.conftest import NOW, STATUSES, Subscribe
from tests.integration.billing.delivery.test_outbox import StandIn
from tests.integration.conftest import Context

pytestmark = pytest.mark.handlers


@pytest.fixture
def commet() -> StandIn:
    return StandIn()


@pytest.fixture
def environment(db: Database, commet: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function's own, with this database and that Commet."""
    monkeypatch.setattr(app.metrics.provider, "namespace", "UsageBilling")
    monkeypatch.setattr(wiring, "database", lambda: db)
    monkeypatch.setattr(wiring, "commet", lambda: commet)
    monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
    monkeypatch.setattr(wiring, "settings", lambda: from_env({"COMMET_MODE": "sandbox"}))


def metrics(printed: str) -> dict[str, float]:
    """The metrics of one run, by name."""
    (line,) = (json.loads(each) for each in printed.splitlines() if '"_aws"' in each)
    return {name: line[name][0] for name in line if isinstance(line[name], list)}


@pytest.mark.usefixtures("environment")
def test_a_run_and_its_metrics(
    db: Database, subscribe: Subscribe, commet: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was done is counted, and how the outbox stands is measured, under the agreed names."""
    for user in ("usr_a", "usr_b"):
        subscribe(user)
        accept(db, [UsageEvent(user, "storage", Decimal(1), "k")], statuses=STATUSES, now=NOW)
    commet.answers = [CommetRefused("feature_disabled", commet_status=400)]
    held = reserve(
        db, UsageEvent("usr_b", "storage", Decimal(1), "later"), expires_in=timedelta(seconds=1),
        statuses=STATUSES, now=NOW - timedelta(minutes=1),
    )  # fmt: skip
    assert held.code is None
    answer = app.handler({}, Context(55))
    assert answer == {
        "reservations_expired": 1,
        "claimed": 2, "sent": 1, "postponed": 0, "parked": 1, "drained": True, "steps_failed": 0,
        "outbox_age_seconds": 0.0, "parked_deliveries": 1, "usage_drift": 0,
    }  # fmt: skip
    assert metrics(capsys.readouterr().out) == {
        "DeliveriesClaimed": 2, "DeliveriesSent": 1, "DeliveriesPostponed": 0,
        "DeliveriesParked": 1, "ReservationsExpired": 1, "OutboxAgeSeconds": 0,
        "ParkedDeliveries": 1, "UsageDrift": 0,
    }  # fmt: skip


class TestCommands:
    @pytest.fixture
    def parked(
        self, db: Database, subscribe: Subscribe, commet: StandIn, request: pytest.FixtureRequest
    ) -> str:
        """The event id of usage that Commet refused."""
        request.getfixturevalue("environment")
        subscribe()
        accept(db, [UsageEvent("usr_ana", "storage", Decimal(1), "k")], statuses=STATUSES, now=NOW)
        commet.answers = [CommetRefused("feature_disabled", commet_status=400)]
        app.handler({}, Context(55))
        return str(db.value("select event_id from usage_delivery"))

    def obey(self, db: Database, **command: Any) -> dict[str, Any]:
        return commands.obey(db, command, now=NOW)

    def test_redrive(self, db: Database, commet: StandIn, parked: str) -> None:
        """By reason or id; then it is sent."""
        ask = {"command": "redrive", "what": "deliveries"}
        assert self.obey(db, **ask, reason="another") == {"redriven": 0}
        assert self.obey(db, **ask, id=parked, reason="feature_disabled") == {"redriven": 1}
        app.handler({}, Context(55))
        assert commet.total == 1

    def test_resolve(self, db: Database, parked: str) -> None:
        """Says why, and is off the list of what `show` and the gauge tell."""
        told = {"command": "resolve", "user": "usr_ana", "id": parked}
        with pytest.raises(InvalidRequest):
            self.obey(db, **told)
        shown = self.obey(db, command="show", user="usr_ana")
        assert [each["event_id"] for each in shown["deliveries"]] == [parked]
        assert self.obey(db, **told, note="Waived.") == {"resolved": True}
        assert self.obey(db, command="show", user="usr_ana")["deliveries"] == []
        assert app.handler({}, Context(55))["parked_deliveries"] == 0

    @pytest.mark.usefixtures("parked")
    def test_repair_drift(self, db: Database) -> None:
        """Only of that user, where totals differ; `show` tells which."""
        db.execute(
            "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at)"
            " select id, 'storage', user_id, 1, 2, now(), now() from usage_period"
        )
        ask = {"command": "repair_drift"}
        assert self.obey(db, **ask, user="usr_nobody") == {"repairing": 0}
        assert self.obey(db, **ask, user="usr_ana") == {"repairing": 1}
        (drift,) = self.obey(db, command="show", user="usr_ana")["drift"]
        assert (drift["ours"], drift["theirs"], drift["repair"]) == (
            "1.000000",
            "2.000000",
            "asked",
        )
