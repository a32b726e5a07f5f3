"""Chooses the ports to listen on."""

import socket
from dataclasses import dataclass

HOST = "127.0.0.1"
_TRIES = 50


class PortTakenError(Exception):
    """The requested port cannot be used."""


@dataclass(frozen=True)
class Port:
    """A requested port. Zero is any free port.

    If the port was not chosen explicitly, one of the next 49 ports may be used instead.
    """

    number: int = 0
    explicit: bool = True

    def listen(self) -> socket.socket:
        """Returns a socket that listens on the port. Raises PortTakenError."""
        for number in range(self.number, self.number + (1 if self.explicit else _TRIES)):
            try:
                return socket.create_server((HOST, number), backlog=1024)
            except OSError as error:
                reason = error.strerror
        raise PortTakenError(f"Port {self.number} cannot be used: {reason}.")


def free_port(wish: Port) -> int:
    """Returns a port for a program that opens its socket itself. Raises PortTakenError."""
    with wish.listen() as found:
        number: int = found.getsockname()[1]
        return number
