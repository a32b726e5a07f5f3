"""The commands that an operator can give to `send_mail`.

Each is written into the audit trail, with its `author` and its `note`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from billing.audit import trail
from billing.audit.trail import Action
from billing.database.connection import Database
from billing.errors import InvalidRequest
from billing.mail import outbox, suppression

Command = Mapping[str, Any]

_COMMANDS = ("redrive", "allow")


def obey(db: Database, command: Command, *, now: datetime) -> dict[str, Any]:
    """Carries out `command`; returns how many rows it changed.

    Raises InvalidRequest for an unknown command, and for a field that is missing or wrong.
    """
    name = command.get("command")
    if name not in _COMMANDS:
        raise InvalidRequest(f"Unknown command. The commands are: {', '.join(_COMMANDS)}.")
    by = trail.operator(_text(command, "author"), _text(command, "note"))
    done = _redrive(db, command, now) if name == "redrive" else _allow(db, command)
    user = _text(command, "user") if name == "redrive" else None
    trail.write(db, by, Action.COMMAND, user_id=user, command=f"mail_{name}")
    return done


def _redrive(db: Database, command: Command, now: datetime) -> dict[str, Any]:
    mail_id = command.get("id")
    if mail_id is not None and not str(mail_id).isdecimal():
        raise InvalidRequest("`id` must be the number of a mail.")
    number = None if mail_id is None else int(mail_id)
    return {"redriven": outbox.redrive(db, now=now, mail_id=number, user_id=_text(command, "user"))}


def _allow(db: Database, command: Command) -> dict[str, Any]:
    address = _text(command, "address")
    if not address:
        raise InvalidRequest("`address` is missing: the address that gets mail again.")
    return {"allowed": int(suppression.allow(db, address))}


def _text(command: Command, name: str) -> str | None:
    value = command.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be text.")
    return value
