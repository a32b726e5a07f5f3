"""What the backend of a product asks of the stack all day, with the answer that it expects.

Nine of ten requests report usage: most of them one event, some an event that was reported before,
some a hundred events. The others check, reserve, confirm and read dashboards. Now and then somebody
becomes a customer.
"""

import asyncio
import itertools
import json
import random
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from time import perf_counter
from typing import Any, Self
from uuid import uuid4

import aiohttp

from bench.load import Request, UnexpectedAnswer

QUANTITY = Decimal("0.1")
"""The quantity of each event."""
BATCH = 100
"""The events of a batch."""
_CONNECTIONS = 32
_PATIENCE_SECONDS = 60
_HELD_SECONDS = 3600
_REPEATABLE = 1_000
_ACCESS_SECONDS = 15
"""How long after a payment a new customer may wait for access."""

Event = dict[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the stack is, and who uses what there.

    `users` have the plan `plan`, which sells `feature`. `control` is the address of the stand-in's
    control endpoints.
    """

    api: str
    service_key: str
    control: str
    plan: str
    feature: str
    users: tuple[str, ...]


class Backend:
    """The product's backend. `booked` has what the stack must have booked for each user.

    Each request raises UnexpectedAnswer. Use it as a context, which keeps connections open.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE_SECONDS),
            headers={"authorization": f"Bearer {place.service_key}"},
        )
        self._reported: deque[Event] = deque(maxlen=_REPEATABLE)
        self._held: deque[tuple[str, str]] = deque()
        self._numbers = itertools.count(1)
        self.booked: dict[str, Decimal] = defaultdict(Decimal)
        # Many more answers than the other kinds have, so the median of all is that of these.
        self._mix: dict[Callable[[], Awaitable[object]], int] = {
            self.report: 83,
            self.report_again: 2,
            self.report_batch: 1,
            self.check: 4,
            self.reserve: 2,
            self.confirm: 2,
            self.read_dashboard: 6,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def one_event(self) -> Request:
        """Returns the request that reports one event."""
        return Request("report", self.report)

    def any_request(self) -> Request:
        """Returns a request of the mix, by chance."""
        [send] = random.choices(list(self._mix), list(self._mix.values()))  # noqa: S311
        return Request(send.__name__, send)

    async def report(self) -> None:
        """Reports one event."""
        event = self._event()
        await self._ask("POST", "/usage", 202, event)
        self._book(event)

    async def report_again(self) -> None:
        """Reports an event again that was counted before."""
        if not self._reported:
            await self.report()
        await self._ask("POST", "/usage", 200, random.choice(self._reported))  # noqa: S311

    async def report_batch(self) -> None:
        """Reports BATCH events at once."""
        events = [self._event() for _ in range(BATCH)]
        answer = await self._ask("POST", "/usage", 202, {"events": events})
        accepted = [each["index"] for each in answer["results"] if each["status"] == "accepted"]
        for index in accepted:
            self._book(events[index])
        if len(accepted) != BATCH:
            raise UnexpectedAnswer(f"POST /usage took {len(accepted)} of {BATCH} events.")

    async def check(self) -> None:
        """Asks whether a user may use the feature."""
        asked = {"user_id": self._user(), "feature": self._place.feature, "quantity": "1"}
        answer = await self._ask("POST", "/usage/check", 200, asked)
        if answer["allowed"] is not True:
            raise UnexpectedAnswer(f"POST /usage/check refused: {answer}")

    async def reserve(self) -> None:
        """Reserves a quantity. `confirm` confirms it later."""
        wanted = self._event() | {"expires_in": _HELD_SECONDS}
        made = await self._ask("POST", "/usage/reservations", 201, wanted)
        self._held.append((made["id"], made["user_id"]))

    async def confirm(self) -> None:
        """Confirms the oldest reservation."""
        if not self._held:
            await self.reserve()
        held, user = self._held.popleft()
        path = f"/usage/reservations/{held}/confirm"
        await self._ask("POST", path, 200, {"quantity": str(QUANTITY)})
        self.booked[user] += QUANTITY

    async def read_dashboard(self) -> None:
        """Reads a user's dashboard."""
        path = f"/users/{self._user()}/dashboard"
        if not await self._has_access(path):
            raise UnexpectedAnswer(f"GET {path}: the user has no access.")

    async def win_a_customer(self) -> None:
        """Registers somebody, who pays for the plan, and waits until webhooks have given access."""
        user = f"bench-new-{next(self._numbers)}"
        await self._ask("PUT", f"/users/{user}", 201, {"email": f"{user}@example.com"})
        wanted = {"user_id": user, "plan_code": self._place.plan}
        made = await self._ask("POST", "/checkout", 201, wanted)
        payment = {
            "subscription_id": made["subscription"]["id"],
            "card_number": "4242424242424242",
        }
        await self._ask("POST", f"{self._place.control}/pay", 200, payment)
        path, paid = f"/users/{user}/dashboard", perf_counter()
        while not await self._has_access(path):
            if perf_counter() > paid + _ACCESS_SECONDS:
                raise UnexpectedAnswer(f"{user} has paid and has no access.")
            await asyncio.sleep(0.2)

    async def _has_access(self, dashboard: str) -> bool:
        return bool((await self._ask("GET", dashboard, 200))["access"])

    def _user(self) -> str:
        return random.choice(self._place.users)  # noqa: S311

    def _event(self) -> Event:
        return {
            "user_id": self._user(),
            "feature": self._place.feature,
            "quantity": str(QUANTITY),
            "idempotency_key": uuid4().hex,
        }

    def _book(self, event: Event) -> None:
        self.booked[event["user_id"]] += QUANTITY
        self._reported.append(event)

    async def _ask(self, method: str, path: str, expected: int, body: object = None) -> Any:
        """Sends a request. Returns the JSON of its answer."""
        url = path if path.startswith("http") else f"{self._place.api}{path}"
        try:
            async with self._session.request(method, url, json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnexpectedAnswer(f"{method} {path}: {type(error).__name__} {error}") from error
        if answer.status != expected:
            raise UnexpectedAnswer(f"{method} {path}: {answer.status} {text[:300]}")
        return json.loads(text)
