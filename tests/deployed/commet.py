"""The stand-in for Commet, which finds function URLs at the emulator.

python -m tests.deployed.commet ADDRESS arguments of the stand-in...
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import httpx
from yarl import URL

from local.ports import Port, free_port
from standin import __main__ as standin
from tests.deployed.errors import Failed
from tests.deployed.places import LOGS, ROOT


class Commet:
    """The running stand-in. Its port and its data stay the same when its API key is changed."""

    def __init__(self, front: str, directory: Path) -> None:
        self._front = front
        self._data = directory / "commet.sqlite"
        self._port = free_port(Port())
        self._process: subprocess.Popen[bytes] | None = None
        self.api_key = ""
        self.base_url = ""
        self._http = httpx.Client(timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        self.use_key("ck_sandbox_first")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._http.close()

    def use_key(self, key: str) -> None:
        """Starts anew with this API key. Every other key is refused. Raises Failed."""
        self._stop()
        with (LOGS / "commet.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.deployed.commet", self._front),
                    *("--json", "--exit-with-parent", "--port", str(self._port)),
                    *("--api-key", key, "--data", str(self._data), "--retry-scale", "0.0167"),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        assert self._process.stdout is not None
        try:
            self.base_url = json.loads(self._process.stdout.readline())["base_url"]
        except (ValueError, KeyError):
            raise Failed(f"the stand-in does not start: see {LOGS / 'commet.log'}") from None
        self.api_key = key

    def endpoints(self) -> list[dict[str, Any]]:
        """The registered webhook endpoints."""
        answer = self._http.get(f"{self.base_url}/webhooks", headers={"x-api-key": self.api_key})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return found

    def inside(self, method: str, path: str, body: object = None) -> Any:
        """What an endpoint below /_standin answers."""
        origin = self.base_url.partition("/api/")[0]
        answer = self._http.request(method, f"{origin}/_standin{path}", json=body)
        return answer.raise_for_status().json()

    def _stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            self._process.communicate()
            self._process = None


def _send_to(front: str) -> None:
    """Has aiohttp send what is for a function URL to `front`, with the function URL's host name."""
    request = aiohttp.ClientSession._request

    async def _request(
        session: aiohttp.ClientSession, method: str, address: str | URL, **options: Any
    ) -> aiohttp.ClientResponse:
        wanted = URL(address)
        if ".lambda-url." in (wanted.host or ""):
            headers = dict(options.pop("headers", None) or {})
            options["headers"] = headers | {"Host": str(wanted.host)}
            wanted = URL(front).with_path(wanted.path)
        return await request(session, method, wanted, **options)

    aiohttp.ClientSession._request = _request  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    _send_to(sys.argv[1])
    sys.exit(standin.main(sys.argv[2:]))
