"""The stand-in's clock, as the functions are told it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from local.standin import StandInClock


class Commet(ThreadingHTTPServer):
    """Just enough of the stand-in: a clock."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.now: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Commet

    def do_GET(self) -> None:
        document = {"now": self.server.now} if self.server.now else {"error": "down"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def commet() -> Iterator[Commet]:
    with Commet() as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class TestClock:
    def test_it_is_the_stand_ins(self, commet: Commet) -> None:
        """Wherever that stands."""
        commet.now = "2031-02-03T04:05:06.000Z"
        assert StandInClock(commet.url)() == commet.now

    def test_time_flows_on_while_nobody_answers(self, commet: Commet) -> None:
        """Simulated time does not jump back to the wall's."""
        clock = StandInClock(commet.url)
        ahead = datetime.now(UTC) + timedelta(days=40)
        commet.now = ahead.isoformat()
        clock()
        commet.now = None
        assert ahead <= datetime.fromisoformat(clock()) < ahead + timedelta(minutes=1)
