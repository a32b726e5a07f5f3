"""The gateway's HTTP server, which answers requests with functions.

    with Gateway(template, listener=..., secrets={...}) as gateway:
        gateway.url, gateway.function_url("WebhookFunction"), gateway.invoke("MigrateFunction", {})

The HTTP API of the template is at `/`, function URLs are at `/_url/<LogicalId>/`, the mails that
functions have sent at `/_mail`, outgoing events at `/_events`, and the form that skips time at
`/_time`.
"""

import contextlib
import secrets as random
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from waitress.server import create_server  # type: ignore[import-untyped]
from waitress.wasyncore import close_all  # type: ignore[import-untyped]
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Request, Response

from local.event_bus import EventBus
from local.events_page import EventsPage
from local.gateway.debugging import Debugging
from local.gateway.events import Event, api_request_id, function_url_event, http_api_event
from local.gateway.functions import (
    Functions,
    InvocationResult,
    RequestTooLargeError,
    TooManyRequestsError,
)
from local.gateway.logs import Access, Log
from local.gateway.responses import (
    MalformedResponseError,
    apply_cors,
    from_function,
    internal_server_error,
    is_preflight,
    not_found,
    preflight,
    problem,
    service_unavailable,
    too_large,
)
from local.gateway.routing import Router
from local.gateway.runtime_api import LOOPBACK, MAX_PAYLOAD_BYTES
from local.gateway.schedules import Scheduler
from local.gateway.sidecar import Clock, Sidecar
from local.gateway.skipping import Skip, TimeBar
from local.gateway.template import Cors, FunctionSpec, FunctionUrl, HttpApi, Template
from local.gateway.workers import INIT_SECONDS, Launcher, Sidecars
from local.mailbox import Mailbox

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_REQUEST_BYTES = 10 * 1024 * 1024
_INTEGRATION_SECONDS = 30
# These threads only wait for workers, so there may be many more threads than cores.
_THREADS = 64


@dataclass(slots=True)
class _Asked:
    """A request that is being answered, with its id and, once known, the function that answers."""

    request: Request
    id: str
    function: str | None = None
    init_ms: float | None = None


class _FrontDoor:
    """A WSGI application that answers with a function. Its two subclasses choose the function."""

    def __init__(self, functions: Functions, cors: Cors | None, log: Log) -> None:
        self._functions = functions
        self._cors = cors
        self._log = log
        self._patient = ThreadPoolExecutor(thread_name_prefix="integration")

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request = Request(environ)
        if self._cors and is_preflight(request):
            response = preflight(request, self._cors)
        else:
            response = self._log_and_answer(request)
            if self._cors:
                apply_cors(request, response, self._cors)
        return response(environ, start_response)

    def _log_and_answer(self, request: Request) -> Response:
        started = time.perf_counter()
        asked = _Asked(request, self._new_id())
        response = self._ask(asked)
        response.headers[self._id_header] = asked.id
        path = f"{request.script_root}{request.path}"
        self._log.access(
            Access(
                request.method,
                path,
                response.status_code,
                (time.perf_counter() - started) * 1000,
                asked.id,
                function=asked.function,
                init_ms=asked.init_ms,
            )
        )
        return response

    _id_header: str

    def _new_id(self) -> str:
        raise NotImplementedError

    def _ask(self, asked: "_Asked") -> Response:
        raise NotImplementedError

    def _invoke(self, asked: "_Asked", function: str, event: Event) -> InvocationResult:
        """Invokes the function. Raises FutureTimeoutError if API Gateway would stop waiting."""
        asked.function = function
        trace = event["headers"].get("x-amzn-trace-id")
        invoke = partial(self._functions.invoke, function, event, trace=trace, asked_by=asked.id)
        limit = self._functions.spec(function).timeout_seconds
        if limit < _INTEGRATION_SECONDS or self._functions.is_debugged(function):
            result = invoke()
        else:
            # Only the caller stops waiting. The function continues, as in AWS.
            result = self._patient.submit(invoke).result(_INTEGRATION_SECONDS)
        asked.init_ms = result.init_ms
        return result

    def _render(self, function: str, result: InvocationResult) -> Response | None:
        """Returns the response; None if the function failed or its answer is malformed."""
        if result.failed:
            return None
        try:
            return from_function(result.payload)
        except MalformedResponseError as error:
            self._log.note(function, f"Malformed response: {error}.")
            return None


class _HttpApiDoor(_FrontDoor):
    def __init__(self, api: HttpApi, functions: Functions, log: Log) -> None:
        super().__init__(functions, api.cors, log)
        self._router = Router(api.routes)

    _id_header = "apigw-requestid"

    def _new_id(self) -> str:
        return api_request_id()

    def _ask(self, asked: "_Asked") -> Response:
        request = asked.request
        if (request.content_length or 0) > MAX_REQUEST_BYTES:
            return too_large()
        match = self._router.match(request.method, request.path)
        if match is None:
            return not_found()
        function = match.route.function
        event = http_api_event(
            request,
            route_key=match.route.key,
            path_parameters=match.path_parameters,
            request_id=asked.id,
        )
        try:
            result = self._invoke(asked, function, event)
        except RequestTooLargeError:
            return too_large()
        except (TooManyRequestsError, FutureTimeoutError):
            return service_unavailable()
        return self._render(function, result) or internal_server_error()


