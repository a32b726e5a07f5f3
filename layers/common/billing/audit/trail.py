"""The audit trail: who did what to which account.

An act in the database and its entry are written by one statement: it calls the routine `audit` with
the result of `entry`. For acts at Commet, and for sign-ins that fail, `write` runs a statement of
its own. Entries hold ids, codes and flags. Only the notes of operators may hold personal data.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal
from uuid import UUID, uuid4, uuid5

from psycopg.types.json import Jsonb

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest

_sql = Statements(__file__)

DONE = "done"

_KEY_USES = UUID("6f0c3c1e-6f0e-4b3f-9d57-0d2f2f4f2a11")


class Action(StrEnum):
    """What was done."""

    SIGNED_UP = "account.signed_up"
    SIGNED_IN = "account.signed_in"
    SIGNED_OUT = "account.signed_out"
    REGISTERED = "account.registered"  # by a product or an identity provider
    CHANGED = "account.changed"
    EXPORTED = "account.exported"
    ERASURE_ASKED = "account.erasure_asked"
    ERASED = "account.erased"  # the second step: given ids and texts are replaced
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - an action
    RESET_ASKED = "password.reset_asked"
    PASSWORD_RESET = "password.reset"  # noqa: S105 - an action
    VERIFICATION_SENT = "email.verification_sent"
    EMAIL_VERIFIED = "email.verified"
    EMAIL_CHANGE_ASKED = "email.change_asked"
    EMAIL_CHANGED = "email.changed"
    MAILS_CHANGED = "account.mails_changed"
    SESSION_ENDED = "sessions.ended"
    KEY_USED = "service_key.used"
    CHECKOUT = "billing.checkout"
    PLAN_CHANGED = "billing.plan_changed"
    CANCELED = "billing.canceled"
    KEPT = "billing.kept"
    PORTAL = "billing.portal_opened"
    RECOVERY = "billing.recovery_opened"
    LIMIT_CHANGED = "billing.spend_limit_changed"
    ENDPOINT_ADDED = "event_endpoint.added"
    ENDPOINT_CHANGED = "event_endpoint.changed"
    ENDPOINT_ROTATED = "event_endpoint.secret_rotated"
    ENDPOINT_DELETED = "event_endpoint.deleted"
    EVENTS_REDELIVERED = "event_endpoint.events_redelivered"
    COMMAND = "operator.command"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which request.

    `id` is a user's id, a service key's name or an operator's author. A `user` without an id is
    just signing in or up. `network` is a part of the client's address (`network_of`). `note` says
    why an operator acts. Operators read it; `page` leaves it out.
    """

    kind: Literal["user", "service", "operator", "system"]
    id: str | None = None
    request_id: str | None = None
    network: str | None = None
    note: str | None = None


SOMEBODY = Actor("user")
SYSTEM = Actor("system")


def operator(author: str | None, note: str | None = None) -> Actor:
    """Returns the operator who gave a command, and why."""
    return Actor("operator", author, note=note)


def network_of(address: str) -> str | None:
    """Returns the part of an IP address to store: IPv4's /24, IPv6's /48; None for other text."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    bits = 48 if isinstance(ip, IPv6Address) else 24
    return str(ip_network((int(ip) if ip.version == 4 else ip.packed, bits), strict=False))


def entry(
    by: Actor, action: Action, /, *, outcome: str = DONE, **details: str | int | bool
) -> Jsonb:
    """Returns an entry for the routine `audit(user, entry)`. `outcome`: `done`, or a refusal's
    code.
    """
    return _entry(uuid4(), by, action, outcome, details)


def write(
    db: Database,
    by: Actor,
    action: Action,
    /,
    *,
    user_id: str | None,
    outcome: str = DONE,
    **details: str | int | bool,
) -> None:
    """Writes one entry about a user. `user_id` is None if the user is not known."""
    _write(db, user_id, entry(by, action, outcome=outcome, **details))


class KeyUses:
    """Records the first use of each service key on each day, by scope.

    Each environment writes once for each, and the database stores only one of these entries.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._noted: set[tuple[str, str, str]] = set()

    def note(self, name: str, scope: str, request_id: str, now: datetime) -> None:
        """Records that the key `name` was used for `scope`."""
        use = (name, scope, now.date().isoformat())
        if use in self._noted:
            return
        by = Actor("service", name, request_id)
        _write(self._db, None, _entry(_id_of(use), by, Action.KEY_USED, DONE, {"scope": scope}))
        self._noted.add(use)


def last_uses(
    db: Database, keys: Iterable[tuple[str, Iterable[str]]], *, now: datetime, days: int
) -> dict[str, datetime]:
    """Returns when each service key was last used, by name.

    This is the time of its first use on the last day on which it was used. `keys` are names with
    their scopes. A key that was not used for `days` days is left out.
    """
    dates = [(now - timedelta(days=ago)).date().isoformat() for ago in range(days)]
    ids = [
        _id_of((name, scope, date)) for name, scopes in keys for scope in scopes for date in dates
    ]
    return {row["actor"]: row["at"] for row in db.all(_sql["last_uses"], {"ids": ids})}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the trail."""

    at: datetime
    actor_kind: str
    actor: str | None
    action: str
    outcome: str
    request_id: str | None
    network: str | None
    details: Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, newest first. `next_cursor` is None on the last page."""

    entries: Sequence[Entry]
    next_cursor: str | None


def page(db: Database, user_id: str, *, cursor: str | None, limit: int) -> Page:
    """Returns entries about a user, newest first. Raises InvalidRequest for an unknown cursor."""
    at, entry_id = _read_cursor(cursor) if cursor else (None, None)
    rows = db.all(_sql["page"], {"user_id": user_id, "at": at, "id": entry_id, "limit": limit + 1})
    shown = rows[:limit]
    more = len(rows) > limit
    return Page([_read(row) for row in shown], _cursor(shown[-1]) if more else None)


def prune(db: Database, age: timedelta, limit: int) -> int:
    """Deletes entries older than `age`, `limit` at most. Returns how many."""
    return int(db.value(_sql["prune"], {"age": age, "limit": limit}) or 0)


def _write(db: Database, user_id: str | None, written: Jsonb) -> None:
    db.execute(_sql["write"], {"user_id": user_id, "entry": written})


def _id_of(use: tuple[str, str, str]) -> UUID:
    """Returns the id of the entry about a key's first use on a day: from name, scope and date."""
    return uuid5(_KEY_USES, "\n".join(use))


def _entry(
    entry_id: UUID,
    by: Actor,
    action: Action,
    outcome: str,
    details: Mapping[str, str | int | bool],
) -> Jsonb:
    return Jsonb(
        {
            "id": str(entry_id),
            "actor_kind": by.kind,
            "actor": by.id,
            "action": action.value,
            "outcome": outcome,
            "request_id": by.request_id,
            "network": by.network,
            "details": dict(details),
            "note": by.note,
        }
    )


def _read(row: Row) -> Entry:
    return Entry(
        row["at"],
        row["actor_kind"],
        row["actor"],
        row["action"],
        row["outcome"],
        row["request_id"],
        row["network"],
        row["details"],
    )


def _cursor(row: Row) -> str:
    text = json.dumps([row["at"].isoformat(), str(row["id"])])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[datetime, UUID]:
    try:
        padded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        at, entry_id = json.loads(padded)
        return datetime.fromisoformat(at).astimezone(UTC), UUID(entry_id)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error, RecursionError):
        raise InvalidRequest(
            errors=[FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")]
        ) from None
