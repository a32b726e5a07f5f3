"""`python -m local run` as a process: what it starts, keeps, refuses and leaves behind."""

import io
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from rich.console import Console

from local.__main__ import _introduce
from local.gateway.logs import Log
from local.locks import hold
from local.ports import Port
from local.postgres import EmbeddedPostgres
from local.stack import LocalStack, StackError
from standin.catalogue import DEFAULT_FILE
from standin.testing import Control
from tests.integration.local.processes import descendants, eventually, gone

ROOT = Path(__file__).parents[3]


@pytest.fixture
def directory() -> Iterator[Path]:
    """World-reachable, unlike pytest's own: root's Postgres runs as nobody."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def run(directory: Path, *flags: str) -> "subprocess.Popen[str]":
    """Starts the stack as `make run` does, on free ports unless told otherwise."""
    ports = {"PORT": "0", "COMMET_PORT": "0"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"CATALOGUE", "DATABASE_URL", "COMMET_API_KEY", "DATA_DIR"}
    }
    return subprocess.Popen(
        [sys.executable, "-m", "local", "run", "--data-dir", str(directory), *flags],
        cwd=ROOT,
        env=environment | ports,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def facts_of(process: "subprocess.Popen[str]", directory: Path) -> dict[str, Any]:
    """What `stack.json` says, once the stack is ready."""
    path = directory / "stack.json"

    def ready() -> bool:
        if process.poll() is not None and process.stdout:
            pytest.fail(f"the stack ended: {process.stdout.read()}")
        return path.exists()

    eventually(ready)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_data_of_another_version_is_refused(directory: Path) -> None:
    """A database kept from before the migrations were put in order: nothing of it is touched."""
    place, usual = directory / "data", directory / ".local"
    older = "update schema_migrations set name = '0003_news.sql' where name like '0003%'"
    with (
        LocalStack(data_dir=place, fast=True, schedule_minute_seconds=None) as stack,
        psycopg.connect(stack.database_url) as owner,
    ):
        owner.execute(older)

    def refusal(place: Path) -> str:
        with pytest.raises(StackError, match="made by another version") as refused:
            LocalStack(data_dir=place, fast=True, schedule_minute_seconds=None).start()
        assert "0003_news.sql was applied to the database" in str(refused.value)
        return str(refused.value)

    assert "Remove the stack's data there, or choose another" in refusal(place)
    place.rename(usual)
    assert "rm -rf " in refusal(usual)
    shutil.rmtree(usual)
    with LocalStack(data_dir=usual, fast=True, schedule_minute_seconds=None) as stack:
        assert httpx.get(f"{stack.api}/health", timeout=30).status_code == 200


def test_it_serves_is_killed_and_serves_the_same_again(directory: Path) -> None:
    """SIGKILL leaves no process; the second run finds the first one's data; Ctrl-C is clean."""
    process = run(directory)
    first = facts_of(process, directory)
    assert stat.S_IMODE((directory / "stack.json").stat().st_mode) == 0o600
    assert httpx.get(f"{first['api']}/health", timeout=30).status_code == 200
    account = {"email": "kept@example.com", "password": "correct horse battery"}
    made = httpx.post(f"{first['api']}/signup", json=account, timeout=30)
    assert made.status_code == 201
    started = descendants(process.pid)
    assert len(started) > 4  # workers, stand-in, supervisors, Postgres
    process.kill()
    process.communicate()
    eventually(lambda: all(gone(pid) for pid in started))

    process = run(directory)
    eventually(lambda: json.loads((directory / "stack.json").read_text()) != first)
    second = facts_of(process, directory)
    kept = ("service_key", "commet_api_key", "database_url")
    assert {name: second[name] for name in kept} == {name: first[name] for name in kept}
    session = {"authorization": f"Bearer {made.json()['session']['token']}"}
    seen = httpx.get(f"{second['api']}/account", headers=session, timeout=30)
    assert (seen.status_code, seen.json()["account"]["email"]) == (200, account["email"])
    started = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert all(gone(pid) for pid in started)
    assert not (directory / "stack.json").exists()
    assert f"Ready.  Pages    {second['api']}\n        API      {second['api']}\n" in said
    assert f"Python {platform.python_version()} ({sys.executable})" in said
    assert f"curl {second['api']}/signup" in said
    assert "Sells    the built-in plans, in USD" in said
    # Nothing secret was printed.
    passwords = json.loads((directory / "secrets.json").read_text())
    for name in ("owner_password", "app_password", "app_secret", "service_key"):
        assert passwords[name] not in said
    assert second["webhook_secret"] not in said


