"""The process that sends the load, so that it shares no interpreter with the gateway.

It measures what the gateway reaches, sends a share of that at a fixed rate, and tells its parent
what it finds: `Reached` twice, `Began`, a `Minute` for each minute, and `Ended`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.connection import Connection

from bench.load import Answered, Minutes, UnexpectedAnswer, rate_reached, send_steadily
from bench.product import Backend, Place
from bench.promises import percentile, thirds

CLIENTS = 8
"""How many clients measure what the gateway reaches."""
WARM_UP_SECONDS = 15
MEASURED_SECONDS = 20
CUSTOMER_SECONDS = 10
"""How often somebody becomes a customer."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How many requests of some kind the gateway answered in a second."""

    kind: str
    rate: float


@dataclass(frozen=True, slots=True)
class Began:
    """The load has begun, with this many requests a second."""

    rate: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """How many requests of a kind there were, and their latencies in milliseconds."""

    requests: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Ended:
    """All requests have ended.

    `p99`: of the first and the last third, in milliseconds. `booked`: the quantity that the stack
    must have booked for each user. `errors`: the unexpected answers.
    """

    kinds: dict[str, Latencies]
    p99: tuple[float, float]
    customers: int
    booked: dict[str, Decimal]
    errors: list[str]


def drive(parent: Connection, place: Place, share: float, seconds: float) -> None:
    """Sends the load, for `seconds`, at `share` of the measured rate."""
    asyncio.run(_drive(parent, place, share, seconds))


async def _drive(parent: Connection, place: Place, share: float, seconds: float) -> None:
    async with Backend(place) as backend:
        await rate_reached(backend.any_request, CLIENTS, WARM_UP_SECONDS)
        alone = await rate_reached(backend.one_event, CLIENTS, MEASURED_SECONDS)
        parent.send(Reached("single events", alone))
        mixed = await rate_reached(backend.any_request, CLIENTS, MEASURED_SECONDS)
        parent.send(Reached("a product's requests", mixed))
        parent.send(Began(share * mixed))
        ended: list[Answered] = []
        minutes = Minutes(seconds, parent.send)

        def note(answered: Answered) -> None:
            ended.append(answered)
            minutes.add(answered)

        is_over = asyncio.Event()
        sales = asyncio.create_task(_sell(backend, is_over))
        await send_steadily(backend.any_request, share * mixed, seconds, note)
        is_over.set()
        minutes.end()
        customers, unsold = await sales
        errors = [each.error for each in ended if each.error] + unsold
        parent.send(
            Ended(_by_kind(ended), _p99(ended, seconds), customers, dict(backend.booked), errors)
        )


async def _sell(backend: Backend, is_over: asyncio.Event) -> tuple[int, list[str]]:
    """Wins customers until it is over. Returns how many, and the unexpected answers."""
    customers, errors = 0, []
    while not is_over.is_set():
        try:
            await backend.win_a_customer()
            customers += 1
        except UnexpectedAnswer as unexpected:
            errors.append(str(unexpected))
        try:
            await asyncio.wait_for(is_over.wait(), CUSTOMER_SECONDS)
        except TimeoutError:
            continue
    return customers, errors


def _by_kind(ended: Sequence[Answered]) -> dict[str, Latencies]:
    kinds: dict[str, list[float]] = defaultdict(list)
    for each in ended:
        kinds[each.kind].append(each.latency * 1000)
    return {
        kind: Latencies(len(found), percentile(found, 50), percentile(found, 99))
        for kind, found in kinds.items()
    }


def _p99(ended: Sequence[Answered], seconds: float) -> tuple[float, float]:
    first, last = thirds([(each.due, each.latency * 1000) for each in ended], seconds)
    return percentile(first, 99), percentile(last, 99)
