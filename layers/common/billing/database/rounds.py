"""Rounds: long work that many runs share. The position of a round is kept in the database.

A run takes up a round, does a step, notes the position and goes on until its time is up. The next
run continues at that position, even if the first one died.
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
    """A round under way. No other run works on it for two minutes after each step."""

    name: str
    position: Position
    started_at: datetime  # by the database's clock


@dataclass(frozen=True, slots=True)
class Latest:
    """The last round of a name, as far as it has come. `begun_at` is of the functions' clock."""

    begun_at: datetime | None
    finished_at: datetime | None  # by the database's clock
    is_under_way: bool
    is_requested: bool  # the next run begins a new one


def take_up(
    db: Database, name: str, *, start: Position, every: timedelta, now: datetime
) -> Round | None:
    """The round that is under way, was requested or is due; None if there is none.

    Also None while another run works on the round. A round is due when the last one began `every`
    before `now`, which is the time of the functions' clock: a laptop's can be moved. A round that
    nobody requested begins at `start`.
    """
    params = {"name": name, "start": Jsonb(start), "every": every, "now": now}
    row = db.one(_sql["lease_round"], params)
    return Round(name, row["position"], row["started_at"]) if row else None


def advance(db: Database, name: str, position: Position) -> None:
    """Notes how far the round has come. If this run dies, the next one goes on at `position`."""
    db.execute(_sql["advance_round"], {"name": name, "position": Jsonb(position)})


def leave(db: Database, name: str) -> None:
    """Gives up the lease, so that the next run can go on with the round at once."""
    db.execute(_sql["leave_round"], {"name": name})


def finish(db: Database, name: str) -> None:
    """Ends the round."""
    db.execute(_sql["finish_round"], {"name": name})


def request(db: Database, name: str, *, start: Position) -> None:
    """Makes the next run begin a new round at `start`, even if a round is under way."""
    db.execute(_sql["request_round"], {"name": name, "start": Jsonb(start)})


def latest(db: Database, name: str) -> Latest:
    """The last round with this name, whether or not it has ended."""
    row = db.one(_sql["latest_round"], {"name": name})
    return Latest(**row) if row else Latest(None, None, is_under_way=False, is_requested=False)
