"""The product's endpoints: creates, changes and reads them, and sends events to them again."""

import secrets
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import Conflict, InvalidRequest, NotFound
from billing.events.signing import OVERLAP

_sql = Statements(__file__)

MOST = 10
PATTERN = r"^ep_[0-9a-f]{24}$"  # of ids
_REDELIVERED_AT_ONCE = 1000
_BATCH_SECONDS = 2.0  # with less time left, no further batch is begun
_ATTEMPTS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint. Its secrets are computed from `id` and `generation`."""

    id: str
    url: str
    types: list[str] | None  # None: all types
    description: str
    created_at: datetime
    generation: int
    previous_until: datetime | None
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_by: str | None  # failures, gone or request


@dataclass(frozen=True, slots=True)
class Change:
    """The changes to an endpoint. None changes nothing. Empty `types`: the endpoint gets all
    types.
    """

    url: str | None = None
    types: Sequence[str] | None = None
    description: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call. `status` is the HTTP status, `reason` is why the event was not taken."""

    at: datetime
    status: int | None
    reason: str | None
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for an endpoint, and the state of its delivery."""

    event: UUID
    place: int
    type: str
    user_id: str
    sequence: int
    state: str
    attempts: int
    due_at: datetime | None  # of a pending one: not sent before this time
    attempted_at: datetime | None
    status: int | None
    reason: str | None
    ended_at: datetime | None
    log: Sequence[Attempt]  # the newest ten, the newest first


def create(
    db: Database, *, url: str, types: Sequence[str] | None, description: str, by: Actor
) -> Endpoint:
    """Creates an endpoint. It gets the events that are placed from now on.

    Raises Conflict `too_many_endpoints` if there are ten.
    """
    endpoint_id = f"ep_{secrets.token_hex(12)}"
    params = {
        "id": endpoint_id,
        "url": url,
        "types": list(types) if types else None,
        "description": description,
        "entry": trail.entry(by, Action.ENDPOINT_ADDED, endpoint=endpoint_id),
    }
    for _ in range(MOST + 1):  # other requests may take a slot first
        row = db.one(_sql["insert"], params)
        if row is not None:
            return _endpoint(row)
    raise Conflict(f"There are {MOST} endpoints. Delete one first.", code="too_many_endpoints")


def listed(db: Database) -> list[Endpoint]:
    """All endpoints, the oldest first."""
    return [_endpoint(row) for row in db.all(_sql["all"])]


def get(db: Database, endpoint_id: str) -> Endpoint:
    """The endpoint. Raises NotFound `endpoint_not_found`."""
    return _found(db.one(_sql["get"], {"id": endpoint_id}))


def change(db: Database, endpoint_id: str, change: Change, *, by: Actor) -> Endpoint:
    """Changes an endpoint, and switches it on or off.

    Pending deliveries are due at once if the endpoint is switched on or gets another address.
    Raises NotFound.
    """
    params = {
        "id": endpoint_id,
        "url": change.url,
        "sets_types": change.types is not None,
        "types": list(change.types) if change.types else None,
        "description": change.description,
        "enabled": change.enabled,
        "entry": trail.entry(by, Action.ENDPOINT_CHANGED, endpoint=endpoint_id),
    }
    return _found(db.one(_sql["change"], params))


def delete(db: Database, endpoint_id: str, *, by: Actor) -> None:
    """Deletes an endpoint, its deliveries and their log. Raises NotFound."""
    entry = trail.entry(by, Action.ENDPOINT_DELETED, endpoint=endpoint_id)
    if db.one(_sql["delete"], {"id": endpoint_id, "entry": entry}) is None:
        raise _missing()


def rotate(db: Database, endpoint_id: str, *, by: Actor) -> Endpoint:
    """Gives the endpoint a new secret. Earlier ones also sign for a day. Raises NotFound."""
    entry = trail.entry(by, Action.ENDPOINT_ROTATED, endpoint=endpoint_id)
    params = {"id": endpoint_id, "rotation": uuid4(), "overlap": OVERLAP, "entry": entry}
    return _found(db.one(_sql["rotate"], params))


def deliveries(
    db: Database, endpoint_id: str, *, state: str | None, before: int | None, limit: int
) -> list[Delivery]:
    """Returns deliveries to the endpoint, the newest event first.

    `before`: only those of events with a smaller place. Raises NotFound.
    """
    get(db, endpoint_id)
    params = {"id": endpoint_id, "state": state, "before": before, "limit": limit}
    rows = db.all(_sql["deliveries"], params)
    wanted = {"id": endpoint_id, "events": [row["event"] for row in rows], "most": _ATTEMPTS_SHOWN}
    logs: dict[UUID, list[Attempt]] = defaultdict(list)
    for attempt in db.all(_sql["attempts"], wanted):
        logs[attempt.pop("event")].append(Attempt(**attempt))
    return [Delivery(**row, log=logs[row["event"]]) for row in rows]


def redeliver_one(db: Database, endpoint_id: str, event: UUID, *, by: Actor) -> int:
    """Sends one event again, or for the first time. Returns how many events became pending.

    Raises NotFound for an unknown endpoint (`endpoint_not_found`) or event (`event_not_found`).
    """
    queued, last = _redeliver(db, endpoint_id, by=by, event=event)
    if last is None:
        raise NotFound("The log has no such event.", code="event_not_found")
    return queued


def redeliver_range(
    db: Database, endpoint_id: str, start: datetime, end: datetime, *, by: Actor, deadline: Deadline
) -> int:
    """Does the same for the endpoint's types of events that occurred from `start` up to `end`.

    Raises InvalidRequest `range_too_long` if the deadline comes first. The events that were read
    until then are sent.
    """
    total, after = 0, 0
    while True:
        if after and deadline.remaining() < _BATCH_SECONDS:
            raise InvalidRequest(
                f"{total} events of the range became pending, and then the time was over. Send the"
                " range in parts.",
                code="range_too_long",
            )
        queued, last = _redeliver(db, endpoint_id, by=by, start=start, end=end, after=after)
        total += queued
        if last is None:
            return total
        after = last


def _redeliver(
    db: Database,
    endpoint_id: str,
    *,
    by: Actor,
    event: UUID | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    after: int = 0,
) -> tuple[int, int | None]:
    """Returns how many became pending, and the last place that was read; None if none was found."""
    # One entry for each request, however long the range is.
    entry = trail.entry(by, Action.EVENTS_REDELIVERED, endpoint=endpoint_id) if not after else None
    params = {
        "id": endpoint_id,
        "event": event,
        "start": start,
        "end": end,
        "after": after,
        "limit": _REDELIVERED_AT_ONCE,
        "entry": entry,
    }
    row = db.one(_sql["redeliver"], params)
    if row is None:
        raise _missing()
    return row["queued"], row["last_place"]


def _found(row: Row | None) -> Endpoint:
    if row is None:
        raise _missing()
    return _endpoint(row)


def _missing() -> NotFound:
    return NotFound("There is no endpoint with this id.", code="endpoint_not_found")


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(**{name: value for name, value in row.items() if name != "noted"})
