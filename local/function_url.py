"""Serves a function's own URL, because `sam local start-lambda` does not.

    python -m local.function_url

Serves WebhookFunction until Ctrl-C. docs/sam-local.md explains the use.
"""

import argparse
import contextlib
import sys
import uuid
from collections.abc import Iterable, Sequence
from wsgiref.types import StartResponse, WSGIEnvironment

import httpx
import waitress  # type: ignore[import-untyped]
from werkzeug.wrappers import Request, Response

from local.gateway.events import function_url_event
from local.gateway.responses import MalformedResponseError, from_function
from local.ports import Port, PortTakenError

_FUNCTION = "WebhookFunction"
_LAMBDA = "http://127.0.0.1:3002"
PORT = 3003
_PATIENCE_SECONDS = 60


class FunctionUrl:
    """A WSGI application that invokes a function at the `endpoint` of `start-lambda`."""

    def __init__(self, function: str, endpoint: str) -> None:
        self._function = function
        self._client = httpx.Client(base_url=endpoint, timeout=_PATIENCE_SECONDS, trust_env=False)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        return self._answer(Request(environ))(environ, start_response)

    def _answer(self, request: Request) -> Response:
        event = function_url_event(request, function=self._function, request_id=str(uuid.uuid4()))
        path = f"/2015-03-31/functions/{self._function}/invocations"
        try:
            answer = self._client.post(path, json=event)
        except httpx.HTTPError as error:
            return Response(f"{self._client.base_url} does not answer: {error!r}\n", 502)
        if answer.status_code == 200 and "errorMessage" not in answer.text[:1000]:
            with contextlib.suppress(MalformedResponseError):
                return from_function(answer.content)
        return Response("Internal Server Error", 502)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.function_url", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on ({PORT})")
    asked = parser.parse_args(arguments)
    try:
        listening = Port(asked.port).listen()
    except PortTakenError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{_FUNCTION} is served at http://127.0.0.1:{asked.port}. Ctrl-C ends it.", flush=True)
    with listening:
        waitress.serve(FunctionUrl(_FUNCTION, _LAMBDA), sockets=[listening], threads=8)
    return 0


if __name__ == "__main__":
    sys.exit(main())
