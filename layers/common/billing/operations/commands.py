"""The commands that an operator can give to `reconcile`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing.database.connection import Database
from billing.delivery import comparing, outbox
from billing.errors import InvalidRequest
from billing.operations import inspection, sweep
from billing.subscriptions import inbox

Command = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Asked:
    db: Database
    command: Command
    now: datetime

    def text(self, name: str) -> str | None:
        value = self.command.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"`{name}` must be text.")
        return value


def obey(db: Database, command: Command, *, now: datetime) -> dict[str, Any]:
    """Carries out `command`; returns the rows that it found or the number that it changed.

    Raises InvalidRequest for an unknown command, and for a field that is missing or wrong.
    """
    run = _COMMANDS.get(str(command.get("command")))
    if run is None:
        raise InvalidRequest(f"Unknown command. The commands are: {', '.join(_COMMANDS)}.")
    return run(_Asked(db, command, now))


def _show(asked: _Asked) -> dict[str, Any]:
    user = asked.text("user")
    if not user:
        raise InvalidRequest(
            "`user` is missing: our user id, Commet's customer id or the email address."
        )
    return inspection.of_user(asked.db, user, now=asked.now)


def _sweep(asked: _Asked) -> dict[str, Any]:
    sweep.request(asked.db)
    return {"requested": "sweep"}


def _redrive(asked: _Asked) -> dict[str, Any]:
    run = _REDRIVES.get(str(asked.command.get("what", "events")))
    if run is None:
        raise InvalidRequest(f"`what` must be one of: {', '.join(_REDRIVES)}.")
    return {"redriven": run(asked)}


def _redrive_events(asked: _Asked) -> int:
    return inbox.redrive(asked.db, event_id=asked.text("id"), user_id=asked.text("user"))


def _redrive_deliveries(asked: _Asked) -> int:
    return outbox.redrive(
        asked.db,
        event_id=asked.text("id"),
        user_id=asked.text("user"),
        reason=asked.text("reason"),
    )


def _resolve(asked: _Asked) -> dict[str, Any]:
    user, event_id, note = asked.text("user"), asked.text("id"), asked.text("note")
    if not user or not event_id or not note:
        raise InvalidRequest(
            "`user` and `id` of the delivery are needed, and a `note` that says what was done."
        )
    delivered = asked.command.get("delivered") is True
    return {
        "resolved": outbox.resolve(
            asked.db, user_id=user, event_id=event_id, note=note, delivered=delivered
        )
    }


def _repair_drift(asked: _Asked) -> dict[str, Any]:
    return {"repairing": comparing.repair(asked.db, user_id=asked.text("user"))}


_REDRIVES: dict[str, Callable[[_Asked], int]] = {
    "events": _redrive_events,
    "deliveries": _redrive_deliveries,
}
_COMMANDS: dict[str, Callable[[_Asked], dict[str, Any]]] = {
    "show": _show,
    "redrive": _redrive,
    "sweep": _sweep,
    "resolve": _resolve,
    "repair_drift": _repair_drift,
}
