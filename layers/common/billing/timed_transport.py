"""A transport for httpx with one deadline for all its socket operations.

httpx limits each connect, write and read separately. If an answer arrives in small pieces, each
read is short but the whole answer may take for ever. Here each operation gets only the time that is
left.
"""

from collections.abc import Iterable
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from billing.deadline import Deadline

current: ContextVar[Deadline] = ContextVar("deadline")


def transport() -> httpx.HTTPTransport:
    """Returns a transport whose socket operations time out at the deadline `current`."""
    made = httpx.HTTPTransport(trust_env=False)
    # httpx takes no network backend as an argument. Without this line, we would need a copy of
    # httpx's transport.
    made._pool._network_backend = Backend()  # noqa: SLF001
    return made


def _left(limit: float | None) -> float:
    left = current.get().remaining()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left if limit is None else min(limit, left)


class Backend(httpcore.SyncBackend):
    """Opens connections whose operations time out at the deadline `current`."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(
            super().connect_tcp(host, port, _left(timeout), local_address, socket_options)
        )


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
