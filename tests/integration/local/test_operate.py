"""`python -m local show|redrive|sweep`: asking a stack that runs."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local.__main__ import main
from local.stack import LocalStack


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where a stack runs. World-reachable: root's Postgres runs as nobody."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        with LocalStack(data_dir=place, schedule_minute_seconds=None) as stack:
            account = {"email": "ada@example.com", "password": "correct horse battery"}
            signed_up = httpx.post(f"{stack.api}/signup", json=account, timeout=30).json()
            httpx.post(
                f"{stack.api}/checkout",
                json={"plan_code": "free"},
                headers={"authorization": f"Bearer {signed_up['session']['token']}"},
                timeout=30,
            ).raise_for_status()
            yield place


def ask(directory: Path, *arguments: str) -> int:
    return main([*arguments, "--data-dir", str(directory)])


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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["redrive"], "0 events will be tried again."),
        (["redrive", "events", "--user", "usr_1", "--id", "whev_1"], "0 events"),
        (["redrive", "deliveries", "--reason", "unconfirmed"], "0 deliveries"),
        (["sweep"], "begins a sweep"),
    ],
)
def test_commands(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """They say what they did."""
    assert ask(directory, *arguments) == 0
    assert told in capsys.readouterr().out


def test_nobody(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stack's own word, without a traceback."""
    assert ask(directory, "show", "usr_nobody") == 1
    assert "Stopped: There is no user with this id or email address." in capsys.readouterr().err


def test_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What to do about it."""
    assert ask(tmp_path, "show", "usr_1") == 1
    assert "make run" in capsys.readouterr().err
