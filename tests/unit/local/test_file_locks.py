"""The lock on a data directory: who has it, and who waits for whom."""

import subprocess
import sys
from pathlib import Path

import pytest

from local.locks import HeldError, hold, release


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def child_with(descriptor: int, seconds: float) -> subprocess.Popen[bytes]:
    """A process that keeps a copy of the lock for a while, as Postgres does."""
    program = f"import time; time.sleep({seconds})"
    return subprocess.Popen([sys.executable, "-c", program], pass_fds=[descriptor])


def test_a_running_owner_is_named_at_once(lock: Path) -> None:
    with hold(lock) as first, pytest.raises(HeldError) as refused:
        hold(lock, patience_seconds=60)
    assert first.closed
    assert refused.value.owner.isdigit()


def test_a_child_that_is_about_to_end_is_waited_for(lock: Path) -> None:
    """Also by the process that had the lock: a killed Postgres leaves children for a moment."""
    first = hold(lock)
    child = child_with(first.fileno(), 0.5)
    release(first)
    with hold(lock, patience_seconds=60):
        assert child.wait(5) == 0


def test_a_child_that_stays_is_not_waited_for_longer(lock: Path) -> None:
    first = hold(lock)
    child = child_with(first.fileno(), 60)
    release(first)
    try:
        with pytest.raises(HeldError) as refused:
            hold(lock, patience_seconds=0.2)
    finally:
        child.kill()
        child.wait()
    assert refused.value.owner == "?"
