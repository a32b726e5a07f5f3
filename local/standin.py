"""Runs the Commet stand-in as a process of the local stack, reads its clock and moves it."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from local.gateway.logs import Log

_ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 60.0
_END_SECONDS = 10.0
# A month has many renewals and webhooks, and the stand-in waits until all are delivered.
_MOVE_SECONDS = 120.0


class StandInError(Exception):
    """The stand-in did not start. `start_anew`: it would start if its data were deleted."""

    def __init__(self, message: str, *, start_anew: bool = False) -> None:
        super().__init__(message)
        self.start_anew = start_anew


class StandIn:
    """The stand-in's process. `base_url` is its API, `public_url` its pages and inspection."""

    def __init__(self, port: int, data: Path, log: Log, options: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "standin", "--json", "--exit-with-parent"),
                *("--port", str(port), "--data", str(data)),
                # Commet's minutes between two attempts at a webhook are seconds here.
                *("--retry-scale", "0.0167"),
                *options,
            ],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            umask=0o077,  # the stand-in's data contains the API key and the webhook secret
            # Ctrl-C must not end the stand-in, because the stack ends it last.
            process_group=0,
        )
        try:
            facts = self._facts()
        except BaseException:
            self.close()
            raise
        self.base_url = str(facts["base_url"])
        self.api_key = str(facts["api_key"])
        self.public_url = str(facts["public_url"])
        threading.Thread(target=self._relay, args=(log,), name="commet", daemon=True).start()

    def ended(self) -> int | None:
        """The process's exit code; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """Ends the process and waits for its end."""
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _facts(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        patience = threading.Timer(_START_SECONDS, self._process.kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            raise StandInError("The Commet stand-in did not start; see above.") from None
        if "error" in facts:
            raise StandInError(facts["error"], start_anew=facts["start_anew"])
        return facts

    def _relay(self, log: Log) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(ValueError):  # `close` has closed the output meanwhile
            for line in self._process.stdout:
                log.output("Commet", line)


class StandInClock:
    """The stand-in's time, for the functions' `/clock`.

    It is read from the stand-in's inspection endpoint. Commet's API has it too, but there the
    request would count as a call, and injected faults would apply to it. While the stand-in does
    not answer, time continues from its last answer.
    """

    def __init__(self, public_url: str) -> None:
        self._http = httpx.Client(base_url=public_url, timeout=1, trust_env=False)
        self._ahead = timedelta()

    def __call__(self) -> str:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            shown = self._http.get("/_standin/clock").raise_for_status().json()["now"]
            self._ahead = datetime.fromisoformat(shown) - datetime.now(UTC)
            return str(shown)
        return (datetime.now(UTC) + self._ahead).isoformat()

    def move(self, later: Callable[[datetime], datetime]) -> None:
        """Moves the clock to the time that `later` returns for the present time. Everything due is
        processed.

        Raises StandInError.
        """
        try:
            now = self._http.get("/_standin/clock").raise_for_status().json()["now"]
            to = later(datetime.fromisoformat(now)).isoformat()
            moved = self._http.post("/_standin/clock", json={"to": to}, timeout=_MOVE_SECONDS)
            moved.raise_for_status()
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise StandInError(f"The stand-in's clock was not moved: {error}") from error

    def close(self) -> None:
        self._http.close()
