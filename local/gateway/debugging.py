"""One function under a debugger: it waits for the debugger, and has no time limit."""

import importlib.util
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from local import lambda_runtime
from local.gateway.runtime_api import LOOPBACK
from local.gateway.template import FunctionSpec

# Long enough for any breakpoint. It replaces the time limits of the function and of its start.
PATIENT_SECONDS = 86_400.0
_BOOTSTRAP = Path(lambda_runtime.__file__).with_name("debugged.py")
# After a change of code, the previous process needs a moment to release the port.
_PORT_SECONDS = 5.0


class DebuggingError(Exception):
    """There is no such function, or no debugger is installed."""


@dataclass(frozen=True)
class Debugging:
    """The function's logical id, and the port at which its process waits for a debugger."""

    function: str
    port: int

    def command(self, client: list[str]) -> list[str]:
        """Returns the arguments of Python that run `client` under the debugger."""
        self._wait_for_port()
        name = [client[1]] if client[0] == "-m" else client
        return [
            *("-m", "debugpy", "--listen", f"{LOOPBACK}:{self.port}", "--wait-for-client"),
            *(str(_BOOTSTRAP), *name),
        ]

    def _wait_for_port(self) -> None:
        end = time.monotonic() + _PORT_SECONDS
        while time.monotonic() < end:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, self.port))
                except OSError:
                    time.sleep(0.1)
                else:
                    return


def named(functions: Mapping[str, FunctionSpec], name: str) -> str:
    """Returns the logical id of the function with this id or this folder. Raises DebuggingError."""
    if importlib.util.find_spec("debugpy") is None:
        raise DebuggingError("debugpy is not installed. `make debug` installs it.")
    for logical_id, spec in functions.items():
        if name.lower() in {logical_id.lower(), spec.code.name.lower()}:
            return logical_id
    known = ", ".join(sorted(spec.code.name for spec in functions.values()))
    raise DebuggingError(f"There is no function {name}. The functions are: {known}.")
