"""The commands that an operator can give to `reconcile`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from billing.accounts import erasing, sessions
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.debts import keeping
from billing.delivery import comparing, outbox
from billing.errors import BillingError, InvalidRequest
from billing.events import endpoints
from billing.field_types import OccurredAt
from billing.operations import inspection, sweep, waiting
from billing.payments import disputes
from billing.subscriptions import customers, inbox

Command = Mapping[str, Any]

_LONGEST = 2000
_TIME: TypeAdapter[datetime] = TypeAdapter(OccurredAt)


@dataclass(frozen=True, slots=True)
class _Asked:
    db: Database
    command: Command
    now: datetime
    commet: Callable[[], Commet]
    deadline: Deadline

    def text(self, name: str) -> str | None:
        value = self.command.get(name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"`{name}` must be text.")
        if value is not None and len(value) > _LONGEST:
            raise InvalidRequest(f"`{name}` must have {_LONGEST} characters at most.")
        return value

    def time(self, name: str) -> datetime | None:
        text = self.text(name)
        try:
            return None if text is None else _TIME.validate_python(text)
        except ValidationError as error:
            raise InvalidRequest(
                f"`{name}` must be a time with an offset, such as 2026-03-01T09:30:00Z."
            ) from error

    def by(self) -> Actor:
        return trail.operator(self.text("author"), self.text("note"))


def obey(
    db: Database,
    command: Command,
    *,
    now: datetime,
    commet: Callable[[], Commet],
    deadline: Deadline,
) -> dict[str, Any]:
    """Carries out `command`. Returns the rows that it found or the number that it changed.

    Every command but `show` is written into the audit trail, with its `author` and its `note`,
    which any command may have; `erase` is written without the note. `commet` builds the client, for
    the commands that call Commet. Raises InvalidRequest for an unknown command and for a field that
    is missing or wrong, and the errors of the command itself.
    """
    run = _COMMANDS.get(str(command.get("command")))
    if run is None:
        raise InvalidRequest(f"Unknown command. The commands are: {', '.join(_COMMANDS)}.")
    asked = _Asked(db, command, now, commet, deadline)
    if run in (_show, _erase):  # an erasure has an entry of its own
        return run(asked)
    by = asked.by()
    outcome = trail.DONE
    try:
        return run(asked)
    except BillingError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = BillingError.code
        raise
    finally:
        _audit(asked, by, outcome)


def _audit(asked: _Asked, by: Actor, outcome: str) -> None:
    """Writes the command into the trail: its name, and the ids that it contains."""
    if outcome == InvalidRequest.code:
        return
    named = {name: value for name in _IDS if (value := asked.command.get(name)) is not None}
    trail.write(
        asked.db,
        by,
        Action.COMMAND,
        user_id=asked.text("user"),
        outcome=outcome,
        command=str(asked.command["command"]),
        **named,
    )


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


def _compare(asked: _Asked) -> dict[str, Any]:
    comparing.request(asked.db)
    return {"requested": "compare"}


def _redrive(asked: _Asked) -> dict[str, Any]:
    run = _REDRIVES.get(str(asked.command.get("what", "webhooks")))
    if run is None:
        raise InvalidRequest(f"`what` must be one of: {', '.join(_REDRIVES)}.")
    return {"redriven": run(asked)}


def _redrive_webhooks(asked: _Asked) -> int:
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


def _resolve_dispute(asked: _Asked) -> dict[str, Any]:
    user, transaction, outcome = (asked.text(n) for n in ("user", "transaction", "outcome"))
    if not user or not transaction or outcome not in ("won", "lost"):
        raise InvalidRequest(
            "`user` and `transaction` of the dispute are needed, and an `outcome`: won or lost."
        )
    return {
        "resolved": disputes.resolve(
            asked.db, user_id=user, transaction_id=transaction, outcome=outcome, now=asked.now
        )
    }


def _repair_drift(asked: _Asked) -> dict[str, Any]:
    return {"repairing": comparing.repair(asked.db, user_id=asked.text("user"))}


def _endpoints(asked: _Asked) -> dict[str, Any]:
    return {"endpoints": [_state(each) for each in waiting.endpoints(asked.db)]}


def _state(found: waiting.EventEndpoint) -> dict[str, Any]:
    times = {
        "disabled_at": found.disabled_at,
        "failing_since": found.failing_since,
        "waits_since": found.waits_since,
    }
    return {
        "id": found.id,
        "host": found.host,
        "description": found.description,
        "enabled": found.disabled_at is None,
        "disabled_by": found.disabled_by,
        **{name: at.isoformat() if at else None for name, at in times.items()},
    }


def _enable_endpoint(asked: _Asked) -> dict[str, Any]:
    wanted = endpoints.Change(enabled=True)
    found = endpoints.change(asked.db, _endpoint(asked), wanted, by=asked.by())
    return {"enabled": found.id}


def _redeliver(asked: _Asked) -> dict[str, Any]:
    endpoint, event = _endpoint(asked), asked.text("event")
    start, end = asked.time("from"), asked.time("to")
    if event is not None and start is None and end is None:
        queued = endpoints.redeliver_one(asked.db, endpoint, _uuid(event), by=asked.by())
        return {"queued": queued}
    if event is not None or start is None:
        raise InvalidRequest(
            "The id of an `event` is needed, or the time `from` which on events are sent; `to` may"
            " be the time at which the range ends."
        )
    until = asked.now if end is None else end
    if until <= start:
        raise InvalidRequest("`from` must be before `to`. Without `to`, the range ends now.")
    queued = endpoints.redeliver_range(
        asked.db, endpoint, start, until, by=asked.by(), deadline=asked.deadline
    )
    return {"queued": queued}


def _endpoint(asked: _Asked) -> str:
    endpoint = asked.text("endpoint")
    # The audit trail keeps the id. Another text may be the endpoint's URL, with a secret in it.
    if not endpoint or not re.fullmatch(endpoints.PATTERN, endpoint):
        raise InvalidRequest("The id of the `endpoint` is needed: ep_ and 24 hexadecimal digits.")
    return endpoint


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequest("`event` must be the id of an event.") from error


def _forgive(asked: _Asked) -> dict[str, Any]:
    user, author, note = asked.text("user"), asked.text("author"), asked.text("note")
    debt = asked.command.get("debt")
    if not user or not author or not note or not (debt == "all" or _is_number(debt)):
        raise InvalidRequest(
            '`user` is needed, the number of the `debt` (or "all"), an `author`, and a `note`'
            " that says why."
        )
    forgiven = keeping.forgive(
        asked.db,
        user_id=user,
        debt=None if debt == "all" else debt,
        author=author,
        note=note,
        now=asked.now,
    )
    return {"forgiven": forgiven}


def _refund(asked: _Asked) -> dict[str, Any]:
    transaction, link = asked.text("transaction"), asked.command.get("link")
    if not transaction or not (link is None or _is_number(link)):
        raise InvalidRequest(
            "`transaction` is needed: Commet's id of the payment. `link` may be the number of the"
            " payment link that was paid with it."
        )
    refund = asked.commet().refund(transaction, asked.deadline)
    keeping.note_refund(asked.db, transaction, link, asked.now)
    return {"refund": refund.id, "status": refund.status}


def _adopt(asked: _Asked) -> dict[str, Any]:
    user, customer, author, note = (asked.text(n) for n in ("user", "customer", "author", "note"))
    if not user or not customer or not author or not note:
        raise InvalidRequest(
            "`user` is needed, Commet's id of the `customer` (cus_...), an `author`, and a `note`"
            " that says how you know that the customer is this user."
        )
    is_new = customers.adopt(
        asked.db,
        asked.commet(),
        user_id=user,
        customer_id=customer,
        author=author,
        note=note,
        now=asked.now,
        deadline=asked.deadline,
    )
    return {"adopted": customer, "user": user, "new": is_new}


def _end_sessions(asked: _Asked) -> dict[str, Any]:
    user, _ = _decided(asked)
    return {"ended": sessions.end_all(asked.db, user), "user": user}


def _decided(asked: _Asked) -> tuple[str, str]:
    """Returns the user of a command about an account, and the author of the decision."""
    user, author, note = asked.text("user"), asked.text("author"), asked.text("note")
    if not user or not author or not note:
        raise InvalidRequest(
            "`user` is needed: our user id; an `author`, and a `note` that says why."
        )
    return user, author


def _erase(asked: _Asked) -> dict[str, Any]:
    user, author, note = asked.text("user"), asked.text("author"), asked.text("note")
    if not user or not author or not note:
        raise InvalidRequest(
            "`user` is needed, an `author`, and a `note` that says who asked for the erasure. The"
            " note is not kept."
        )
    erasing.erase(asked.db, user, by=trail.operator(author))
    return {"erased": user}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# The fields of commands that contain an id, a code, a number or a time.
_IDS = (
    *("what", "id", "reason", "transaction", "debt", "link", "customer"),
    *("endpoint", "event", "from", "to"),
)
_REDRIVES: dict[str, Callable[[_Asked], int]] = {
    "webhooks": _redrive_webhooks,
    "deliveries": _redrive_deliveries,
}
_COMMANDS: dict[str, Callable[[_Asked], dict[str, Any]]] = {
    "show": _show,
    "redrive": _redrive,
    "sweep": _sweep,
    "compare": _compare,
    "resolve": _resolve,
    "resolve_dispute": _resolve_dispute,
    "repair_drift": _repair_drift,
    "endpoints": _endpoints,
    "enable_endpoint": _enable_endpoint,
    "redeliver": _redeliver,
    "forgive": _forgive,
    "refund": _refund,
    "adopt": _adopt,
    "end_sessions": _end_sessions,
    "erase": _erase,
}
