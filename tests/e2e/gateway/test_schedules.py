"""The template's schedules fire by themselves, only faster."""

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from local.gateway import schedules
from local.gateway.logs import Log
from local.gateway.server import Gateway
from local.gateway.template import Schedule, Template

_SLOW = """
import json, os, time
from pathlib import Path

def handler(event, context):
    record = Path(os.environ["RECORD"])
    with record.open("a") as file:
        file.write(json.dumps(["begin", event]) + "\\n")
    time.sleep(0.1)
    with record.open("a") as file:
        file.write(json.dumps(["end", None]) + "\\n")
"""


def lines(record: Path, at_least: int) -> list[Any]:
    """What was recorded, once there is this much of it."""
    deadline = time.monotonic() + 60
    while True:
        found = record.read_text().splitlines() if record.exists() else []
        if len(found) >= at_least:
            return [json.loads(line) for line in found]
        assert time.monotonic() < deadline, "the schedule did not fire"
        time.sleep(0.01)


def test_a_schedule_fires_again_and_again_but_never_over_itself(
    template: Template, tmp_path: Path
) -> None:
    """Each run begins after the one before has ended, however long that took."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text(_SLOW)
    record = tmp_path / "record"
    timer = replace(
        template.functions["Timer"],
        code=code,
        layers=(),
        environment={"RECORD": str(record)},
    )
    schedule = Schedule("Tick", "Timer", "rate(1 minute)", "aws.scheduler")
    only = replace(template, functions={"Timer": timer}, schedules=(schedule,), api=None, urls=())
    output = io.StringIO()
    # A minute takes 10 ms here, a run more than 100.
    with Gateway(only, log=Log(output), schedule_minute_seconds=0.01):
        recorded = lines(record, 6)
        # A run that the closing gateway stops is reported too.
        reports = output.getvalue().count("REPORT")
    assert [kind for kind, _ in recorded[:6]] == ["begin", "end"] * 3
    event = recorded[0][1]
    assert isinstance(event, dict)
    assert event["source"] == "aws.scheduler"
    # Of runs that worked only the first, which started a process, is reported.
    assert reports == 1


def test_a_schedule_with_an_input_sends_that(template: Template, tmp_path: Path) -> None:
    """In place of the event."""
    record = tmp_path / "record"
    timer = replace(template.functions["Timer"], environment={"RECORD": str(record)})
    changed = replace(template, functions={**template.functions, "Timer": timer})
    with Gateway(changed, log=Log(io.StringIO()), schedule_minute_seconds=0.05):
        (recorded, *_) = lines(record, 1)
    assert recorded["event"] == {"do": "record"}


def test_without_being_told_nothing_fires(template: Template, tmp_path: Path) -> None:
    """Tests want functions to themselves."""
    output = io.StringIO()
    timer = replace(template.functions["Timer"], environment={"RECORD": str(tmp_path / "r")})
    changed = replace(template, functions={**template.functions, "Timer": timer})
    with Gateway(changed, log=Log(output)) as gateway:
        gateway.invoke("Probe", {})
    assert "Timer" not in output.getvalue()


def test_a_schedule_follows_the_clock_of_the_functions(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute that was skipped has passed, although an hour is to be waited for it."""
    monkeypatch.setattr(schedules, "_LOOK_SECONDS", 0.05)
    record = tmp_path / "record"
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text(_SLOW)
    timer = replace(
        template.functions["Timer"], code=code, layers=(), environment={"RECORD": str(record)}
    )
    schedule = Schedule("Tick", "Timer", "rate(1 minute)", "aws.scheduler")
    only = replace(template, functions={"Timer": timer}, schedules=(schedule,), api=None, urls=())
    ahead = timedelta()

    def clock() -> str:
        return (datetime.now(UTC) + ahead).isoformat()

    with Gateway(only, log=Log(io.StringIO()), clock=clock, schedule_minute_seconds=3600):
        ahead += timedelta(seconds=58)
        time.sleep(0.5)
        assert not record.exists()
        ahead += timedelta(seconds=3)
        assert [kind for kind, _ in lines(record, 2)] == ["begin", "end"]
        time.sleep(0.5)
        assert len(lines(record, 2)) == 2