def test_a_port_that_was_asked_for_and_is_taken_is_an_error(directory: Path) -> None:
    """A clear line, and a code that a script sees."""
    with Port().listen() as taken:
        process = run(directory, "--port", str(taken.getsockname()[1]))
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be used: Address already in use" in said
    assert "Traceback" not in said


def test_a_catalogue_that_lost_what_was_sold_is_refused(directory: Path) -> None:
    """With the plan, how many have it and both ways out; put back, everybody has what they had."""
    file = directory / "plans.json"
    shutil.copy(DEFAULT_FILE, file)
    data = directory / "data"

    def ends() -> str:
        process = run(data, "--catalogue", str(file))
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 1
        assert "Traceback" not in said
        assert "Ready." not in said
        return said

    def serves(check: Callable[[dict[str, Any]], object]) -> None:
        process = run(data, "--catalogue", str(file))
        try:
            check(facts_of(process, data))
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        assert process.returncode == 0

    serves(_subscribe)
    catalogue = json.loads(file.read_text())
    catalogue["plans"] = [p for p in catalogue["plans"] if p["code"] != "usage_pro"]
    file.write_text(json.dumps(catalogue))
    said = ends()
    lost = 'plan "Usage Pro" (pln_usagepro) is gone; 1 subscribed to it'
    assert f"Stopped: The catalogue {file} does not fit what was sold" in said
    assert f":\n  {lost}\nPut it back as it was, or start anew: rm -rf {data}\n" in said

    shutil.copy(DEFAULT_FILE, file)
    serves(_has_access)
    file.write_text("{")
    assert f"Stopped: The catalogue {file} cannot be used:\n  line 1: not JSON: " in ends()


_ACCOUNT = {"email": "pays@example.com", "password": "correct horse battery"}


def _subscribe(facts: dict[str, Any]) -> None:
    """Somebody pays for Usage Pro."""
    with httpx.Client(base_url=facts["api"], timeout=30, trust_env=False) as http:
        made = http.post("/signup", json=_ACCOUNT).json()
        http.headers["authorization"] = f"Bearer {made['session']['token']}"
        why = {"author": "a test", "note": "nobody reads mail here"}
        verify = {"command": "verify_address", "user": made["user"]["id"], **why}
        url = f"{facts['lambda']}/2015-03-31/functions/SendMailFunction/invocations"
        assert "x-amz-function-error" not in httpx.post(url, json=verify, timeout=30).headers
        made = http.post("/checkout", json={"plan_code": "usage_pro"}).json()
    control = Control(facts["commet"].removesuffix("/api/v1"))
    control.pay(made["subscription"]["id"])
    control.close()


def _has_access(facts: dict[str, Any]) -> None:
    """Whoever paid still has what was bought."""
    with httpx.Client(base_url=facts["api"], timeout=30, trust_env=False) as http:
        token = http.post("/login", json=_ACCOUNT).json()["session"]["token"]
        board = http.get("/dashboard", headers={"authorization": f"Bearer {token}"}).json()
    assert (board["access"], board["subscription"]["plan"]["name"]) == (True, "Usage Pro"), board


def test_a_second_stack_on_the_same_data_is_refused(directory: Path) -> None:
    """With the first one's pid."""
    with hold(directory / "stack.lock"), pytest.raises(StackError, match=f"Process {os.getpid()}"):
        LocalStack(data_dir=directory).start()


