"""Rounds: long work that many runs share. The database stores the position of a round.

A run leases a round, does a step, stores the position, and repeats this until its time is up. The
next run continues at that position, even if the first run died.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)

Position = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Round:
    """A round that this run has leased. After each step, the lease lasts two more minutes."""

    name: str
    position: Position
    started_at: datetime  # by the database's clock


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest round of a name and its state. `begun_at` is a time of the functions' clock."""

    begun_at: datetime | None
    finished_at: datetime | None  # by the database's clock
    is_under_way: bool
    is_requested: bool  # the next run begins a new round


def take_up(
    db: Database, name: str, *, start: Position, every: timedelta, now: datetime
) -> Round | None:
    """Leases the round that is under way, was requested or is due. Returns None if there is none.

    Also returns None while another run has the lease. A round is due when the last one began
    `every` before `now`. `now` is a time of the functions' clock, because on a laptop that clock
    can be moved. A round that nobody requested begins at `start`.
    """
    params = {"name": name, "start": Jsonb(start), "every": every, "now": now}
    row = db.one(_sql["lease_round"], params)
    return Round(name, row["position"], row["started_at"]) if row else None


def advance(db: Database, name: str, position: Position) -> None:
    """Stores how far the round has come. If this run dies, the next run continues at `position`."""
    db.execute(_sql["advance_round"], {"name": name, "position": Jsonb(position)})


def leave(db: Database, name: str) -> None:
    """Ends the lease, so that the next run can continue the round at once."""
    db.execute(_sql["leave_round"], {"name": name})


def finish(db: Database, name: str) -> None:
    """Ends the round."""
    db.execute(_sql["finish_round"], {"name": name})


def request(db: Database, name: str, *, start: Position) -> None:
    """Makes the next run begin a new round at `start`, even if a round is under way."""
    db.execute(_sql["request_round"], {"name": name, "start": Jsonb(start)})


def latest(db: Database, name: str) -> Latest:
    """Returns the newest round with this name, whether or not it has ended."""
    row = db.one(_sql["latest_round"], {"name": name})
    return Latest(**row) if row else Latest(None, None, is_under_way=False, is_requested=False)
