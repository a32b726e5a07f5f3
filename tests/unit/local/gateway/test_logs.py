"""Log lines for people."""

import io
import json

import pytest

from local.gateway.logs import Log, Report, readable


class TestReadable:
    def test_a_structured_line_becomes_a_sentence(self) -> None:
        """Level, message and what is particular to it; the exception on lines of its own."""
        line = {
            "level": "ERROR",
            "message": "webhook.failed",
            "timestamp": "2026-01-01",
            "service": "webhook",
            "event_id": "whev_1",
            "attempts": 2,
            "exception": "Traceback\n  ValueError",
            "stack_trace": {"frames": []},
        }
        assert readable(json.dumps(line)) == (
            "ERROR webhook.failed event_id=whev_1 attempts=2\nTraceback\n  ValueError"
        )

    def test_an_unhandled_error_names_itself(self) -> None:
        """Lambda's runtime client writes these without a message."""
        line = {"level": "ERROR", "errorMessage": "no", "errorType": "E", "stackTrace": ["  at\n"]}
        assert readable(json.dumps(line)) == "ERROR E: no\n  at"

    def test_metrics_are_for_cloudwatch(self) -> None:
        """Nobody reads them in a terminal."""
        assert readable(json.dumps({"_aws": {"Timestamp": 1}, "Sent": [1.0]})) is None

    @pytest.mark.parametrize("line", ["plain", "{not json", "[1]", '{"a": 1}'])
    def test_anything_else_stays_as_it_is(self, line: str) -> None:
        """A print is a print."""
        assert readable(line) == line

    def test_a_routine_run_is_silent_unless_in_trouble(self) -> None:
        """Schedules fire every few seconds."""
        assert readable('{"level": "INFO", "message": "done"}', routine=True) is None
        assert readable('{"level": "WARNING", "message": "odd"}', routine=True) == "WARNING odd"
        assert readable("a print", routine=True) == "a print"


def test_colour_is_for_terminals_only() -> None:
    """A file gets plain text."""
    plain, coloured = io.StringIO(), io.StringIO()
    Log(plain).output("F", "text\n")
    Log(coloured, colour=True).output("F", "text\n")
    assert plain.getvalue() == f"{'F':<20} text\n"
    assert "\033[" in coloured.getvalue()


def test_raw_shows_everything() -> None:
    """For those who need it."""
    stream = io.StringIO()
    Log(stream, raw=True).output("F", '{"_aws": {}}\n', routine=True)
    assert '{"_aws": {}}' in stream.getvalue()


def test_initialisation_is_billed_too() -> None:
    """In whole milliseconds, upwards."""
    assert Report("r", duration_ms=1.2).billed_ms == 2
    assert Report("r", duration_ms=1.2, init_ms=100).billed_ms == 102
