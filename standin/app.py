"""The HTTP server: the API's request pipeline, hosted pages, control endpoints, lifecycle."""

import asyncio
import inspect
import logging
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from standin import control, payment_control, wire
from standin.api import ROUTES, Answer, Call, Handler
from standin.delivery import Courier
from standin.errors import (
    ERROR_TYPES,
    ApiError,
    code_for_status,
    error_body,
    invalid,
    phrase,
    status_of,
)
from standin.faults import RequestAction
from standin.guard import guard
from standin.idempotency import MAX_KEY_LENGTH, Claim, IdempotencyStore
from standin.ids import new_id
from standin.journal import Entry, Journal
from standin.pages import checkout as checkout_page
from standin.pages import inspection as inspection_page
from standin.pages import invoice as invoice_page
from standin.pages import payment_link as payment_link_page
from standin.pages import payment_method as payment_method_page
from standin.pages import portal as portal_page
from standin.pages import recovery as recovery_page
from standin.ratelimit import RateLimit
from standin.scheduler import Scheduler
from standin.settings import API_PREFIX, API_VERSION, Settings
from standin.world import World

log = logging.getLogger("commet.api")

MAX_BODY = 4 * 1024 * 1024
_WRITES = frozenset({"POST", "PUT", "PATCH"})


@dataclass(slots=True)
class Reply:
    """An answer that is ready to be sent."""

    status: int
    body: bytes
    headers: dict[str, str]
    replayed: bool = False


