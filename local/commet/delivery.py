"""Sending webhooks: signing, Commet's retry schedule, and disabling endpoints that keep failing."""

import asyncio
import hashlib
import hmac
import logging
import time
from datetime import timedelta

import aiohttp

from local.commet import wire
from local.commet.clock import iso
from local.commet.events import state_snapshot
from local.commet.faults import WebhookAction
from local.commet.ids import new_id
from local.commet.models import Attempt, Delivery, Endpoint, Event
from local.commet.settings import API_VERSION
from local.commet.store import stamp
from local.commet.world import World

log = logging.getLogger("commet.delivery")

RETRY_MINUTES = (1, 5, 15, 30, 60, 60, 60)
MAX_ATTEMPTS = len(RETRY_MINUTES) + 1
EXHAUSTED_EVENTS_UNTIL_DISABLED = 3
_RESPONSE_KEPT = 2_000


def sign(body: bytes, secret: str) -> str:
    """Commet's signature: lower-case hex HMAC-SHA256 of the raw body under the whole secret."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Courier:
    """Delivers what is due. One attempt per delivery at a time, several deliveries at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(world.settings.webhook_concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the HTTP client; needs a running loop."""
        timeout = aiohttp.ClientTimeout(total=self._world.settings.webhook_timeout)
        self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=True)

    async def stop(self) -> None:
        """Stop sending; attempts under way stay pending and are made again after a restart."""
        for task in self._in_flight.values():
            task.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        if self._session:
            await self._session.close()

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return bool(self._in_flight)

    def is_under_way(self, delivery_id: str) -> bool:
        """Whether that delivery is being attempted."""
        return delivery_id in self._in_flight

    def launch_due(self) -> list[asyncio.Task[None]]:
        """Start an attempt of everything due now; returns the started tasks."""
        due = self._world.store.deliveries.find(
            "status = 'pending' AND next_at <= ?", stamp(self._world.now()), order="next_at, seq"
        )
        return [self._launch(d.id) for d in due if d.id not in self._in_flight]

    def _launch(self, delivery_id: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._attempt_in_turn(delivery_id))
        self._in_flight[delivery_id] = task
        task.add_done_callback(lambda done: self._landed(delivery_id, done))
        return task

    def _landed(self, delivery_id: str, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(delivery_id, None)
        if not task.cancelled() and (failure := task.exception()):
            log.error("delivery.failed %s", delivery_id, exc_info=failure)
        # Only now: a scheduler woken earlier would still see the delivery under way and nap.
        self._world.on_commit()

    async def quiet(self) -> None:
        """Wait until no attempt is under way."""
        while self._in_flight:
            await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
            # Tasks that were done already let gather return at once, before their callbacks ran.
            await asyncio.sleep(0)

    async def _attempt_in_turn(self, delivery_id: str) -> None:
        async with self._slots:
            delivery = self._world.store.deliveries.get(delivery_id)
            if delivery and delivery.status == "pending":
                await self._attempt(delivery)

    async def _attempt(self, delivery: Delivery) -> None:
        world = self._world
        endpoint = world.store.endpoints.get(delivery.endpoint_id)
        event = world.store.events.get(delivery.event_id)
        if endpoint is None or event is None or not endpoint.is_active:
            self._put(delivery, "abandoned")
            return
        action = world.faults.for_delivery(event.name, endpoint.url) or WebhookAction()
        if action.drop:
            self._put(delivery, "dropped")
            return
        if action.delay_ms and not delivery.delayed:
            delivery.delayed = True
            delivery.next_at = world.now() + timedelta(milliseconds=action.delay_ms)
            world.store.deliveries.put(delivery)
            return
        await self._send_as_told(delivery, event, endpoint, action)

    async def _send_as_told(
        self, delivery: Delivery, event: Event, endpoint: Endpoint, action: WebhookAction
    ) -> None:
        body, headers = self._request(event, endpoint, action)
        delivery.request_headers, delivery.request_body = headers, body.decode()
        if action.concurrent:
            attempt, _ = await asyncio.gather(
                self._send(delivery, endpoint.url, body, headers),
                self._send(delivery, endpoint.url, body, headers),
            )
        else:
            attempt = await self._send(delivery, endpoint.url, body, headers)
        if action.duplicate:
            attempt = await self._send(delivery, endpoint.url, body, headers)
        self._conclude(delivery, attempt)

    def _request(
        self, event: Event, endpoint: Endpoint, action: WebhookAction
    ) -> tuple[bytes, dict[str, str]]:
        body = wire.dumps(self._envelope(event, endpoint))
        signature = sign(body, endpoint.secret)
        if action.corrupt == "signature":
            signature = signature[::-1]
        if action.corrupt == "body":
            body = body[:-1] + b" }"
        return body, {
            "Content-Type": "application/json",
            "User-Agent": "Commet-Webhooks/1.0",
            "X-Commet-Signature": signature,
            "X-Commet-Event": event.name,
            "X-Commet-Timestamp": iso(event.timestamp),
            "X-Commet-Event-Id": event.id,
        }

    def _envelope(self, event: Event, endpoint: Endpoint) -> dict[str, object]:
        return {
            "id": event.id,
            "event": event.name,
            "timestamp": iso(event.timestamp),
            "organizationId": self._world.organization_id,
            "mode": "sandbox",
            "apiVersion": endpoint.api_version or API_VERSION,
            "data": self._data(event),
        }

    def _data(self, event: Event) -> dict[str, object]:
        """The event's data; Commet computes the entitlement snapshot when it delivers."""
        fresh = self._world.settings.state_snapshot == "delivery"
        if event.name != "customer.state_changed" or not fresh or not event.customer_id:
            return event.data
        customer = self._world.customer(event.customer_id)
        return state_snapshot(self._world, customer, str(event.data["trigger"]))

    async def _send(
        self, delivery: Delivery, url: str, body: bytes, headers: dict[str, str]
    ) -> Attempt:
        if self._session is None:
            raise RuntimeError("the courier has not been started")
        started, at = time.monotonic(), self._world.now()
        status = error = text = None
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
                text = (await answer.content.read(_RESPONSE_KEPT)).decode(errors="replace")
        except TimeoutError:
            error = f"no answer within {self._world.settings.webhook_timeout:g} s"
        except (aiohttp.ClientError, OSError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        attempt = Attempt(
            number=len(delivery.attempts) + 1,
            at=at,
            duration_ms=round((time.monotonic() - started) * 1000),
            status=status,
            error=error,
            response=text,
        )
        delivery.attempts.append(attempt)
        return attempt

    def _conclude(self, delivery: Delivery, attempt: Attempt) -> None:
        with self._world.store.transaction():
            if attempt.error is None and attempt.status and 200 <= attempt.status < 300:
                self._put(delivery, "delivered")
                self._reset_streak(delivery.endpoint_id)
            elif len(delivery.attempts) >= MAX_ATTEMPTS:
                self._put(delivery, "exhausted")
                self._lengthen_streak(delivery.endpoint_id)
            else:
                delivery.next_at = self._world.now() + self._backoff(len(delivery.attempts))
                self._world.store.deliveries.put(delivery)

    def _backoff(self, attempts: int) -> timedelta:
        minutes = RETRY_MINUTES[attempts - 1]
        return timedelta(minutes=minutes * self._world.settings.retry_scale)

    def _put(self, delivery: Delivery, status: str) -> None:
        changed = delivery.model_copy(update={"status": status, "next_at": None})
        self._world.store.deliveries.put(changed)

    def _reset_streak(self, endpoint_id: str) -> None:
        endpoint = self._world.store.endpoints.get(endpoint_id)
        if endpoint and endpoint.exhausted_in_a_row:
            endpoint.exhausted_in_a_row = 0
            self._world.store.endpoints.put(endpoint)

    def _lengthen_streak(self, endpoint_id: str) -> None:
        endpoint = self._world.store.endpoints.get(endpoint_id)
        if endpoint is None:
            return
        endpoint.exhausted_in_a_row += 1
        if endpoint.exhausted_in_a_row >= EXHAUSTED_EVENTS_UNTIL_DISABLED:
            endpoint.is_active = False
        self._world.store.endpoints.put(endpoint)

    async def test(self, endpoint: Endpoint, event: Event) -> Delivery:
        """Send one event now, whatever the endpoint subscribes to, and do not retry it."""
        delivery = Delivery(
            id=new_id("whd"),
            event_id=event.id,
            event_name=event.name,
            endpoint_id=endpoint.id,
            status="pending",
            next_at=None,
            created_at=self._world.now(),
        )
        body, headers = self._request(event, endpoint, WebhookAction())
        delivery.request_headers, delivery.request_body = headers, body.decode()
        attempt = await self._send(delivery, endpoint.url, body, headers)
        good = attempt.error is None and attempt.status and 200 <= attempt.status < 300
        delivery.status = "delivered" if good else "exhausted"
        return self._world.store.deliveries.put(delivery)

    async def redeliver(self, delivery: Delivery) -> Delivery:
        """One more attempt by hand, of a delivery in any state."""
        endpoint = self._world.store.endpoints.get(delivery.endpoint_id)
        event = self._world.store.events.get(delivery.event_id)
        if endpoint is None or event is None:
            return delivery
        body, headers = self._request(event, endpoint, WebhookAction())
        attempt = await self._send(delivery, endpoint.url, body, headers)
        if attempt.error is None and attempt.status and 200 <= attempt.status < 300:
            delivery.status, delivery.next_at = "delivered", None
        return self._world.store.deliveries.put(delivery)
