"""Routines are applied again when a file changes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.routines import FOLDER, RoutinesWatch


class Applied:
    """Counts, and fails if told so."""

    def __init__(self) -> None:
        self.times = 0
        self.fails = False
        self.said: list[str] = []

    def __call__(self) -> None:
        self.times += 1
        if self.fails:
            raise ValueError("syntax error at line 3")


def eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_change_a_new_file_and_a_mistake(tmp_path: Path) -> None:
    """Each is applied once; a mistake is said, and the next change is tried."""
    (tmp_path / "one.sql").write_text("first")
    applied = Applied()
    watch = RoutinesWatch(applied, applied.said.append, folder=tmp_path, every_seconds=0.02)
    watch.start()
    try:
        (tmp_path / "one.sql").write_text("second, longer")
        eventually(lambda: applied.said == ["one.sql: applied to the database."])
        applied.fails = True
        (tmp_path / "two.sql").write_text("a mistake")
        eventually(lambda: len(applied.said) == 2)
        assert applied.said[1] == (
            "two.sql: not applied, the database still has the routines before:"
            " syntax error at line 3"
        )
        applied.fails = False
        (tmp_path / "one.sql").unlink()
        eventually(lambda: len(applied.said) == 3)
        assert (applied.times, applied.said[2]) == (3, "one.sql: applied to the database.")
    finally:
        watch.stop()
    (tmp_path / "one.sql").write_text("after the end")
    time.sleep(0.1)
    assert applied.times == 3


def test_it_looks_where_the_routines_are() -> None:
    assert (FOLDER / "accepting.sql").is_file()


@pytest.mark.parametrize("started", [True, False])
def test_it_ends(tmp_path: Path, *, started: bool) -> None:
    """Also where the stack fails before it begins."""
    watch = RoutinesWatch(Applied(), print, folder=tmp_path)
    if started:
        watch.start()
    watch.stop()
