"""The stand-in as a process: command line, restart on the same data, being killed."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from standin.__main__ import main
from standin.catalogue import DEFAULT_FILE
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
            yield StandIn(
                facts["base_url"], facts["api_key"], facts["public_url"], control, control.now
            )
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


def _edited(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """The catalogue that ships, with its plans by code changed."""
    catalogue = json.loads(DEFAULT_FILE.read_text())
    plans = {plan["code"]: plan for plan in catalogue["plans"]}
    edit(plans)
    file.write_text(json.dumps(catalogue | {"plans": list(plans.values())}))


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pay for Usage Pro and one used it, a third did not pay; one is moving to Free."""
    data = tmp_path_factory.mktemp("sold") / "commet.sqlite"
    with process("--data", str(data)) as server, connect(server) as sdk:
        subs = {}
        for user, plan in [
            ("usr_1", "usage_pro"), ("usr_2", "usage_pro"), ("usr_3", "usage_pro"),
            ("usr_4", "free"), ("usr_5", "usage_max"),
        ]:  # fmt: skip
            sdk.customers.create(email=f"{user}@example.com", id=user)
            subs[user] = sdk.subscriptions.create(customer_id=user, plan_code=plan).id
        for user in ("usr_1", "usr_2", "usr_5"):
            server.control.pay(subs[user])
        sdk.usage.track(feature_code="storage", customer_id="usr_1", value=150, event_id="e")
        sdk.subscriptions.change_plan(subs["usr_5"], new_plan_id="pln_usagepro")
    return data


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command answered and printed."""

    returncode: int
    stdout: str
    stderr: str


Start = Callable[..., Ended]


@pytest.fixture
def start(capsys: pytest.CaptureFixture[str]) -> Start:
    """Runs the command in this process: it does not start, so nothing has to be ended."""

    def run(data: Path, catalogue: Path, *flags: str) -> Ended:
        given = ["--port", "0", "--data", str(data), "--catalogue", str(catalogue), *flags]
        code = main(given)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run


class TestSold:
    """What was sold is in the catalogue, or the stand-in says what is not and does not start."""

    @pytest.mark.parametrize(
        ("edit", "lost"),
        [
            (
                lambda plans: plans.pop("usage_pro"),
                [
                    'plan "Usage Pro" (pln_usagepro) is gone; 3 subscribed to it,'
                    " 1 ended or not yet paid"
                ],
            ),
            (
                lambda plans: plans["usage_pro"].update(id="pln_other"),
                [
                    'plan "Usage Pro" (pln_usagepro) is gone; 3 subscribed to it,'
                    " 1 ended or not yet paid"
                ],
            ),
            (
                lambda plans: plans["usage_pro"]["features"].pop(0),
                [
                    'plan "Usage Pro" (pln_usagepro) has lost the feature "storage", which was used'
                    " in this period; 1 subscribed to it"
                ],
            ),
            (
                lambda plans: plans["usage_pro"]["prices"][0].update(id="pp_new"),
                [
                    'plan "Usage Pro" (pln_usagepro) has lost its price pp_usagepro_m;'
                    " 3 subscribed to it, 1 ended or not yet paid"
                ],
            ),
            (
                lambda plans: plans["usage_max"]["prices"][0].update(billingInterval="weekly"),
                [
                    'plan "Usage Max" (pln_usagemax) has its price pp_usagemax_m weekly,'
                    " not monthly; 1 subscribed to it"
                ],
            ),
            (
                lambda plans: (
                    plans["free"].update(isFree=False),
                    plans["usage_max"].update(isFree=True),
                ),
                [
                    'plan "Free" (pln_free) was free and is not any more; 1 subscribed to it',
                    'plan "Usage Max" (pln_usagemax) was paid for and is free now;'
                    " 1 subscribed to it",
                ],
            ),
        ],
        ids=["plan", "id of a plan", "used feature", "price", "interval", "free or not"],
    )
    def test_refused(
        self,
        tmp_path: Path,
        start: Start,
        sold: Path,
        edit: Callable[[dict[str, Any]], object],
        lost: list[str],
    ) -> None:
        """One message: which plan, how many people, and both ways out."""
        file = tmp_path / "mine.json"
        _edited(file, edit)
        done = start(sold, file)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"standin: The catalogue {file} does not fit what was sold and is kept in {sold}:",
            *(f"  {line}" for line in lost),
            f"Put it back as it was, or start anew: rm {sold}",
        ]

    def test_another_currency(self, start: Start, sold: Path) -> None:
        """What is owed in one would be collected in another."""
        done = start(sold, DEFAULT_FILE, "--currency", "eur")
        assert done.returncode == 1
        assert "  prices are in eur, and invoices were written in usd\n" in done.stderr

    def test_a_program_reads_why(self, tmp_path: Path, start: Start, sold: Path) -> None:
        """One line of JSON, without a command: the program has its own."""
        file = tmp_path / "mine.json"
        _edited(file, lambda plans: plans.pop("usage_pro"))
        done = start(sold, file, "--json")
        assert (done.returncode, done.stderr) == (1, "")
        told = json.loads(done.stdout)
        assert told["start_anew"] is True
        assert told["error"].endswith("Put it back as it was")

    def test_what_may_change(self, tmp_path: Path, sold: Path) -> None:
        """Amounts, names, what is included, whether it is listed, features that nobody used."""
        file = tmp_path / "mine.json"

        def edit(plans: dict[str, Any]) -> None:
            plans.pop("fixed_box")
            plans["usage_pro"].update(name="Pro", isPublic=False, sortOrder=30)
            plans["usage_pro"]["prices"][0]["price"] = 3900
            plans["usage_pro"]["features"][0]["includedAmount"] = 10
            plans["usage_pro"]["features"].pop(1)

        _edited(file, edit)
        with process("--data", str(sold), "--catalogue", str(file)) as server:
            shown = httpx.get(f"{server.public_url}/_standin/customers/usr_1").json()
        assert shown["subscriptions"][0]["plan"] == "Pro"


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
