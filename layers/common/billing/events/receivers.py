"""Posts to endpoints. Endpoints' URLs come from callers, so only public addresses are called.

A host is resolved once for each connection. All its addresses have to be public, and the connection
is made to an address that was checked. So a later change of the name's addresses has no effect. TLS
checks the certificate against the name. Redirects are not followed, and only the status of the
answer is used.
"""

import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import Any

import httpcore

from billing import timed_transport
from billing.deadline import Deadline
from billing.events import addresses

CALL_SECONDS = 10.0  # the limit of one call, from the resolver to the answer
_REST_SECONDS = 1.0  # how long a call may read the body, so that the connection can be reused
_REST_BYTES = 16 * 1024
_AGENT = b"usage-billing"

Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a call.

    `status`: the HTTP status; None if no answer came. `reason`: a code for why the event was not
    taken; None if it was taken.
    """

    status: int | None
    reason: str | None
    milliseconds: int


class _Refused(Exception):
    """The call was not made, for a reason of our own. The message is its code."""


def resolve(host: str, port: int) -> list[str]:
    """The host's IP addresses, in the order of preference. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Receivers:
    """Makes the calls of one run. Several threads may call it at once."""

    def __init__(
        self,
        *,
        allow_loopback: bool,
        resolve: Resolve = resolve,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        """`allow_loopback`: this machine may be called (the local stack).

        `trusted`: the certificate authorities to trust, if not those of the system.
        """
        self._pool = httpcore.ConnectionPool(
            ssl_context=trusted or ssl.create_default_context(),
            max_connections=None,
            max_keepalive_connections=20,
            keepalive_expiry=30.0,
            network_backend=_Backend(resolve, allow_loopback=allow_loopback),
        )

    def post(self, url: str, headers: dict[str, str], body: bytes, deadline: Deadline) -> Answer:
        """Posts `body`. Returns the outcome."""
        began = time.monotonic()
        status, reason = self._post(url, headers, body, deadline.within(CALL_SECONDS))
        return Answer(status, reason, round((time.monotonic() - began) * 1000))

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def _post(
        self, url: str, headers: dict[str, str], body: bytes, deadline: Deadline
    ) -> tuple[int | None, str | None]:
        """Returns the status of the answer, and why the event was not taken."""
        timed_transport.current.set(deadline)
        try:
            sent = [(name.encode(), value.encode()) for name, value in headers.items()]
            sent.append((b"User-Agent", _AGENT))
            with self._pool.stream("POST", url, headers=sent, content=body) as response:
                timed_transport.current.set(deadline.within(_REST_SECONDS))
                _read_a_little(response)
                return response.status, _reason(response.status)
        except Exception as error:  # noqa: BLE001 - _why raises what is none of a call
            return None, _why(error)


class _Backend(timed_transport.Backend):
    """Connects to checked addresses only."""

    def __init__(self, resolve: Resolve, *, allow_loopback: bool) -> None:
        super().__init__()
        self._resolve = resolve
        self._allow_loopback = allow_loopback

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = _Refused("dns")
        for address in self._checked(host, port):
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _checked(self, host: str, port: int) -> list[str]:
        """Returns the host's addresses. Raises _Refused if one of them may not be called."""
        found = _in_time(self._resolve, host, port)
        if not found:
            raise _Refused("dns")
        if not all(self._may_be_called(each) for each in found):
            raise _Refused("not_public")
        return found

    def _may_be_called(self, address: str) -> bool:
        if addresses.is_public(address):
            return True
        return self._allow_loopback and addresses.is_loopback(address)


def _in_time(resolve: Resolve, host: str, port: int) -> list[str]:
    """Returns the result of `resolve`. It runs in a thread, because a resolver has no time limit.

    Raises _Refused if `resolve` fails or takes longer than the deadline.
    """
    answers: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host, port))
        except (OSError, UnicodeError):
            answers.put(None)

    Thread(target=ask, daemon=True, name="resolver").start()
    try:
        found = answers.get(timeout=timed_transport.current.get().remaining())
    except queue.Empty:
        raise _Refused("timeout") from None
    if found is None:
        raise _Refused("dns")
    return found


def _reason(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "redirect" if 300 <= status < 400 else "status"


def _read_a_little(response: httpcore.Response) -> None:
    """Reads a short body to its end, so that the connection can be used again."""
    read = 0
    try:
        for chunk in response.iter_stream():
            read += len(chunk)
            if read > _REST_BYTES:
                return
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        return


def _why(error: Exception) -> str:
    """Returns a code for why no answer came. Raises `error` if it is no error of a call."""
    match error:
        case _Refused():
            return str(error)
        case httpcore.TimeoutException():
            return "timeout"
        case httpcore.ConnectError() if isinstance(error.__context__, ssl.SSLError):
            return "tls"
        case httpcore.NetworkError():
            return "connection"
        case httpcore.ProtocolError():
            return "not_http"
        case httpcore.UnsupportedProtocol() | ValueError():  # a URL of another release
            return "url"
        case _:
            raise error
