"""`python -m local show|redrive|sweep|forgive|refund|adopt`: asking a stack that runs."""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from billing.operations import commands
from local.__main__ import main
from local.stack import LocalStack
from local.verbs import COMMANDS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where a stack runs. World-reachable: root's Postgres runs as nobody."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        with LocalStack(data_dir=place, schedule_minute_seconds=None) as stack:
            account = {"email": "ada@example.com", "password": "correct horse battery"}
            signed_up = httpx.post(f"{stack.api}/signup", json=account, timeout=30).json()
            stack.confirm_address(signed_up["user"]["id"])
            session = {"authorization": f"Bearer {signed_up['session']['token']}"}
            with httpx.Client(base_url=stack.api, headers=session, timeout=30) as ada:
                ada.post("/checkout", json={"plan_code": "free"}).raise_for_status()
                end = time.monotonic() + 30
                while not ada.get("/dashboard").json()["usage"]:  # which webhooks bring
                    assert time.monotonic() < end
                    time.sleep(0.05)
            yield place


def ask(directory: Path, *arguments: str) -> int:
    command, *rest = arguments
    return main([command, "--data-dir", str(directory), *rest])


def test_show(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user by their address: the subscription, what they may use, what comes next."""
    assert ask(directory, "show", "ada@example.com") == 0
    told = capsys.readouterr().out
    for word in ("usr_", "(current)", "active", "storage", "reconcile will do"):
        assert word in told


def test_show_as_json(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a program."""
    assert ask(directory, "show", "ada@example.com", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in found["subscriptions"]] == ["active"]
    assert found["would_do"]


def test_endpoints_of_events(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listed, switched on, and events sent again; one that there is not is named."""
    assert ask(directory, "endpoints") == 0
    assert "There are no endpoints." in capsys.readouterr().out
    stack = json.loads((directory / "stack.json").read_text())
    with httpx.Client(
        base_url=stack["api"], headers={"authorization": f"Bearer {stack['service_key']}"}
    ) as product:
        url = "http://127.0.0.1:9/hooks/token"
        made = product.post("/events/endpoints", json={"url": url, "description": "[b]Ours"})
        endpoint = made.json()["id"]
        product.patch(f"/events/endpoints/{endpoint}", json={"enabled": False})
        assert product.get("/events").json()["events"]
    assert ask(directory, "endpoints", "--author", "ann") == 0
    told = capsys.readouterr().out
    assert f"{endpoint}  127.0.0.1  [b]Ours  off since 20" in told
    assert "by request" in told
    assert "token" not in told
    assert ask(directory, "redeliver", endpoint, "--from", "2026-01-01T00:00:00+00:00") == 0
    assert re.search(r"^[1-9]\d* events will be sent again", capsys.readouterr().out)
    assert ask(directory, "enable-endpoint", endpoint, "--note", "mended") == 0
    assert f"{endpoint} is switched on." in capsys.readouterr().out
    assert ask(directory, "endpoints") == 0
    assert re.search(r"Ours  on  .*an event waits since 20", capsys.readouterr().out)
    assert ask(directory, "enable-endpoint", "ep_" + "0" * 24) == 1
    assert "Stopped: There is no endpoint with this id." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["redrive"], "0 webhooks will be tried again."),
        (["redrive", "webhooks", "--user", "usr_1", "--id", "whev_1"], "0 webhooks"),
        (["redrive", "deliveries", "--reason", "unconfirmed"], "0 deliveries"),
        (["sweep"], "begins a sweep"),
        (["compare"], "The next run of reconcile compares all totals"),
        (
            ["resolve", "usr_1", "dlv_1", "--note", "credited"],
            "Nothing to do: usr_1 has no parked delivery dlv_1.",
        ),
        (
            ["resolve-dispute", "usr_1", "txn_1", "won"],
            "Nothing to do: usr_1 has no open dispute about txn_1.",
        ),
        (["repair"], "0 of Commet's totals will be replaced"),
        (["repair", "--user", "usr_1"], "0 of Commet's totals will be replaced"),
        (["forgive", "usr_1", "all", "--author", "ann", "--note", "ours"], "0 debts were forgiven"),
    ],
)
def test_commands(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """They say what they did."""
    assert ask(directory, *arguments) == 0
    assert told in capsys.readouterr().out


def test_every_command_has_a_verb() -> None:
    """`show` and all others, by its own name or a shorter one."""
    shorter = {"repair_drift": "repair"}
    verbs = {shorter.get(name, name).replace("_", "-") for name in commands._COMMANDS}
    assert verbs <= set(COMMANDS)
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert verbs <= set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE))


def test_logs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The id in an answer finds the lines of its request, also after the stack has ended."""
    api = json.loads((directory / "stack.json").read_text())["api"]
    answer = httpx.get(f"{api}/dashboard", timeout=30)
    # As `make logs` does: an id may begin with "-".
    assert ask(directory, "logs", "--", answer.json()["request_id"]) == 0
    told = capsys.readouterr().out
    assert "GET /dashboard 401 in" in told
    assert f"id={answer.json()['request_id']}" in told
    assert ask(directory, "logs") == 0
    assert len(capsys.readouterr().out.splitlines()) > 10
    assert ask(directory, "logs", "nothing-has-this-id") == 1
    assert "No log line in" in capsys.readouterr().err


def test_adopt(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Safe to repeat: a customer that is the user's already; and one that nobody knows."""
    ask(directory, "show", "ada@example.com", "--json")
    ada = json.loads(capsys.readouterr().out)["user"]
    by = ["--author", "ann", "--note", "wrote from that address"]
    assert ask(directory, "adopt", ada["id"], ada["commet_customer_id"], *by) == 0
    told = f"{ada['commet_customer_id']} was already the customer of {ada['id']}."
    assert told in capsys.readouterr().out
    assert ask(directory, "adopt", ada["id"], "cus_none", *by) == 1
    assert "Stopped: Commet does not know this customer." in capsys.readouterr().err


def test_a_refund_that_commet_refuses(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was given back."""
    assert ask(directory, "refund", "txn_none", "--link", "7") == 1
    assert "Stopped: transaction_not_found" in capsys.readouterr().err


def test_nobody(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stack's own word, without a traceback."""
    assert ask(directory, "show", "usr_nobody") == 1
    assert "Stopped: There is no user with this id or email address." in capsys.readouterr().err


def test_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What to do about it."""
    assert ask(tmp_path, "show", "usr_1") == 1
    assert "make run" in capsys.readouterr().err
