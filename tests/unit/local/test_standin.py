"""Wiring the stand-in: the webhook endpoint, and the clock."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import billing.events
from local.standin import EVENTS, StandInClock, StandInError, register_webhook
from local.state import Kept


class Commet(ThreadingHTTPServer):
    """Just enough of Commet: webhook endpoints in a dict, and a clock."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.now: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Commet

    def _handle(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        path = self.path.partition("?")[0]
        self.server.calls.append(f"{self.command} {path}")
        endpoints, identity = self.server.endpoints, path.rpartition("/")[2]
        match self.command, path:
            case "GET", "/_standin/clock":
                self._reply({"now": self.server.now} if self.server.now else {"error": "down"})
            case "GET", "/webhooks":
                self._reply({"data": list(endpoints.values())})
            case "POST", "/webhooks":
                number = f"whe_{len(self.server.calls)}"
                endpoints[number] = body | {"id": number, "isActive": True}
                self._reply(endpoints[number] | {"secretKey": f"whsec_{number}"})
            case "DELETE", _:
                self._reply(endpoints.pop(identity))
            case "PATCH", _:
                endpoints[identity] |= body
                self._reply(endpoints[identity])

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _reply(self, document: Any) -> None:
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


HERE = "http://127.0.0.1:3000/_url/WebhookFunction/"


class TestRegisterWebhook:
    def register(self, commet: Commet, kept: Kept, url: str = HERE) -> str:
        return register_webhook(commet.url, "ck_sandbox_x", url, kept)

    def test_an_endpoint_is_made_once(self, commet: Commet, tmp_path: Path) -> None:
        """A second run finds it, and knows its secret."""
        secret = self.register(commet, Kept(tmp_path))
        assert secret == self.register(commet, Kept(tmp_path))
        (endpoint,) = commet.endpoints.values()
        assert (endpoint["url"], tuple(endpoint["events"])) == (HERE, EVENTS)

    def test_another_port_replaces_it(self, commet: Commet, tmp_path: Path) -> None:
        """Commet would go on calling where nobody listens."""
        first = self.register(commet, Kept(tmp_path))
        moved = HERE.replace("3000", "4000")
        assert self.register(commet, Kept(tmp_path), moved) != first
        assert [endpoint["url"] for endpoint in commet.endpoints.values()] == [moved]

    def test_an_unknown_secret_replaces_it(self, commet: Commet, tmp_path: Path) -> None:
        """It cannot be asked for again."""
        self.register(commet, Kept(tmp_path))
        (tmp_path / "secrets.json").unlink()
        self.register(commet, Kept(tmp_path))
        assert len(commet.endpoints) == 1

    def test_somebody_elses_endpoint_is_left_alone(self, commet: Commet, tmp_path: Path) -> None:
        """The stand-in may serve others too."""
        commet.endpoints["whe_x"] = {"id": "whe_x", "url": "http://other", "isActive": True}
        self.register(commet, Kept(tmp_path))
        assert "whe_x" in commet.endpoints

    def test_a_disabled_endpoint_is_enabled(self, commet: Commet, tmp_path: Path) -> None:
        """Commet disables one that was not there for long enough."""
        secret = self.register(commet, Kept(tmp_path))
        (endpoint,) = commet.endpoints.values()
        endpoint |= {"isActive": False, "events": ["subscription.activated"]}
        assert self.register(commet, Kept(tmp_path)) == secret
        assert endpoint["isActive"] is True
        assert tuple(endpoint["events"]) == EVENTS

    def test_no_answer_is_said_so(self, tmp_path: Path) -> None:
        """Not a traceback of the HTTP client."""
        with pytest.raises(StandInError, match="Registering the webhook failed"):
            register_webhook("http://127.0.0.1:1", "ck_sandbox_x", HERE, Kept(tmp_path))

    def test_it_asks_for_exactly_the_events_billing_reads(self) -> None:
        """No more, and none is missing."""
        assert set(EVENTS) == set(billing.events.HANDLED)
        assert len(EVENTS) == len(set(EVENTS))


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
