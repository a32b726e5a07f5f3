"""Posts outgoing events to the product's endpoints, each at least once, in order for each user.

An endpoint's answers, and what happens to the delivery:

- 2xx within ten seconds: the delivery is sent.
- 410: the delivery remains pending, and the endpoint is switched off.
- Anything else: the delivery remains pending, and is sent again after longer and longer pauses.
  After three days of failures it is failed, and is sent again only if somebody asks.

Events that were never tried are sent before repeats, so wrong events delay no other user.
A user's later events wait while an earlier one is pending. After an hour of failures of one event,
the endpoint gets the user's later ones. An endpoint that takes nothing for three days is switched
off. The rules are in routines/event_delivery.sql.

Calls run in threads; only the caller's thread uses the database. Each endpoint has at most four
calls at a time, and as many threads, so a slow endpoint delays no other. Any number of runs may
overlap, and each may die at any point: a delivery that was leased and not recorded is sent again
when its lease is over.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol

from aws_lambda_powertools import Logger

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.events import cloud_events, endpoints, signing
from billing.events.log import OutgoingEvent
from billing.events.receivers import CALL_SECONDS, Answer

_sql = Statements(__file__)
logger = Logger(child=True)

# Longer than a call and the time that a run may wait for the database before it records the call.
LEASE = timedelta(minutes=2)
CALLS_EACH = 4
# After this number of failures in a row, a run makes no more calls to the endpoint: it is down, and
# each call may take ten seconds.
_FAILURES_IN_A_ROW = 8
# The pauses after the first failures. The last one is used for all later failures. One attempt
# comes soon after the hour for which a user's later events wait.
_PAUSES_SECONDS = (5, 30, 120, 300, 600, 900, 900, 900, 3600)

CONTENT_TYPE = "application/cloudevents+json"


class Receiver(Protocol):
    """Makes the calls (`receivers.Receivers`). Several threads call it at once."""

    def post(
        self, url: str, headers: dict[str, str], body: bytes, deadline: Deadline
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Sender:
    """The values that all calls share: the secret for signatures, and the source of the events."""

    secret: str  # of the stack; each endpoint's is computed from it
    source: str


@dataclass(slots=True)
class Done:
    """What one run did: numbers of deliveries, and of endpoints that it switched off."""

    sent: int = 0
    postponed: int = 0
    switched_off: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the deliveries, for metrics.

    `age_seconds`: how long the oldest event has waited for an endpoint that is switched on.
    `failed`: deliveries that were given up. `off`: endpoints that failures have switched off.
    """

    age_seconds: float
    failed: int
    off: int


@dataclass(frozen=True, slots=True)
class _Leased:
    """A delivery that only this run sends until its lease ends."""

    endpoint: str
    url: str
    generation: int
    oldest_generation: int  # all secrets from this one on sign
    attempt: int
    failures: int  # before this attempt, since the delivery became pending
    event: OutgoingEvent


def deliver(
    db: Database,
    receiver: Receiver,
    *,
    sender: Sender,
    deadline: Deadline,
    jitter: Callable[[], float] = random.random,
) -> Done:
    """Sends deliveries until none is due, or another call would not fit before `deadline`.

    Raises DatabaseUnavailable. Deliveries whose result was not written before such an error are
    sent again when their lease is over.
    """
    return _Run(db, receiver, sender, deadline, jitter).until_done()


def gauges(db: Database) -> Gauges:
    """Returns the state of the deliveries."""
    row = db.one(_sql["gauges"])
    assert row is not None  # noqa: S101 - an aggregate always returns a row
    return Gauges(**row)


