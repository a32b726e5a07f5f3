"""Puts all outgoing events on an EventBridge bus, each at least once.

The database stores the place up to which events were put. Events that EventBridge did not take are
put again: the stored place remains before the first of them, and the next run continues there. So
an event may be put twice, with the same id. The bus keeps no order, but each event has the sequence
of its user.
"""

import json
from dataclasses import dataclass
from typing import Protocol

from aws_lambda_powertools import Logger

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.events import cloud_events, log
from billing.events.event_bridge import CALL_SECONDS, MOST_ENTRIES, Entry, Result, Verdict
from billing.events.log import OutgoingEvent

_sql = Statements(__file__)
logger = Logger(child=True)

_ATTEMPTS = 3  # of one run, for events that were not taken


class Bus(Protocol):
    """Takes events (`event_bridge.EventBridge`)."""

    def put(self, entries: list[Entry]) -> list[Result]: ...


@dataclass(slots=True)
class Done:
    """The counts of one run. `passed_over`: events that EventBridge will never take."""

    put: int = 0
    passed_over: int = 0


def put(db: Database, bus: Bus, *, name: str, source: str, deadline: Deadline) -> Done:
    """Puts all events after the last one that was put, until none is left or the time is over.

    A bus with a new name gets the events from now on. Stops if the bus takes nothing.
    """
    done = Done()
    place: int = db.value(_sql["begin"], {"bus": name})
    while deadline.remaining() > CALL_SECONDS:
        events = log.after(db, place, MOST_ENTRIES)
        if not events:
            break
        left = _put(bus, events, source, done, deadline)
        place = events[-1].place if not left else left[0].place - 1
        db.execute(_sql["advance"], {"bus": name, "place": place})
        if left:
            break
    return done


def forget(db: Database) -> None:
    """Records that the stack has no bus, so that a later bus does not get earlier events."""
    db.execute(_sql["forget"])


def age_seconds(db: Database) -> float:
    """Returns how long the oldest event has waited for the bus; 0 if none waits or there is no
    bus.
    """
    return float(db.value(_sql["age"]) or 0)


def _put(
    bus: Bus, events: list[OutgoingEvent], source: str, done: Done, deadline: Deadline
) -> list[OutgoingEvent]:
    """Puts the events and counts them. Returns those that were not taken."""
    left = events
    for _ in range(_ATTEMPTS):
        if deadline.remaining() <= CALL_SECONDS:
            break
        results = bus.put([_entry(event, source) for event in left])
        waiting = []
        for event, result in zip(left, results, strict=True):
            if result.verdict is Verdict.TAKEN:
                done.put += 1
            elif result.verdict is Verdict.REFUSED:
                done.passed_over += 1
                logger.error("events.passed_over", extra=_named(event, result))
            else:
                waiting.append(event)
                logger.warning("events.not_put", extra=_named(event, result))
        left = waiting
        if not left:
            break
    return left


def _entry(event: OutgoingEvent, source: str) -> Entry:
    document = cloud_events.document(event, source)
    return Entry(
        type=event.type,
        time=event.occurred_at,
        detail=json.dumps(document, separators=(",", ":"), ensure_ascii=False),
    )


def _named(event: OutgoingEvent, result: Result) -> dict[str, object]:
    return {"event": str(event.id), "place": event.place, "reason": result.code}
