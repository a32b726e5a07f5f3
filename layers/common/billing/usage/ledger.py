"""Reads the ledger in the order of booking, page by page.

A page starts after the last entry of the previous page. So the time for a page does not depend on
the length of the ledger, and no entry is missing or repeated while others are booked.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest

_sql = Statements(__file__)

MAX_PAGE = 1000

# How many entries a page reads if it filters by feature. Perhaps few of them are of that feature,
# and the page must still be answered in time.
_LOOK_AT = 5000

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the ledger. `kind` is event, confirm (of a reservation) or correction.

    `period_id`, `period_start` and `period_end` name the allowance period in which the entry was
    booked. `subscription_id` and `plan_id` are those of that period. A plan change opens another
    period, even on the same day. `late` is true if the usage occurred before the period.
    """

    user_id: str
    idempotency_key: str
    kind: str
    feature: str
    quantity: Decimal
    occurred_at: datetime
    booked_at: datetime
    period_id: str
    period_start: datetime
    period_end: datetime
    subscription_id: str
    plan_id: str | None
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
    feature: str = ""

    def moved_to(self, entry: Entry) -> "_Cursor":
        last = (entry.booked_at, entry.user_id, entry.idempotency_key, entry.feature)
        return _Cursor(self.until, *last)

    def write(self) -> str:
        times = [self.until.isoformat(), self.booked_at.isoformat()]
        fields = [*times, self.user_id, self.key, self.feature]
        # Characters outside ASCII are not escaped, because a long key of such characters would make
        # the cursor too long for a URL.
        text = json.dumps(fields, ensure_ascii=False)
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @staticmethod
    def read(text: str) -> "_Cursor":
        """The cursor that `write` turned into `text`. Raises InvalidRequest for any other text."""
        try:
            padded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            until, booked_at, *entry = map(str, json.loads(padded))
            user_id, key, feature = map(_storable, entry)
            found = _Cursor(_time(until), _time(booked_at), user_id, key, feature)
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
    start: _Cursor

    def first(self, count: int) -> "Page":
        """Returns a page of the first `count` entries, at least one. The next page starts after
        them.
        """
        last = self.entries[count - 1]
        return Page(self.entries[:count], self.start.moved_to(last).write(), self.start)


def page(
    db: Database, query: Query, *, cursor: str | None = None, limit: int = 100, now: datetime
) -> Page:
    """Returns the first page, or the page that `cursor` leads to. `limit` is MAX_PAGE at most.

    All pages end at the time of the first page, so entries that are booked later are on none of
    them. Raises InvalidRequest for a cursor that no page returned.
    """
    start = _first(query, now) if cursor is None else _Cursor.read(cursor)
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
            "after_feature": start.feature,
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
        next_cursor=start.moved_to(_entry(last)).write() if last else None,
        start=start,
    )


def entries_of_key(db: Database, user_id: str, key: str, query: Query, *, now: datetime) -> Page:
    """Returns the entries of a user with one idempotency key on one page, at most one per feature.

    If the entry of the key was pruned, the page is empty.
    """
    start = _first(query, now)
    values = {
        "user_id": user_id,
        "key": key,
        "feature": query.feature,
        "since": query.since or _BEGINNING,
        "until": start.until,
    }
    rows = db.all(_sql["entries_of_key"], values)
    return Page(entries=[_entry(row) for row in rows], next_cursor=None, start=start)


def _first(query: Query, now: datetime) -> _Cursor:
    until = now + timedelta(microseconds=1)  # includes entries booked at `now`
    return _Cursor(until if query.until is None else min(until, query.until))


def _entry(row: Row) -> Entry:
    return Entry(
        user_id=row["user_id"],
        idempotency_key=row["idempotency_key"],
        kind=row["kind"],
        feature=row["feature"],
        quantity=row["quantity"],
        occurred_at=row["occurred_at"],
        booked_at=row["booked_at"],
        period_id=str(row["period"]),
        period_start=row["period_start"],
        period_end=row["period_end"],
        subscription_id=row["subscription_id"],
        plan_id=row["plan_id"],
        late=row["late"],
        reason=row["reason"],
        author=row["author"],
        needs_credit=row["needs_credit"],
        properties=row["properties"] or {},
    )