class _Run:
    """One run: keeps calls running until none is due or the time is over."""

    def __init__(
        self,
        db: Database,
        receiver: Receiver,
        sender: Sender,
        deadline: Deadline,
        jitter: Callable[[], float],
    ) -> None:
        self._db = db
        self._receiver = receiver
        self._sender = sender
        self._deadline = deadline
        self._jitter = jitter
        self._endpoints = [each.id for each in endpoints.listed(db) if each.disabled_at is None]
        self._flying: dict[Future[Answer], _Leased] = {}
        self._failures: Counter[str] = Counter()  # in a row, by endpoint
        self._done = Done()

    def until_done(self) -> Done:
        """Sends deliveries. Returns what the run did."""
        if not self._endpoints:
            return self._done
        workers = len(self._endpoints) * CALLS_EACH
        with ThreadPoolExecutor(workers, thread_name_prefix="events") as pool:
            self._start(pool)
            while self._flying:
                done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                self._finish(done)
                self._start(pool)
        return self._done

    def _start(self, pool: ThreadPoolExecutor) -> None:
        """Starts calls to all endpoints with fewer than four running calls."""
        if self._deadline.remaining() <= CALL_SECONDS:
            return
        busy = Counter(leased.endpoint for leased in self._flying.values())
        free = {
            each: CALLS_EACH - busy[each]
            for each in self._endpoints
            if busy[each] < CALLS_EACH and self._failures[each] < _FAILURES_IN_A_ROW
        }
        for leased in _lease(self._db, free):
            limit = self._deadline.within(CALL_SECONDS)
            self._flying[pool.submit(self._attempt, leased, limit)] = leased

    def _attempt(self, leased: _Leased, deadline: Deadline) -> Answer:
        """Makes one call, in a thread. An unexpected error postpones only this delivery."""
        try:
            body = _body(leased.event, self._sender.source)
            headers = {"content-type": CONTENT_TYPE} | _signed(leased, self._sender.secret, body)
            return self._receiver.post(leased.url, headers, body, deadline)
        except Exception:
            logger.exception("events.not_sent", extra=_named(leased))
            return Answer(None, "internal_error", 0)

    def _finish(self, done: Iterable[Future[Answer]]) -> None:
        for future in done:
            leased = self._flying.pop(future)
            answer = future.result()
            off = _record(self._db, leased, answer, _pause(leased.failures + 1, self._jitter()))
            if answer.reason is None:
                self._done.sent += 1
                self._failures[leased.endpoint] = 0
                continue
            self._done.postponed += 1
            self._failures[leased.endpoint] += 1
            logger.warning("events.postponed", extra=_named(leased) | asdict(answer))
            if off is not None:
                self._done.switched_off += 1
                logger.error(
                    "events.endpoint_switched_off",
                    extra={"endpoint": leased.endpoint, "reason": off},
                )


def _lease(db: Database, free: dict[str, int]) -> list[_Leased]:
    """Leases due deliveries: for each endpoint as many as it may have further calls."""
    if not free:
        return []
    params = {"endpoints": list(free), "free": list(free.values()), "lease": LEASE}
    return [
        _Leased(
            endpoint=row["endpoint"],
            url=row["url"],
            generation=row["generation"],
            oldest_generation=row["oldest_generation"],
            attempt=row["attempt"],
            failures=row["failures"],
            event=OutgoingEvent(
                id=row["event"],
                place=row["place"],
                sequence=row["sequence"],
                user_id=row["user_id"],
                type=row["type"],
                occurred_at=row["occurred_at"],
                data=row["data"],
            ),
        )
        for row in db.all(_sql["lease"], params)
    ]


def _record(db: Database, leased: _Leased, answer: Answer, pause: timedelta) -> str | None:
    """Records an attempt. Returns why it switched the endpoint off; None if it did not."""
    off: str | None = db.value(
        _sql["record"],
        {
            "endpoint": leased.endpoint,
            "event": leased.event.id,
            "attempt": leased.attempt,
            "status": answer.status,
            "reason": answer.reason,
            "milliseconds": answer.milliseconds,
            "pause": pause,
        },
    )
    return off


def _body(event: OutgoingEvent, source: str) -> bytes:
    return json.dumps(
        cloud_events.document(event, source), separators=(",", ":"), ensure_ascii=False
    ).encode()


def _signed(leased: _Leased, secret: str, body: bytes) -> dict[str, str]:
    generations = range(leased.generation, leased.oldest_generation - 1, -1)
    # Wall time, because the receiver compares the time with its own clock.
    return signing.headers(
        [signing.secret_of(secret, leased.endpoint, each) for each in generations],
        message_id=str(leased.event.id),
        timestamp=int(time.time()),
        body=body,
    )


def _pause(failures: int, chance: float) -> timedelta:
    """Returns how long a delivery waits after so many failures."""
    seconds = _PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS)) - 1]
    return timedelta(seconds=seconds * (0.8 + 0.4 * chance))


def _named(leased: _Leased) -> dict[str, object]:
    return {
        "endpoint": leased.endpoint,
        "event": str(leased.event.id),
        "user_id": leased.event.user_id,
        "attempt": leased.attempt,
    }