def test_the_bar_on_the_pages_skips_time(directory: Path) -> None:
    """For the functions, too: they have the stand-in's clock."""
    with LocalStack(
        data_dir=directory, fast=True, schedule_minute_seconds=None, log=Log(io.StringIO())
    ) as stack:
        assert stack.pages == stack.api
        page = httpx.get(f"{stack.api}/", timeout=30)
        assert 'action="/_time"' in page.text
        made = httpx.post(
            f"{stack.api}/signup",
            json={"email": "ana@example.com", "password": "a long walk home"},
            timeout=30,
        ).json()
        stack.confirm_address(made["user"]["id"])  # others are gone after a day
        form = {"by": "day", "back": "/app/account"}
        foreign = {"Origin": "https://evil.example"}
        at = f"{stack.api}/_time"
        assert httpx.post(at, data=form, headers=foreign, timeout=60).status_code == 403
        skipped = httpx.post(at, data=form, headers={"Origin": stack.api}, timeout=60)
        assert (skipped.status_code, skipped.headers["location"]) == (303, "/app/account")
        headers = {"authorization": f"Bearer {made['session']['token']}"}
        listed = httpx.get(f"{stack.api}/sessions", headers=headers, timeout=30).json()
        (session,) = listed["sessions"]
        seen, begun = (
            datetime.fromisoformat(session[name]) for name in ("last_seen_at", "created_at")
        )
        assert timedelta(days=1) <= seen - begun < timedelta(days=1, minutes=5)


def test_a_stack_without_pages(directory: Path) -> None:
    """There is no function and no route, and nothing is said of pages."""
    told = io.StringIO()
    with LocalStack(
        data_dir=directory,
        fast=True,
        schedule_minute_seconds=None,
        parameters={"Pages": "false"},
        log=Log(io.StringIO()),
    ) as stack:
        answer = httpx.get(f"{stack.api}/", timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        _introduce(Console(file=told, width=200), stack)
    assert "Ready.  API " in told.getvalue()
    assert "Pages" not in told.getvalue()


class TestYourOwnParts:
    @pytest.fixture
    def database_url(self) -> Iterator[str]:
        """A Postgres that is not ours, with one database and one role."""
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            with EmbeddedPostgres(Path(name), fast=True) as server:
                server.ensure_role("someone", "p@ss/word")
                server.ensure_database("theirs", owner="someone")
                yield server.url("theirs", "someone", "p@ss/word")

    def test_your_database_and_commets_sandbox(self, directory: Path, database_url: str) -> None:
        """Only our tables are made there; no stand-in is started; webhooks have to be relayed."""
        output = io.StringIO()
        with LocalStack(
            data_dir=directory,
            database_url=database_url,
            commet_api_key="ck_sandbox_not_used_here",
            schedule_minute_seconds=None,
            log=Log(output),
        ) as stack:
            with psycopg.connect(stack.database_url) as connection:
                tables = connection.execute(
                    "select count(*) from pg_tables where tableowner = 'someone'"
                ).fetchone()
                roles = connection.execute(
                    "select count(*) from pg_roles where rolname like 'billing%'"
                ).fetchone()
            assert tables is not None
            assert tables[0] > 0
            assert roles == (0,)
            assert stack.commet == "https://commet.co/api/v1"
            assert not (directory / "commet.sqlite").exists()
            assert httpx.get(f"{stack.api}/health", timeout=30).status_code == 200
            told = io.StringIO()
            _introduce(Console(file=told, width=200), stack)
        assert f"commet listen {stack.function_url}" in told.getvalue()
        assert "COMMET_WEBHOOK_SECRET" in told.getvalue()
        assert "p@ss" not in output.getvalue()

    def test_a_database_that_is_not_there_is_said_so(self, directory: Path) -> None:
        """Without its password."""
        url = "postgresql://someone:p4ss@127.0.0.1:1/theirs"
        with pytest.raises(StackError, match="DATABASE_URL cannot be used") as refused:
            LocalStack(data_dir=directory, database_url=url).start()
        assert "p4ss" not in str(refused.value)


def test_migrations_that_fail_stop_the_start(directory: Path) -> None:
    """With the reason; and nothing is left running."""
    stack = LocalStack(
        data_dir=directory,
        fast=True,
        log=Log(io.StringIO()),
        parameters={"DatabaseName": "missing"},
    )
    with pytest.raises(StackError, match=r'MigrateFunction: .*"missing" does not exist'):
        stack.start()
    for lock in ("stack.lock", "postgres.lock"):
        hold(directory / lock).close()