class _FunctionUrlDoor(_FrontDoor):
    def __init__(self, url: FunctionUrl, functions: Functions, log: Log) -> None:
        super().__init__(functions, url.cors, log)
        self._function = url.function

    _id_header = "x-amzn-RequestId"

    def _new_id(self) -> str:
        return str(uuid4())

    def _ask(self, asked: "_Asked") -> Response:
        request = asked.request
        if (request.content_length or 0) > MAX_PAYLOAD_BYTES:
            return too_large()
        event = function_url_event(request, function=self._function, request_id=asked.id)
        try:
            result = self._invoke(asked, self._function, event)
        except RequestTooLargeError:
            return too_large()
        except TooManyRequestsError:
            return problem(429, "Rate Exceeded.")
        except FutureTimeoutError:
            return problem(504, "Gateway Timeout")
        # If an HTTP API would answer 500, a function URL answers 502, in plain text.
        return self._render(self._function, result) or Response("Internal Server Error", 502)


def listen(port: int = 0) -> socket.socket:
    """Returns a listening socket on loopback. Raises OSError if the port is taken."""
    return socket.create_server((LOOPBACK, port), backlog=1024)


class Gateway:
    """Serves a template until it is closed.

    `secrets` are SecretString values by id, which may change at any time. `clock` answers `/clock`,
    and `skip` moves it.
    `python` is the functions' interpreter. `schedule_minute_seconds` says how many seconds a minute
    of the schedules takes; with None no schedule fires. The function of `debugging` waits for a
    debugger.
    """

    def __init__(
        self,
        template: Template,
        *,
        listener: socket.socket | None = None,
        secrets: MutableMapping[str, str] | None = None,
        clock: Clock | None = None,
        skip: Skip | None = None,
        log: Log | None = None,
        python: str | None = None,
        own_client: bool | None = None,
        max_workers: int = 10,
        queue_seconds: float = _INTEGRATION_SECONDS,
        init_seconds: float = INIT_SECONDS,
        schedule_minute_seconds: float | None = None,
        debugging: Debugging | None = None,
        database_url: str | None = None,
    ) -> None:
        self.log = log or Log()
        self._listener = listener or listen()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._closing = contextlib.ExitStack()
        try:
            token = random.token_urlsafe(32)
            self.mailbox = Mailbox()
            bus = EventBus()
            self._sidecar = Sidecar(secrets or {}, token, clock, self.mailbox, bus)
            self._closing.callback(self._sidecar.close)
            home = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="functions-"))
            launcher = Launcher(
                Sidecars(
                    secrets_port=self._sidecar.port,
                    session_token=token,
                    home=Path(home),
                    clock_url=f"{self._sidecar.url}/clock" if clock else None,
                ),
                self.log,
                python=python,
                own_client=own_client,
                init_seconds=init_seconds,
                debugging=debugging,
            )
            self._debugging = debugging
            self._closing.callback(launcher.close)
            self._functions = Functions(
                {name: self._with_urls(spec) for name, spec in template.functions.items()},
                launcher,
                max_workers=max_workers,
                queue_seconds=queue_seconds,
            )
            self._closing.callback(self._functions.close)
            self._sidecar.functions = self._functions
            self._scheduler = Scheduler(
                template,
                self._functions,
                seconds_per_minute=schedule_minute_seconds or 0,
                clock=clock,
            )
            self._closing.callback(self._scheduler.stop)
            self._schedules_fire = schedule_minute_seconds is not None
            own: dict[str, WSGIApplication] = {"/_mail": self.mailbox.pages}
            if skip:
                own["/_time"] = TimeBar(skip)
            if database_url:
                own["/_events"] = EventsPage(database_url, bus)
            self._server = self._serve(_application(template, self._functions, self.log, own))
            self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)
        except BaseException:
            self._closing.close()
            raise

    @property
    def lambda_url(self) -> str:
        """The address of Lambda's Invoke API, for `--endpoint-url`."""
        return self._sidecar.url

    def function_url(self, function: str) -> str:
        """The address of a function's own URL."""
        return f"{self.url}/_url/{function}/"

    def invoke(self, function: str, event: Any) -> InvocationResult:
        """Invokes a function directly, like Lambda's Invoke."""
        return self._functions.invoke(function, event)

    def start(self) -> None:
        """Begins to accept requests and to fire schedules. Earlier requests wait until then."""
        self._thread.start()
        if self._debugging:
            self._functions.warm(self._debugging.function)
        if self._schedules_fire:
            self._scheduler.start()

    def close(self) -> None:
        """Stops accepting requests and ends all workers. Nothing is left running."""
        if self._thread.is_alive():
            # Only the thread that waits on the sockets may close them, so the trigger wakes that
            # thread. If something else woke it first, it has already closed the trigger (OSError).
            with suppress(OSError):
                self._server.trigger.pull_trigger(
                    lambda: close_all(self._server._map)  # noqa: SLF001
                )
            self._thread.join()
        else:
            self._server.close()
        self._closing.close()
        self._server.task_dispatcher.shutdown()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _with_urls(self, spec: FunctionSpec) -> FunctionSpec:
        urls = {name: self.function_url(owner) for name, owner in spec.url_variables.items()}
        return replace(spec, environment={**spec.environment, **urls})

    def _serve(self, application: "WSGIApplication") -> Any:
        return create_server(
            application,
            sockets=[self._listener],
            threads=_THREADS,
            connection_limit=1000,
            # Larger than our own limit, so that a body that is too large gets API Gateway's answer.
            max_request_body_size=8 * MAX_REQUEST_BYTES,
            asyncore_use_poll=True,
            ident=None,
            clear_untrusted_proxy_headers=False,
        )


def _application(
    template: Template, functions: Functions, log: Log, own: "Mapping[str, WSGIApplication]"
) -> "WSGIApplication":
    """Returns the HTTP API, the functions' URLs, and the gateway's own pages."""
    root = _HttpApiDoor(template.api, functions, log) if template.api else not_found()
    urls = {f"/_url/{url.function}": _FunctionUrlDoor(url, functions, log) for url in template.urls}
    return DispatcherMiddleware(root, {**urls, **own})
