"""The commands about addresses that an operator can give to `send_mail`.

`send_mail` has the database role that signs people in. No other role may give an account another
address, because somebody who controls the address can set the password.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from billing.accounts import profile
from billing.audit import trail
from billing.audit.trail import Action
from billing.database.connection import Database
from billing.errors import BillingError, InvalidRequest
from billing.field_types import Email

Command = Mapping[str, Any]

_LONGEST = 2000


def obey(db: Database, command: Command, *, now: datetime) -> dict[str, Any]:
    """Carries out `command`, whose name is in COMMANDS. Writes it into the audit trail.

    Raises InvalidRequest for a field that is missing or wrong, and the errors of the command
    itself.
    """
    name = command["command"]
    user, author, note = (_text(command, field) for field in ("user", "author", "note"))
    if not user or not author or not note:
        raise InvalidRequest(
            "`user` is needed: our user id; an `author`, and a `note` that says why."
        )
    address = _address(command)
    outcome = trail.DONE
    try:
        COMMANDS[name](db, user, address, now)
    except BillingError as error:
        outcome = error.code
        raise
    finally:
        by = trail.operator(author, note)
        trail.write(db, by, Action.COMMAND, user_id=user, outcome=outcome, command=name)
    return {"verified" if name == "verify_address" else "freed": user}


def _verify(db: Database, user: str, address: str | None, now: datetime) -> None:
    profile.verify_address(db, user, address, now)


def _free(db: Database, user: str, _: str | None, now: datetime) -> None:
    profile.free_address(db, user, now)


COMMANDS: dict[str, Callable[[Database, str, str | None, datetime], None]] = {
    "verify_address": _verify,
    "free_address": _free,
}


def _address(command: Command) -> str | None:
    address = _text(command, "address")
    if address is None:
        return None
    try:
        return TypeAdapter(Email).validate_python(address)
    except ValidationError:
        raise InvalidRequest("`address` is no email address.") from None


def _text(command: Command, name: str) -> str | None:
    value = command.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be text.")
    if value is not None and len(value) > _LONGEST:
        raise InvalidRequest(f"`{name}` must have {_LONGEST} characters at most.")
    return value