class Api:
    """The steps that every request below /api/v1 goes through."""

    def __init__(self, world: World, courier: Courier, scheduler: Scheduler) -> None:
        self.world = world
        self._courier = courier
        self._scheduler = scheduler
        self._idempotency = IdempotencyStore(world)
        self._rate_limit = RateLimit(world.settings.rate_limit)
        self.journal = Journal()

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer one request, or change or drop the answer according to a fault rule."""
        started = time.monotonic()
        path = request.path.removeprefix(API_PREFIX)
        action = self.world.faults.for_request(request.method, path)
        raw = await _read(request)
        entry = self._entry(request, path, raw)
        if action and action.reset == "before":
            entry.fault = _told(action)
            await _wait(action)
            return _reset(request)
        reply = await self._reply(request, handler, raw, action)
        entry.status, entry.response = reply.status, reply.body
        entry.replayed = reply.replayed
        entry.duration_ms = round((time.monotonic() - started) * 1000)
        entry.fault = _told(action)
        reply.headers |= {"x-request-id": entry.id, "Commet-Version": API_VERSION}
        return await _send(request, reply, action)

    def _entry(self, request: web.Request, path: str, raw: bytes) -> Entry:
        entry = Entry(
            id=new_id("req"),
            at=self.world.now(),
            method=request.method,
            path=path,
            query=request.query,
            headers=request.headers,
            body=raw,
        )
        self.journal.add(entry)
        return entry

    async def _reply(
        self, request: web.Request, handler: Handler, raw: bytes, action: RequestAction | None
    ) -> Reply:
        if action and action.answers and not action.after:
            await _wait(action)
            return _injected(action)
        try:
            reply = await self._handle(request, handler, raw, action)
        except ApiError as error:
            reply = Reply(error.status, wire.dumps(error.body()), dict(error.headers))
        except Exception:
            log.exception("api.failed %s %s", request.method, request.path)
            failure = ApiError("internal_error", "An unexpected error occurred")
            reply = Reply(failure.status, wire.dumps(failure.body()), {})
        reply.headers |= self._rate_limit.headers()
        return _injected(action) if action and action.answers else reply

    async def _handle(
        self, request: web.Request, handler: Handler, raw: bytes, action: RequestAction | None
    ) -> Reply:
        self._authenticate(request)
        self._rate_limit.spend()
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method not in _WRITES:
            await _wait(action)
            return await self._execute(request, handler, raw, None)
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise invalid("Idempotency-Key", f"must have 1 to {MAX_KEY_LENGTH} characters")
        claim = self._idempotency.begin(key, request.method, request.path_qs, raw)
        if not isinstance(claim, Claim):
            return Reply(claim.status, claim.body.encode(), {}, replayed=True)
        try:
            await _wait(action)
            return await self._execute(request, handler, raw, claim)
        finally:
            self._idempotency.end(claim)

    def _authenticate(self, request: web.Request) -> None:
        if request.headers.get("x-api-key") != self.world.api_key:
            raise ApiError("unauthorized", "Invalid or missing API key")

    async def _execute(
        self, request: web.Request, handler: Handler, raw: bytes, claim: Claim | None
    ) -> Reply:
        call = Call(
            world=self.world,
            courier=self._courier,
            scheduler=self._scheduler,
            path=request.match_info,
            query=request.query,
            body=_parse(raw) if request.method in _WRITES else None,
            headers=request.headers,
            writes=request.method != "GET",
        )
        if inspect.iscoroutinefunction(handler):
            return self._keep(claim, await handler(call))
        return self._execute_at_once(handler, call, claim)

    def _execute_at_once(self, handler: Handler, call: Call, claim: Claim | None) -> Reply:
        """Runs one transaction with the effect, the events and the stored answer. A refusal
        stores only its answer.
        """
        if not call.writes:
            with self.world.store.shared_reads():
                return self._keep(None, cast("Answer", handler(call)))
        try:
            with self.world.transaction():
                return self._keep(claim, cast("Answer", handler(call)))
        except ApiError as error:
            if claim and error.code != "validation_error":
                self._idempotency.keep(claim, error.status, wire.dumps(error.body()))
            raise

    def _keep(self, claim: Claim | None, answer: Answer) -> Reply:
        body = wire.dumps(answer.body)
        if claim:
            self._idempotency.keep(claim, answer.status, body)
        return Reply(answer.status, body, {})


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return b""


def _parse(raw: bytes) -> Any:
    if not raw.strip():
        return {}
    try:
        body = wire.loads(raw)
    except (ValueError, RecursionError):
        raise ApiError("invalid_json", "The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError("invalid_json", "The request body must be a JSON object")
    return body


def _told(action: RequestAction | None) -> dict[str, Any] | None:
    return action.model_dump(exclude_defaults=True) if action else None


async def _wait(action: RequestAction | None) -> None:
    if action and action.latency_ms:
        await asyncio.sleep(action.latency_ms / 1000)


def _injected(action: RequestAction) -> Reply:
    """Returns the answer that a fault rule asks for."""
    status = action.status or status_of(action.code or "internal_error")
    code, kind = code_for_status(status)
    if action.code:
        code, kind = action.code, ERROR_TYPES.get(action.code, kind)
    message = action.message or phrase(status)
    body = {} if status < 400 else error_body(code, kind, message)
    headers = {} if action.retry_after is None else {"Retry-After": str(action.retry_after)}
    return Reply(status, wire.dumps(body), headers)


async def _send(
    request: web.Request, reply: Reply, action: RequestAction | None
) -> web.StreamResponse:
    if action and action.reset == "after":
        return _reset(request)
    if action and action.invalid_json:
        reply.body = b"<html><body>Bad gateway</body>"
    headers = reply.headers | {"Content-Type": "application/json"}
    if action and action.truncate:
        return await _send_half(request, reply, headers)
    return web.Response(status=reply.status, body=reply.body, headers=headers)


async def _send_half(
    request: web.Request, reply: Reply, headers: dict[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    await response.write(reply.body[: len(reply.body) // 2])
    if request.transport:
        request.transport.close()
    return response


def _reset(request: web.Request) -> web.StreamResponse:
    """Break the connection with a TCP reset. The returned response is never sent."""
    if request.transport:
        sock = request.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response(status=500)


def _unknown(_: Call) -> Answer:
    raise ApiError("endpoint_not_available", "There is no such endpoint here")


def build_app(world: World, courier: Courier, scheduler: Scheduler) -> web.Application:
    """The aiohttp application."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[guard(world)])
    api = Api(world, courier, scheduler)
    for method, path, handler in ROUTES:
        app.router.add_route(method, API_PREFIX + path, _bound(api, handler))
    app.router.add_route("*", API_PREFIX + "/{tail:.*}", _bound(api, _unknown))
    app.router.add_get("/healthz", _healthz)
    inside = control.Control(world, courier, scheduler, api.journal)
    inspection_page.add_routes(app, inside)
    control.add_routes(app, inside, payment_control.routes(world))
    checkout_page.add_routes(app, world)
    portal_page.add_routes(app, world)
    recovery_page.add_routes(app, world)
    payment_method_page.add_routes(app, world)
    payment_link_page.add_routes(app, world)
    invoice_page.add_routes(app, world)
    return app


def _bound(api: Api, handler: Handler) -> Any:
    async def serve(request: web.Request) -> web.StreamResponse:
        return await api.serve(request, handler)

    return serve


async def _healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@dataclass(frozen=True, slots=True)
class Running:
    """A stand-in that listens."""

    world: World
    scheduler: Scheduler
    courier: Courier
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """Where the API begins."""
        return f"{_address(self.host, self.port)}{API_PREFIX}"


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def running(
    settings: Settings, *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Running]:
    """Runs a stand-in that listens on a port (0: any free one), until the context ends.

    Raises OSError if the port is taken, CatalogueError for an unusable catalogue, SoldGoneError for
    a catalogue without plans that were sold, sqlite3.Error for a data file that is damaged or in
    use.
    """
    world = World(settings)
    courier = Courier(world)
    scheduler = Scheduler(world, courier)
    runner = web.AppRunner(
        build_app(world, courier, scheduler), access_log=None, shutdown_timeout=1
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        world.public_url = world.public_url or _address(host, bound)
        await courier.start()
        scheduler.start()
        yield Running(world, scheduler, courier, host, bound)
    finally:
        await scheduler.stop()
        await courier.stop()
        await runner.cleanup()
        world.keep_clock()
        world.store.close()
