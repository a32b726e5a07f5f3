"""Reads the ledger in the order of booking, page by page.

A page starts after the last entry of the page before. So a page costs the same however long the
ledger is, and no entry is missing or repeated while more are booked.
"""

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.amounts import format_decimal
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest

_sql = Statements(__file__)

MAX_PAGE = 1000

# How many entries a page looks at if it filters by feature. Few of them may be of that feature, and
# the page must still be answered in time.
_LOOK_AT = 5000

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_COLUMNS = (
    "booked_at",
    "occurred_at",
    "user_id",
    "feature",
    "kind",
    "quantity",
    "idempotency_key",
    "period_start",
    "period_end",
    "late",
    "reason",
    "author",
    "needs_credit",
    "properties",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the ledger. `kind` is event, confirm (of a reservation) or correction.

    `period_start` and `period_end` are of the allowance period that the entry was booked in. `late`
    is true if the usage occurred before that period.
    """

    user_id: str
    idempotency_key: str
    kind: str
    feature: str
    quantity: Decimal
    occurred_at: datetime
    booked_at: datetime
    period_start: datetime
    period_end: datetime
    late: bool
    reason: str | None
    author: str | None
    needs_credit: bool
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries to read: of one user or all, one feature or all, booked in [since, until)."""

    user_id: str | None = None
    feature: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A position in the ledger: after the entry with these fields. Reading ends before `until`."""

    until: datetime
    booked_at: datetime = _BEGINNING
    user_id: str = ""
    key: str = ""

    def moved_to(self, row: Row) -> "_Cursor":
        return _Cursor(self.until, row["booked_at"], row["user_id"], row["idempotency_key"])

    def write(self) -> str:
        fields = [self.until.isoformat(), self.booked_at.isoformat(), self.user_id, self.key]
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")

    @staticmethod
    def read(text: str) -> "_Cursor":
        """The cursor that `write` turned into `text`. Raises InvalidRequest for any other text."""
        try:
            padded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            until, booked_at, user_id, key = map(str, json.loads(padded))
            found = _Cursor(_time(until), _time(booked_at), _storable(user_id), _storable(key))
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidRequest(
                errors=[
                    FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")
                ]
            ) from None
        return found


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _storable(text: str) -> str:
    if b"\0" in text.encode():
        raise ValueError("not storable")
    return text


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries in the order of booking. `next_cursor` is None on the last page only.

    An earlier page may have fewer entries than `limit`, even none.
    """

    entries: Sequence[Entry]
    next_cursor: str | None


def page(
    db: Database, query: Query, *, cursor: str | None = None, limit: int = 100, now: datetime
) -> Page:
    """The first page, or the page that `cursor` leads to. `limit` is MAX_PAGE at most.

    The pages end at the time of the first one: entries booked later are not part of them. Raises
    InvalidRequest for a cursor that no page returned.
    """
    if cursor is not None:
        start = _Cursor.read(cursor)
    else:
        until = now + timedelta(microseconds=1)  # includes what was booked at `now`
        start = _Cursor(until if query.until is None else min(until, query.until))
    look_at = limit + 1 if query.feature is None else max(_LOOK_AT, limit + 1)
    rows = db.all(
        _sql["page_of_all"] if query.user_id is None else _sql["page_of_user"],
        {
            "user_id": query.user_id,
            "feature": query.feature,
            "since": max(query.since or _BEGINNING, start.booked_at),
            "until": start.until,
            "after_time": start.booked_at,
            "after_user": start.user_id,
            "after_key": start.key,
            "look_at": look_at,
            "limit": limit + 1,
        },
    )
    found = [row for row in rows if row["wanted"]]
    last = None
    if len(found) > limit:
        last = found[limit - 1]
    elif rows and rows[-1]["position"] == look_at:
        last = rows[-1]
    return Page(
        entries=[_entry(row) for row in found[:limit]],
        next_cursor=start.moved_to(last).write() if last else None,
    )


def to_csv(entries: Iterable[Entry]) -> str:
    """The entries as CSV (RFC 4180) with a header line.

    Text that a spreadsheet would run as a formula begins with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for entry in entries:
        writer.writerow([_cell(getattr(entry, column)) for column in _COLUMNS])
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format_decimal(value)  # "-3" is a number, not a formula
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False) if value else ""
    plain = str(value)
    return f"'{plain}" if plain.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else plain


def _entry(row: Row) -> Entry:
    return Entry(
        user_id=row["user_id"],
        idempotency_key=row["idempotency_key"],
        kind=row["kind"],
        feature=row["feature"],
        quantity=row["quantity"],
        occurred_at=row["occurred_at"],
        booked_at=row["booked_at"],
        period_start=row["period_start"],
        period_end=row["period_end"],
        late=row["late"],
        reason=row["reason"],
        author=row["author"],
        needs_credit=row["needs_credit"],
        properties=row["properties"] or {},
    )
