"""Where long work stands: rounds that many runs share and that survive any of them."""

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
    """A round of work that is this run's alone for two minutes after each step."""

    name: str
    position: Position
    started_at: datetime  # by the database's clock


def take_up(db: Database, name: str, *, start: Position, every: timedelta) -> Round | None:
    """The round that is under way, was requested or is due; None where there is nothing to do.

    Also None while another run works on it. `start` is where a round begins that nobody asked for.
    """
    params = {"name": name, "start": Jsonb(start), "every": every}
    row = db.one(_sql["lease_cursor"], params)
    return Round(name, row["position"], row["started_at"]) if row else None


def advance(db: Database, name: str, position: Position) -> None:
    """Notes how far it came: the next run goes on from here, whatever becomes of this one."""
    db.execute(_sql["advance_cursor"], {"name": name, "position": Jsonb(position)})


def leave(db: Database, name: str) -> None:
    """Leaves the rest of the round to the next run."""
    db.execute(_sql["leave_round"], {"name": name})


def finish(db: Database, name: str) -> None:
    """Ends the round."""
    db.execute(_sql["finish_cursor"], {"name": name})


def request(db: Database, name: str, *, start: Position) -> None:
    """Has the next run begin a round at `start`, in place of one that is under way."""
    db.execute(_sql["request_round"], {"name": name, "start": Jsonb(start)})
