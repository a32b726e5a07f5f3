"""Sending webhooks: signing, Commet's retry schedule, and disabling endpoints that keep failing."""

import asyncio
import hashlib
import hmac
import logging
import time
from datetime import datetime, timedelta
from typing import Literal

import aiohttp

from standin import webhooks, wire
from standin.clock import iso
from standin.events import state_snapshot
from standin.faults import WebhookAction
from standin.ids import new_id
from standin.models import Attempt, Delivery, Endpoint, Event
from standin.settings import API_VERSION
from standin.store import stamp
from standin.world import World

log = logging.getLogger("commet.delivery")

RETRY_MINUTES = (1, 5, 15, 30, 60, 60, 60)
MAX_ATTEMPTS = len(RETRY_MINUTES) + 1
EXHAUSTED_EVENTS_UNTIL_DISABLED = 3
_RESPONSE_KEPT = 2_000
_AT_ONCE = 8  # deliveries under way

Kind = Literal["scheduled", "copy", "manual", "test"]
_ONE: tuple[Kind, ...] = ("scheduled",)
_BOTH: tuple[Kind, ...] = ("copy", "scheduled")
_HELD = "status = 'pending' AND next_at IS NULL"


def sign(body: bytes, secret: str) -> str:
    """Commet's signature: lower-case hex HMAC-SHA256 of the raw body under the whole secret."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


class Courier:
    """Delivers what is due: several deliveries at once, but one attempt per delivery at a time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._held: list[str] = []
        world.faults.on_clear = self._let_go

    async def start(self) -> None:
        """Open the HTTP client; needs a running loop."""
        # Deliveries that a rule held back before the stop. Rules are not stored, so these are sent
        # now.
        self._held = [d.id for d in self._world.store.deliveries.find(_HELD, newest=False)]
        self._let_go()
        timeout = aiohttp.ClientTimeout(total=self._world.settings.webhook_timeout)
        self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=True)

    async def stop(self) -> None:
        """Stop sending. Running attempts remain pending and are made again after a restart."""
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
        """Start an attempt of every delivery that is due now. Returns the started tasks."""
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
        # Only now: a scheduler that was woken earlier would still see a running attempt and sleep
        # again.
        self._world.on_commit()

    async def quiet(self) -> None:
        """Wait until no attempt is under way."""
        while self._in_flight:
            # Unlike gather, this does not cancel the attempts if the caller stops waiting.
            await asyncio.wait(self._in_flight.values())
            # If all tasks were done already, `wait` returned at once, before their callbacks ran.
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
        elif action.disable:
            with world.store.transaction():
                self._switch_off(endpoint)
        elif action.reorder and not delivery.delayed:
            await self._hold(delivery, action.reorder)
        elif action.delay_ms and not delivery.delayed:
            self._postpone(delivery, world.now() + timedelta(milliseconds=action.delay_ms))
        else:
            await self._send_as_told(delivery, event, endpoint, action)

    def _postpone(self, delivery: Delivery, until: datetime | None) -> None:
        """Apply an injected delay once. None: until somebody releases the delivery."""
        delivery.delayed, delivery.next_at = True, until
        self._world.store.deliveries.put(delivery)

    async def _hold(self, delivery: Delivery, count: int) -> None:
        """Hold a delivery back. The last of `count` deliveries sends them all, beginning with
        itself.
        """
        self._postpone(delivery, None)
        self._held.append(delivery.id)
        if len(self._held) < count:
            return
        together, self._held = self._held, []
        for delivery_id in reversed(together):
            await self._send_held(delivery_id)

    async def _send_held(self, delivery_id: str) -> None:
        held = self._world.store.deliveries.get(delivery_id)
        if held is None or held.status != "pending":
            return
        endpoint = self._world.store.endpoints.get(held.endpoint_id)
        event = self._world.store.events.get(held.event_id)
        if endpoint is not None and event is not None:
            await self._send_as_told(held, event, endpoint, WebhookAction())

    def _let_go(self) -> None:
        """Send the deliveries that are still held back, in their natural order."""
        held, self._held = self._held, []
        for delivery_id in held:
            delivery = self._world.store.deliveries.get(delivery_id)
            if delivery is not None and delivery.status == "pending":
                self._postpone(delivery, self._world.now())
        if held:
            self._world.on_commit()

    async def _send_as_told(
        self, delivery: Delivery, event: Event, endpoint: Endpoint, action: WebhookAction
    ) -> None:
        body, headers = self._request(event, endpoint, action)
        delivery.request_headers, delivery.request_body = headers, body.decode()
        attempts = await asyncio.gather(
            *(
                self._send(endpoint.url, body, headers, kind)
                for kind in (_BOTH if action.concurrent else _ONE)
            )
        )
        if action.duplicate:
            attempts.append(await self._send(endpoint.url, body, headers, "copy"))
        self._conclude(delivery, attempts)

    def _request(
        self, event: Event, endpoint: Endpoint, action: WebhookAction
    ) -> tuple[bytes, dict[str, str]]:
        body = wire.dumps(self._envelope(event))
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

    def _envelope(self, event: Event) -> dict[str, object]:
        return {
            "id": event.id,
            "event": event.name,
            "timestamp": iso(event.timestamp),
            "organizationId": self._world.organization_id,
            "mode": "sandbox",
            "apiVersion": API_VERSION,
            "data": self._data(event),
        }

    def _data(self, event: Event) -> dict[str, object]:
        """Returns the event's data. Commet computes the entitlement snapshot when it delivers."""
        fresh = self._world.settings.state_snapshot == "delivery"
        if event.name != "customer.state_changed" or not fresh or not event.customer_id:
            return event.data
        customer = self._world.customer(event.customer_id)
        return state_snapshot(self._world, customer, str(event.data["trigger"]))

    async def _send(self, url: str, body: bytes, headers: dict[str, str], kind: Kind) -> Attempt:
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
        return Attempt(
            number=0,
            kind=kind,
            at=at,
            duration_ms=round((time.monotonic() - started) * 1000),
            status=status,
            error=error,
            response=text,
        )

    def _conclude(self, delivery: Delivery, attempts: list[Attempt]) -> None:
        """Record the outcome of the attempts. The last answer decides."""
        with self._world.store.transaction():
            delivery = self._logged(delivery, attempts)
            made = sum(attempt.kind == "scheduled" for attempt in delivery.attempts)
            if attempts[-1].succeeded:
                self._put(delivery, "delivered")
                self._reset_streak(delivery.endpoint_id)
            elif delivery.status != "pending":
                # The delivery was given up, or sent by hand with success, during this attempt.
                self._put(delivery, delivery.status)
            elif made >= MAX_ATTEMPTS:
                self._put(delivery, "exhausted")
                self._lengthen_streak(delivery.endpoint_id)
            else:
                delivery.next_at = self._world.now() + self._backoff(made)
                self._world.store.deliveries.put(delivery)

    def _logged(self, sent: Delivery, attempts: list[Attempt]) -> Delivery:
        """Returns the delivery with the new request and its attempts in the log.

        It is read again, because somebody may have sent it by hand meanwhile.
        """
        delivery = self._world.store.deliveries.get(sent.id) or sent
        delivery.request_headers = sent.request_headers
        delivery.request_body = sent.request_body
        for attempt in attempts:
            attempt.number = len(delivery.attempts) + 1
            delivery.attempts.append(attempt)
        return delivery

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
            self._switch_off(endpoint)
        else:
            self._world.store.endpoints.put(endpoint)

    def _switch_off(self, endpoint: Endpoint) -> None:
        """Disable an endpoint. Its pending deliveries are given up, so that nothing is sent
        later.
        """
        self._world.store.endpoints.put(endpoint.model_copy(update={"is_active": False}))
        webhooks.abandon_pending(self._world, endpoint)

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
        delivery = await self._send_by_hand(delivery, event, endpoint, "test")
        delivery.status = "delivered" if delivery.attempts[-1].succeeded else "exhausted"
        return self._world.store.deliveries.put(delivery)

    async def redeliver(self, delivery: Delivery) -> Delivery:
        """Makes one more attempt by hand, in any state of the delivery. It is not one of the eight.

        Raises LookupError if the delivery's endpoint has been deleted.
        """
        endpoint = self._world.store.endpoints.get(delivery.endpoint_id)
        event = self._world.store.events.get(delivery.event_id)
        if endpoint is None or event is None:
            raise LookupError("its endpoint has been deleted")
        delivery = await self._send_by_hand(delivery, event, endpoint, "manual")
        if delivery.attempts[-1].succeeded:
            delivery.status, delivery.next_at = "delivered", None
        return self._world.store.deliveries.put(delivery)

    async def _send_by_hand(
        self, delivery: Delivery, event: Event, endpoint: Endpoint, kind: Kind
    ) -> Delivery:
        body, headers = self._request(event, endpoint, WebhookAction())
        delivery.request_headers, delivery.request_body = headers, body.decode()
        return self._logged(delivery, [await self._send(endpoint.url, body, headers, kind)])
