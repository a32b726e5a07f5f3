"""The stand-in as a process: command line, restart on the same data, being killed."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from standin.testing import Control, Receiver, StandIn, receiver
from tests.standin.contract.conftest import connect, storage

ROOT = Path(__file__).parents[3]


@contextmanager
def process(*arguments: str, stop: signal.Signals = signal.SIGTERM) -> Iterator[StandIn]:
    """`python -m standin`, ended with a signal."""
    command = [sys.executable, "-m", "standin", "--json", "--port", "0", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        line = running.stdout.readline()
        assert line, running.stderr.read()
        facts = json.loads(line)
        control = Control(facts["public_url"])
        try:
            yield StandIn(facts["base_url"], facts["api_key"], facts["public_url"], control)
        finally:
            control.close()
            running.send_signal(stop)
            code = running.wait(10)
    assert code == (0 if stop is not signal.SIGKILL else -signal.SIGKILL)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_state_survives_a_restart(tmp_path: Path, stop: signal.Signals) -> None:
    """Key, customers, subscription, usage, secret, clock: nothing confirmed is lost."""
    data = str(tmp_path / "commet.sqlite")
    with process("--data", data, stop=stop) as first, connect(first) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        sub = sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro")
        first.control.pay(sub.id)
        first.control.advance(days=10)
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=1.5, event_id="e1")
        before = sdk.subscriptions.get(sub.id)
        now = first.control.now()
    with process("--data", data) as second, connect(second) as sdk:
        assert second.api_key == first.api_key
        after = sdk.subscriptions.get(sub.id)
        assert (after.status, after.updated_at) == (before.status, before.updated_at)
        assert after.features == before.features
        assert second.control.now() >= now
        assert [e["event"] for e in second.control.events("usage.recorded")] == ["usage.recorded"]


def test_what_was_acknowledged_survives_being_killed_at_work(tmp_path: Path) -> None:
    """Killed between two writes, or in one: the counts agree, and nothing confirmed is missing."""
    data = str(tmp_path / "commet.sqlite")
    acknowledged: list[str] = []
    enough = threading.Event()

    def keep_writing(server: StandIn) -> None:
        event = {"customerId": "usr_1", "featureCode": "storage", "value": 1}
        headers = {"x-api-key": server.api_key}
        with httpx.Client(base_url=server.base_url, headers=headers) as http:
            for number in itertools.count():
                try:
                    answer = http.post("/usage/events", json=event | {"eventId": f"e{number}"})
                except httpx.TransportError:
                    return
                acknowledged.append(answer.raise_for_status().json()["eventId"])
                if number == 200:
                    enough.set()

    with process("--data", data, stop=signal.SIGKILL) as first, connect(first) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        first.control.pay(sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro").id)
        writer = threading.Thread(target=keep_writing, args=[first])
        writer.start()
        assert enough.wait(30)
    writer.join()
    with process("--data", data) as second, connect(second) as sdk:
        told = second.control.events("usage.recorded", limit=10_000)
        assert storage(sdk).consumption.units_used == len(told)
        assert len(told) - len(acknowledged) in {0, 1}


def test_pending_deliveries_survive_a_restart(tmp_path: Path) -> None:
    """A webhook that failed before the stop is retried after the start."""
    data = str(tmp_path / "commet.sqlite")
    with receiver() as box:
        box.default = 500
        with process("--data", data) as first, connect(first) as sdk:
            sdk.webhooks.create(url=box.url, events=["customer.created"])
            sdk.customers.create(email="ana@example.com", id="usr_1")
            first.control.settle()
        box.default = 200
        with process("--data", data) as second:
            assert [d["status"] for d in second.control.deliveries()] == ["pending"]
            second.control.advance(seconds=61)
            assert [d["status"] for d in second.control.deliveries()] == ["delivered"]
    _same_event_twice(box)


def test_what_a_rule_held_back_is_sent_after_a_restart(tmp_path: Path) -> None:
    """Rules are not kept, so nothing else would let it go."""
    data = str(tmp_path / "commet.sqlite")
    with receiver() as box:
        with process("--data", data) as first, connect(first) as sdk:
            sdk.webhooks.create(url=box.url, events=["customer.created"])
            first.control.fault(webhooks={"reorder": 2})
            sdk.customers.create(email="ana@example.com", id="usr_1")
            first.control.settle()
        assert box.received == []
        with process("--data", data) as second:
            second.control.settle()
        assert box.events() == ["customer.created"]


def _same_event_twice(box: Receiver) -> None:
    assert len({request.json["id"] for request in box.received}) == 1
    assert len(box.received) == 2


def test_retry_scale_compresses_minutes(tmp_path: Path) -> None:
    """With minutes turned into hundredths of a second, eight attempts take no time."""
    data = str(tmp_path / "commet.sqlite")
    with receiver() as box, process("--data", data, "--retry-scale", "0.0001") as server:
        box.default = 500
        with connect(server) as sdk:
            sdk.webhooks.create(url=box.url, events=["customer.created"])
            sdk.customers.create(email="ana@example.com", id="usr_1")
        while server.control.deliveries()[0]["status"] == "pending":
            server.control.settle()
        assert len(box.received) == 8


def test_speed_lets_time_fly() -> None:
    """A day per second: the first period is over in half a minute, so a week in seven seconds."""
    with process("--speed", "1000000") as server, connect(server) as sdk:
        sdk.customers.create(email="ana@example.com", id="usr_1")
        server.control.pay(sdk.subscriptions.create(customer_id="usr_1", plan_code="usage_pro").id)
        while not server.control.events("invoice.upcoming"):
            server.control.settle()


def test_an_address_of_ipv6_is_written_as_browsers_want_it() -> None:
    """In brackets: what it tells as its own address can be opened."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with process("--host", "::1") as server:
        assert server.public_url.startswith("http://[::1]:")
        assert httpx.post(f"{server.public_url}/_standin/settle").status_code == 200


def test_a_port_that_is_taken_is_told_clearly() -> None:
    """One line, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "standin", "--port", port],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_file_in_use_is_told_clearly(tmp_path: Path) -> None:
    """Two processes on one file would deliver everything twice."""
    data = str(tmp_path / "commet.sqlite")
    with process("--data", data) as first:
        done = subprocess.run(
            [sys.executable, "-m", "standin", "--port", "0", "--data", data],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert httpx.get(f"{first.public_url}/healthz").status_code == 200
    assert done.returncode == 1
    assert f"{data}: database is locked" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--api-key", "nonsense"], ["--catalogue", "/nowhere"]])
def test_unusable_arguments_are_told_clearly(arguments: list[str]) -> None:
    """No traceback for a mistake on the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "standin", "--port", "0", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_it_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """However the parent died, no stand-in is left behind."""
    facts = tmp_path / "facts.json"
    parent = (
        "import subprocess, sys, time\n"
        f"out = open({str(facts)!r}, 'w')\n"
        "subprocess.Popen([sys.executable, '-m', 'standin', '--json', '--port', '0',"
        " '--exit-with-parent'], stdout=out)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT) as running:
        while not facts.exists() or not facts.read_text().endswith("\n"):
            assert running.poll() is None
        public_url = json.loads(facts.read_text())["public_url"]
        assert httpx.get(f"{public_url}/healthz").status_code == 200
        os.kill(running.pid, signal.SIGKILL)
        running.wait(10)
    while _is_up(public_url):
        pass


def _is_up(public_url: str) -> bool:
    try:
        return httpx.get(f"{public_url}/healthz").is_success
    except httpx.TransportError:
        return False
