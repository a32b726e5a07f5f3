"""The commands that an operator can give to `reconcile`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from billing.accounts import erasing, sessions
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.debts import keeping
from billing.delivery import comparing, outbox
from billing.errors import BillingError, InvalidRequest
from billing.operations import inspection, sweep
from billing.payments import disputes
from billing.subscriptions import customers, inbox

Command = Mapping[str, Any]

_LONGEST = 2000


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
    by = trail.operator(asked.text("author"), asked.text("note"))
    outcome = trail.DONE
    try:
        return run(asked)
    except BillingError as error:
        outcome = error.code
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


# The fields of commands that contain an id, a code or a number.
_IDS = ("what", "id", "reason", "transaction", "debt", "link", "customer")
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
    "forgive": _forgive,
    "refund": _refund,
    "adopt": _adopt,
    "end_sessions": _end_sessions,
    "erase": _erase,
}
