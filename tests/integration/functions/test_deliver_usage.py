"""The delivery function and its operator's commands, through their handlers."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from threading import Condition
from typing import Any

import psycopg
import pytest

from billing import wiring
from billing.config import from_env
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery import closing
from billing.errors import CommetRefused, InvalidRequest
from billing.operations import commands
from billing.usage.accepting import UsageEvent, accept
from billing.usage.reservations import reserve
from functions.deliver_usage import app
from tests.integration.billing.conftest import NOW, RULES, Subscribe
from tests.integration.billing.delivery import test_outbox
from tests.integration.conftest import Context

pytestmark = pytest.mark.handlers


class Counting:
    """How many calls are under way at a time, at most."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._under_way = 0
        self._changed = Condition()
        self.most = 0

    def __enter__(self) -> None:
        with self._changed:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            self._changed.notify_all()
            # Stays for long enough to be joined by one more than expected.
            self._changed.wait_for(lambda: self.most > self._expected, timeout=0.2)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._under_way -= 1


class StandIn(test_outbox.StandIn):
    """Counts calls under way where it is asked to."""

    counting: Counting | None = None

    def track_usage(self, body: str, **call: Any) -> test_outbox.Tracked:
        with self.counting or nullcontext():
            return super().track_usage(body, **call)


@pytest.fixture
def commet() -> StandIn:
    return StandIn()


Environment = Callable[..., None]


