"""The stand-in for tests: started on a free port, driven from ordinary synchronous code.

with standin() as commet:
    client = MyClient(commet.base_url, commet.api_key)
    ...
    commet.control.pay(subscription_id)
    commet.control.advance(days=31)
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import httpx

from standin.app import running
from standin.clock import iso, parse_iso
from standin.settings import Settings

_START_SECONDS = 30


class Control:
    """The control endpoints of a running stand-in. Each call raises httpx.HTTPStatusError."""

    def __init__(self, public_url: str) -> None:
        self._http = httpx.Client(base_url=f"{public_url}/_standin", timeout=90, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._http.request(method, path, **options)
        answer.raise_for_status()
        return answer.json()

    def pay(self, subscription_id: str, *, card_number: str = "4242424242424242") -> dict[str, Any]:
        """Pay a pending subscription. A declined card is answered with 402."""
        body = {"subscription_id": subscription_id, "card_number": card_number}
        paid: dict[str, Any] = self._call("POST", "/pay", json=body)
        return paid

    def advance(
        self, *, days: float = 0, seconds: float = 0, to: datetime | None = None
    ) -> dict[str, Any]:
        """Move the test clock. Everything due is processed and delivered before this returns."""
        body = {"to": to.isoformat()} if to else {"days": days, "seconds": seconds}
        run: dict[str, Any] = self._call("POST", "/clock", json=body)
        return run

    def now(self) -> datetime:
        """The simulated time."""
        return parse_iso(self._call("GET", "/clock")["now"])

    def settle(self, *, timeout: float = 10) -> None:
        """Wait until every webhook that is due has been tried."""
        self._call("POST", "/settle", params={"timeout": timeout})

    def events(self, name: str | None = None, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Events so far, oldest first."""
        params = {"limit": limit} | ({"event": name} if name else {})
        found: list[dict[str, Any]] = self._call("GET", "/events", params=params)["data"]
        return found[::-1]

    def deliveries(self, *, limit: int = 1000, **filters: str) -> list[dict[str, Any]]:
        """Deliveries so far, oldest first; filters: status, event, endpoint, event_id."""
        params = {"limit": limit} | filters
        found: list[dict[str, Any]] = self._call("GET", "/deliveries", params=params)["data"]
        return found[::-1]

    def redeliver(self, delivery_id: str) -> dict[str, Any]:
        """Send a delivery again by hand."""
        again: dict[str, Any] = self._call("POST", f"/deliveries/{delivery_id}/redeliver")
        return again

    def requests(self, *, limit: int = 1000, **filters: str) -> list[dict[str, Any]]:
        """API requests so far, oldest first; filters: method, path."""
        params = {"limit": limit} | filters
        found: list[dict[str, Any]] = self._call("GET", "/requests", params=params)["data"]
        return found[::-1]

    def state(self) -> dict[str, Any]:
        """All records."""
        state: dict[str, Any] = self._call("GET", "/state")
        return state

    def customer(self, customer_id: str) -> dict[str, Any]:
        """One customer, by either id: subscriptions, features, invoices, last events."""
        found: dict[str, Any] = self._call("GET", f"/customers/{customer_id}")
        return found

    def fault(
        self,
        *,
        match: dict[str, str] | None = None,
        action: dict[str, Any] | None = None,
        webhooks: dict[str, Any] | None = None,
        usage: dict[str, Any] | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> str:
        """Inject a fault into requests (`action`), deliveries (`webhooks`) or tracked `usage`.

        Returns the id of the rule.
        """
        body = {
            "match": match or {},
            "action": action,
            "webhooks": webhooks,
            "usage": usage,
            "times": times,
            "skip": skip,
        }
        rule: dict[str, Any] = self._call("POST", "/faults", json=body)
        return str(rule["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Returns the fault rules that apply, with their `hits`."""
        rules: list[dict[str, Any]] = self._call("GET", "/faults")["data"]
        return rules

    def clear_faults(self, rule_id: str | None = None) -> None:
        """Delete one rule, or all. Deliveries that they held back are sent."""
        self._call("DELETE", f"/faults/{rule_id}" if rule_id else "/faults")

    def set_card(
        self, customer_id: str, *, charge_failure: str | None, last4: str | None = None
    ) -> None:
        """Set how later charges of the customer's cards end. None: they succeed.

        `last4` names the one card to change.
        """
        body = {"charge_failure": charge_failure, "last4": last4}
        self._call("POST", f"/customers/{customer_id}/card", json=body)

    def add_card(self, customer_id: str, card_number: str) -> None:
        """Save one more card, which dunning tries when the default one is declined."""
        self._call("POST", f"/customers/{customer_id}/cards", json={"card_number": card_number})

    def pay_link(
        self,
        payment_id: str,
        *,
        card_number: str = "4242424242424242",
        email: str = "buyer@example.com",
    ) -> dict[str, Any]:
        """Pay a payment link. A declined card is answered with 402. `email` is for a link
        without a customer.
        """
        body = {"card_number": card_number, "email": email}
        paid: dict[str, Any] = self._call("POST", f"/payments/{payment_id}/pay", json=body)
        return paid

    def refund(self, transaction_id: str, *, amount: int | None = None) -> dict[str, Any]:
        """Refund a transaction. None: the whole rest."""
        path, body = f"/transactions/{transaction_id}/refund", {"amount": amount}
        refund: dict[str, Any] = self._call("POST", path, json=body)
        return refund

    def dispute(
        self, transaction_id: str, *, amount: int | None = None, reason: str | None = "fraudulent"
    ) -> None:
        """Dispute a transaction. No amount: the whole rest."""
        body = {"amount": amount, "reason": reason}
        self._call("POST", f"/transactions/{transaction_id}/dispute", json=body)

    def resolve_dispute(self, transaction_id: str, *, outcome: Literal["won", "lost"]) -> None:
        """Close the dispute of a transaction."""
        body = {"outcome": outcome}
        self._call("POST", f"/transactions/{transaction_id}/resolve", json=body)

    def make_overdue(self, invoice_id: str) -> None:
        """Send invoice.overdue of an unpaid invoice now."""
        self._call("POST", f"/invoices/{invoice_id}/overdue")

    def void(self, invoice_id: str) -> None:
        """Nullify an unpaid invoice."""
        self._call("POST", f"/invoices/{invoice_id}/void")

    def announce(self, event: str, *, about: str, outcome: Literal["won", "lost"] = "won") -> None:
        """Send an event about a transaction or an invoice, given by its id. Nothing else
        changes.
        """
        body = {"event": event, "about": about, "outcome": outcome}
        self._call("POST", "/events", json=body)

    def reset(self) -> None:
        """Delete all records and rules. API key and clock do not change."""
        self._call("POST", "/reset")


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running stand-in."""

    base_url: str
    api_key: str
    public_url: str
    control: Control
    now: Callable[[], datetime]
    """The simulated time, as `control.now` answers it, and without a request."""


@contextmanager
def standin(
    settings: Settings | None = None, *, port: int = 0, **changes: Any
) -> Iterator[StandIn]:
    """Runs a stand-in in a thread of this process. Keyword arguments are fields of Settings."""
    thread = _Thread(replace(settings or Settings(), **changes), port)
    thread.start()
    try:
        started = thread.wait_until_ready()
        try:
            yield started
        finally:
            started.control.close()
    finally:
        thread.stop()


class _Thread(threading.Thread):
    """The thread with the stand-in's event loop."""

    def __init__(self, settings: Settings, port: int) -> None:
        super().__init__(name="commet-stand-in", daemon=True)
        self._settings = settings
        self._port = port
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._stand_in: StandIn | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - told to the thread that waits for us
            self._failure = failure
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with running(self._settings, port=self._port) as server:
            public_url = server.world.public_url
            self._stand_in = StandIn(
                server.base_url,
                server.world.api_key,
                public_url,
                Control(public_url),
                lambda: parse_iso(iso(server.world.now())),
            )
            self._ready.set()
            await self._stopping.wait()

    def wait_until_ready(self) -> StandIn:
        self._ready.wait(_START_SECONDS)
        if self._stand_in is None:
            raise RuntimeError("the stand-in did not start") from self._failure
        return self._stand_in

    def stop(self) -> None:
        if self._loop and self._stopping and self.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(_START_SECONDS)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that reached a webhook receiver."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


class Receiver:
    """A webhook endpoint that stores its requests and answers with the given statuses."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.statuses: list[int] = []
        """The next answers, first to last. After them, `default`."""
        self.default = 200
        self.url = ""
        self.before_answer: Callable[[], object] = lambda: None
        """Called in the thread of each request, before it is answered."""

    def events(self) -> list[str]:
        """Names of the received events, in the order they came."""
        return [str(request.json["event"]) for request in self.received]

    def answer(self, received: Received) -> int:
        """Store a request. Returns the status to answer."""
        self.received.append(received)
        self.before_answer()
        return self.statuses.pop(0) if self.statuses else self.default


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A webhook receiver on a free port, in a thread of this process."""
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(box.answer(Received(self.path, headers, body)))
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box.url = f"http://127.0.0.1:{server.server_port}/webhooks"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield box
        finally:
            server.shutdown()
            thread.join()
