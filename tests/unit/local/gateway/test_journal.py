"""The file that keeps the log of a stack."""

import stat
from pathlib import Path

import pytest

from local.gateway.journal import Journal, about, entries
from local.gateway.logs import Access, Log


def texts(directory: Path, about_id: str) -> list[str]:
    return [entry.text for entry in about(directory, about_id)]


def test_an_id_finds_all_of_its_invocation(tmp_path: Path) -> None:
    """By the answer's id or by Lambda's, with what stands on lines that have neither."""
    journal = Journal(tmp_path)
    journal.write("F", "first", ["lambda-1", "answer-1"])
    journal.write("F", "Traceback", ["lambda-1", "answer-1"])
    journal.write("F", "GET / 500", ["answer-1"])
    journal.write("G", "other", ["lambda-2", "answer-2"])
    journal.close()
    journal.write("F", "after the end", ["answer-1"])
    assert texts(tmp_path, "answer-1") == ["first", "Traceback", "GET / 500"]
    assert texts(tmp_path, "lambda-1") == ["first", "Traceback", "GET / 500"]
    assert texts(tmp_path, "answer") == []
    assert texts(tmp_path, "Trace") == ["Traceback"]


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600


def test_it_stays_small(tmp_path: Path) -> None:
    """The newest lines are kept, and one file before them."""
    journal = Journal(tmp_path, large_bytes=500)
    for number in range(40):
        journal.write("F", f"line {number}")
    journal.close()
    kept = [entry.text for entry in entries(tmp_path)]
    assert kept[-1] == "line 39"
    assert 4 < len(kept) < 16
    assert {file.name for file in tmp_path.iterdir()} == {"log.jsonl", "log.1.jsonl"}


def test_a_line_that_was_cut_off(tmp_path: Path) -> None:
    """By the end of a stack that was killed."""
    journal = Journal(tmp_path)
    journal.write("F", "whole")
    journal.close()
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"at": "2026')
    assert [entry.text for entry in entries(tmp_path)] == ["whole"]


@pytest.mark.parametrize("raw", [False, True])
def test_a_log_keeps_what_it_prints_and_routine_runs(tmp_path: Path, *, raw: bool) -> None:
    """Not the metrics: they are for CloudWatch."""
    with (tmp_path / "printed").open("w") as stream:
        log = Log(stream, raw=raw)
        log.journal = Journal(tmp_path)
        log.output("F", '{"level": "INFO", "message": "done"}\n{"_aws": {}}', routine=True)
        log.access(Access("GET", "/x", 404, 1.4, "id-1"))
        log.journal.close()
    assert [entry.text for entry in entries(tmp_path)] == [
        '{"level": "INFO", "message": "done"}',
        "GET /x 404 in 1 ms  id=id-1",
    ]
    assert (tmp_path / "printed").read_text().endswith("GET /x 404 in 1 ms  id=id-1\n")
