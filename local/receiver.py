"""An endpoint on this machine that outgoing events are posted to, as a product would have one.

    with Receiver() as receiver:
        receiver.secret = ...  # what POST /events/endpoints answered for receiver.url
        receiver.events()

The receiver checks signatures after Standard Webhooks with nothing but the standard library, so its
code is an example for a product without a client.
"""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_TOLERANCE = 300  # how many seconds a request's time may differ from ours
_LARGEST = 1024 * 1024


def is_signed(body: bytes, headers: Mapping[str, str], secret: str, now: float) -> bool:
    """Returns whether the request was signed with the secret (`whsec_...`), just now.

    `now` is in seconds. The names in `headers` are in lower case.
    """
    message, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message or not moment.isdecimal() or abs(now - int(moment)) > _TOLERANCE:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message}.{moment}.".encode() + body
    right = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    sent = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(each.encode(), right.encode()) for each in sent)


class Receiver:
    """The endpoint. An event with a wrong signature is answered with 400 and not stored."""

    def __init__(self) -> None:
        self.secret = ""
        self._events: dict[str, dict[str, Any]] = {}  # by id, so that a repeated one counts once
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="receiver", daemon=True
        )

    @property
    def url(self) -> str:
        """The address that events are posted to."""
        return f"http://127.0.0.1:{self._server.server_port}/hooks/billing"

    def events(self) -> list[dict[str, Any]]:
        """Returns the events so far, each once, in the order in which they arrived."""
        return list(self._events.values())

    def take(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Stores an event with a correct signature. Returns the status to answer."""
        if not self.secret or not is_signed(body, headers, self.secret, time.time()):
            return 400
        event = json.loads(body)
        self._events.setdefault(event["id"], event)
        return 204

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length > _LARGEST:
                self.close_connection = True
                status = 413
            else:
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.take(body, headers)
            self.send_response_only(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Logs nothing."""

    return Handler
