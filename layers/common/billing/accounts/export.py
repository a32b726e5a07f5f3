"""Exports everything recorded about one user, as one JSON document.

The document has a section for each kind of row. A large account takes several pages, in the order
of the sections. Each page continues where the last one ended, and together the pages are the
document.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from billing.accounts.limits import Limit, Turn
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest

_sql = Statements(__file__)

# Lambda's answers have at most 6 MB. The JSON around the rows, and one row too many, fit into the
# rest.
MAX_BYTES = 4_000_000
_AT_ONCE = 100
# How many pages of one user may be read. A page costs some megabytes and dozens of statements.
PAGES = Limit(100, timedelta(hours=1))
_KEYS = 3
# The parameters that a statement reads as numbers, and how a number is written.
_READ_AS_NUMBER = re.compile(r"%\((after\d)\)s, ''\)::bigint")
_NUMBER = re.compile(r"-?[0-9]{1,18}")

# For each section, its statement and the number of columns that make its position.
SECTIONS: dict[str, tuple[str, int]] = {
    "account": (_sql["account"], 1),
    "password": (_sql["password"], 1),
    "networks": (_sql["networks"], 1),
    "identities": (_sql["identities"], 1),
    "sessions": (_sql["sessions"], 1),
    "links_in_mails": (_sql["links_in_mails"], 1),
    "mails": (_sql["mails"], 1),
    "mail_preferences": (_sql["mail_preferences"], 1),
    "customer": (_sql["customer"], 1),
    "contact_changes": (_sql["contact_changes"], 1),
    "subscriptions": (_sql["subscriptions"], 1),
    "features": (_sql["features"], 1),
    "checkouts": (_sql["checkouts"], 1),
    "plan_changes": (_sql["plan_changes"], 1),
    "periods": (_sql["periods"], 1),
    "totals": (_sql["totals"], 2),
    "days": (_sql["days"], 3),
    "ledger": (_sql["ledger"], 2),
    "thresholds": (_sql["thresholds"], 1),
    "thresholds_reached": (_sql["thresholds_reached"], 3),
    "credits": (_sql["credits"], 2),
    "reservations": (_sql["reservations"], 1),
    "deliveries": (_sql["deliveries"], 3),
    "differing_totals": (_sql["differing_totals"], 2),
    "payments": (_sql["payments"], 2),
    "debts": (_sql["debts"], 1),
    "payment_links": (_sql["payment_links"], 1),
    "webhooks": (_sql["webhooks"], 1),
    "alarms": (_sql["alarms"], 2),
    "audit": (_sql["audit"], 1),
    "events": (_sql["events"], 1),
}


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the document: rows by section. `next_cursor` is None on the last page."""

    sections: dict[str, list[dict[str, Any]]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Position:
    section: str
    key: tuple[str, ...] = ("",) * _KEYS

    def write(self) -> str:
        text = json.dumps([self.section, *self.key], ensure_ascii=False)
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @staticmethod
    def read(text: str) -> "_Position":
        try:
            padded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            section, *key = json.loads(padded)
            found = _Position(section, tuple(key))
            known = found.section in SECTIONS and len(key) == _KEYS
            storable = all(isinstance(k, str) and b"\0" not in k.encode() for k in key)
        except (ValueError, TypeError, binascii.Error, RecursionError):
            known = storable = False
        if not (known and storable and found._has_numbers()):
            raise InvalidRequest(
                errors=[
                    FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")
                ]
            )
        return found

    def after(self) -> dict[str, str]:
        """The parameters of the section's statement."""
        _, keys = SECTIONS[self.section]
        return {f"after{n}": value for n, value in enumerate(self.key[:keys], 1)}

    def _has_numbers(self) -> bool:
        """Returns whether there is a number, or nothing, where the statement reads a number.

        Postgres would refuse a text only sometimes: with a plan for all values, it reads a
        parameter only when it compares a row with it.
        """
        statement, _ = SECTIONS[self.section]
        after = self.after()
        numbers = [after[name] for name in _READ_AS_NUMBER.findall(statement)]
        return all(not number or _NUMBER.fullmatch(number) for number in numbers)


def page(db: Database, user_id: str, *, now: datetime, cursor: str | None = None) -> Page:
    """Returns a page of the export of a user.

    Raises InvalidRequest for a cursor that no page returned, and TooManyRequests if the pages of
    this hour are used up.
    """
    start = _Position.read(cursor) if cursor else _Position(next(iter(SECTIONS)))
    Turn(db, f"export:{user_id}", PAGES, now).take()
    names = list(SECTIONS)
    sections: dict[str, list[dict[str, Any]]] = {}
    size = 0
    for name in names[names.index(start.section) :]:
        position = start if name == start.section else _Position(name)
        rows = sections.setdefault(name, [])
        while found := _rows(db, user_id, position):
            for row in found:
                rows.append(_plain(row["row"]))
                size += len(json.dumps(rows[-1]))
                position = _Position(name, _padded(row["key"]))
                if size >= MAX_BYTES:
                    return Page(sections, position.write())
            if len(found) < _AT_ONCE:
                break
    return Page(sections, None)


def _rows(db: Database, user_id: str, position: _Position) -> list[dict[str, Any]]:
    statement, _ = SECTIONS[position.section]
    return db.all(statement, {"user_id": user_id, "limit": _AT_ONCE, **position.after()})


def _padded(key: list[str]) -> tuple[str, ...]:
    return (*key, *("",) * (_KEYS - len(key)))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the row with a webhook's bytes decoded as text."""
    payload = row.get("payload")
    if isinstance(payload, str) and payload.startswith("\\x"):
        row["payload"] = bytes.fromhex(payload[2:]).decode("utf-8", "replace")
    return row