@pytest.fixture
def environment(db: Database, commet: StandIn, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The function's own, with this database and that Commet; called again, with other settings."""

    def start(**variables: str) -> None:
        settings = from_env({"COMMET_MODE": "sandbox"} | variables)
        monkeypatch.setattr(wiring, "settings", lambda: settings)

    monkeypatch.setattr(app.metrics.provider, "namespace", "UsageBilling")
    monkeypatch.setattr(wiring, "database", lambda: db)
    monkeypatch.setattr(wiring, "commet", lambda: commet)
    monkeypatch.setattr(wiring, "clock", lambda: lambda: NOW)
    start()
    return start


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
        accept(db, [UsageEvent(user, "storage", Decimal(1), "k")], rules=RULES, now=NOW)
    commet.answers = [CommetRefused("feature_disabled", commet_status=400)]
    held = reserve(
        db, UsageEvent("usr_b", "storage", Decimal(1), "later"), expires_in=timedelta(seconds=1),
        rules=RULES, now=NOW - timedelta(minutes=1),
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
        "ParkedDeliveries": 1, "UsageDrift": 0, "NearCeiling": 0, "CurrencyWithoutCeiling": 0,
        "PlansNotSold": 0, "CurrencyNotOffered": 0,
    }  # fmt: skip


def report(db: Database, user: str, key: str) -> None:
    accept(db, [UsageEvent(user, "storage", Decimal(1), key)], rules=RULES, now=NOW)


class TestSettings:
    @pytest.mark.parametrize(("seconds", "deliveries"), [("300", 2), ("420", 1)])
    def test_the_least_time_between_two_deliveries(
        self, db: Database, subscribe: Subscribe, environment: Environment,
        seconds: str, deliveries: int,
    ) -> None:  # fmt: skip
        """Of one user and feature; what comes sooner is sent together, later."""
        environment(DELIVERY_INTERVAL_SECONDS=seconds)
        subscribe()
        for key in ("first", "second"):
            report(db, "usr_ana", key)
            app.handler({}, Context(55))
            db.execute("update usage_total set claimed_at = claimed_at - interval '6 minutes'")
        assert db.value("select count(*) from usage_delivery") == deliveries

    @pytest.mark.parametrize("workers", [1, 3])
    def test_how_many_calls_are_under_way_at_a_time(
        self, db: Database, subscribe: Subscribe, commet: StandIn, environment: Environment,
        workers: int,
    ) -> None:  # fmt: skip
        for number in range(6):
            report(db, subscribe(f"usr_{number}"), "k")
        commet.counting = Counting(expected=workers)
        environment(DELIVERY_WORKERS=str(workers))
        assert app.handler({}, Context(55))["sent"] == 6
        assert commet.counting.most == workers

    def test_the_budget_of_calls(
        self, db: Database, subscribe: Subscribe, environment: Environment
    ) -> None:
        """The bucket of the whole stack holds two seconds' worth of what is set."""
        report(db, subscribe(), "k")
        environment(COMMET_CALLS_PER_SECOND="500")
        app.handler({}, Context(55))
        assert 900 < db.value("select tokens from call_budget") < 1000

    def test_the_budget_of_early_deliveries(
        self, db: Database, subscribe: Subscribe, environment: Environment
    ) -> None:
        """It holds half of that."""
        report(db, subscribe(), "first")
        environment(COMMET_CALLS_PER_SECOND="500")
        app.handler({}, Context(55))
        report(db, "usr_ana", "second")
        db.execute("insert into overage_due (user_id, value) values ('usr_ana', 5)")
        assert app.handler({}, Context(55))["sent"] == 1
        early = "select tokens from call_budget where name = 'early_deliveries'"
        assert 400 < db.value(early) < 500


@pytest.mark.usefixtures("environment")
def test_alarms_that_ring_once(db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """What routines noted is counted and logged by the next run, and by no other."""
    db.execute(
        "insert into alarm_once (alarm, subject, about) values"
        " ('near_ceiling', '2026-09-10', 'usr_ana'), ('currency_without_ceiling', 'brl', null)"
    )
    app.handler({}, Context(55))
    counts = metrics(capsys.readouterr().out)
    assert (counts["NearCeiling"], counts["CurrencyWithoutCeiling"]) == (1, 1)
    app.handler({}, Context(55))
    counts = metrics(capsys.readouterr().out)
    assert (counts["NearCeiling"], counts["CurrencyWithoutCeiling"]) == (0, 0)


class TestPromises:
    def test_time_is_kept_to_write_results_down(
        self, db: Database, subscribe: Subscribe, commet: StandIn, environment: Environment
    ) -> None:
        """A call whose answer Lambda cuts off would leave a delivery in doubt."""
        environment()
        report(db, subscribe(), "k")
        assert app.handler({}, Context(10 + 4))["sent"] == 0  # a call may take ten seconds
        assert commet.calls == []
        assert app.handler({}, Context(10 + 15))["sent"] == 1

    @pytest.mark.usefixtures("environment")
    def test_a_run_with_a_failed_step_fails(
        self, db: Database, subscribe: Subscribe, commet: StandIn,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        """The alarm on failed invocations rings; what could be done is done and counted."""

        def refused(*_: object, **__: object) -> int:
            raise psycopg.errors.UndefinedColumn("no such column")

        monkeypatch.setattr(closing, "mark_lost", refused)
        report(db, subscribe(), "k")
        with pytest.raises(RuntimeError, match=r"delivery\.step_failed"):
            app.handler({}, Context(55))
        assert commet.total == 1
        assert metrics(capsys.readouterr().out)["DeliveriesSent"] == 1


class TestCommands:
    @pytest.fixture
    def parked(
        self, db: Database, subscribe: Subscribe, commet: StandIn, request: pytest.FixtureRequest
    ) -> str:
        """The event id of usage that Commet refused."""
        request.getfixturevalue("environment")
        subscribe()
        accept(db, [UsageEvent("usr_ana", "storage", Decimal(1), "k")], rules=RULES, now=NOW)
        commet.answers = [CommetRefused("feature_disabled", commet_status=400)]
        app.handler({}, Context(55))
        return str(db.value("select event_id from usage_delivery"))

    def obey(self, db: Database, **command: Any) -> dict[str, Any]:
        return commands.obey(
            db, command, now=NOW, commet=wiring.commet, deadline=Deadline.after(20)
        )

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
            "1",
            "2",
            "asked",
        )
