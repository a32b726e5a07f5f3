"""One user's ledger in sums: by day, by the values of a property, or by both.

The days are those of the dashboard. So the sums of one period add up to the `used` of the
dashboard, less the quantity that was carried into the period.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import FieldError, InvalidRequest

_sql = Statements(__file__)

# How many entries sums by a property may read. On a busy machine, Postgres took 0.5 s for half a
# million entries with seven values, and 3 s if each entry had its own value. A statement is ended
# after five seconds. An index by the time of use would read fewer entries, but would slow down
# every event.
MOST_ENTRIES = 250_000

# An entry that was booked this long before a day cannot count on that day, because usage may be
# dated at most five minutes ahead. A day is more than enough for clocks that differ.
_AHEAD = timedelta(days=1)

# no entry is older, and subtracting a day does not overflow
_DAWN = datetime(1970, 1, 1, tzinfo=UTC)

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_FIRST_DAY = date(1, 1, 1)
_LAST_DAY = date(9999, 12, 31)


@dataclass(frozen=True, slots=True)
class Query:
    """Selects the sums of one feature or all features, of the UTC days in [since, until).

    Without `prop`, the name of a property, the sums are by day. With it they are by the property's
    values, and also by day if `by_day` is true.
    """

    feature: str | None = None
    since: date | None = None
    until: date | None = None
    prop: str | None = None
    by_day: bool = True


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum of the entries of one period. `late` and `corrected` are parts of `quantity`.

    `day` is None in sums that are not by day. `value` is None for entries without the property, and
    in sums that are not by a property.
    """

    day: date | None
    feature: str
    value: str | None
    quantity: Decimal
    late: Decimal
    corrected: Decimal
    period_id: str
    period_start: datetime
    period_end: datetime
    subscription_id: str
    plan_id: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some sums, by period, day, feature and value. `next_cursor` is None on the last page only."""

    sums: Sequence[Sum]
    next_cursor: str | None

    def first(self, count: int) -> "Page":
        """Returns a page of the first `count` sums, at least one. The next page follows them."""
        return Page(self.sums[:count], _Cursor.after(self.sums[count - 1]).write())


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A position among the sums: after the sum with these fields."""

    start: datetime = _BEGINNING
    period: int = -1
    day: date | None = None
    feature: str = ""
    value: str | None = ""

    @staticmethod
    def after(last: Sum) -> "_Cursor":
        return _Cursor(last.period_start, int(last.period_id), last.day, last.feature, last.value)

    def write(self) -> str:
        day = self.day and self.day.isoformat()
        fields = [self.start.isoformat(), self.period, day, self.feature, self.value]
        text = json.dumps(fields, ensure_ascii=False)
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @staticmethod
    def read(text: str) -> "_Cursor":
        """The cursor that `write` turned into `text`. Raises InvalidRequest for any other text."""
        try:
            padded = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
            start, period, day, feature, value = json.loads(padded)
            return _Cursor(
                datetime.fromisoformat(start).astimezone(UTC),
                _bigint(period),
                None if day is None else date.fromisoformat(day),
                _storable(feature),
                None if value is None else _storable(value),
            )
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidRequest(
                errors=[
                    FieldError("cursor", "invalid_cursor", "Send a next_cursor value unchanged.")
                ]
            ) from None


def page(
    db: Database, user_id: str, query: Query, *, cursor: str | None = None, limit: int = 100
) -> Page:
    """Returns the first page, or the page that `cursor` leads to.

    Usage that is booked between two pages counts on the pages that are read afterwards. Raises
    InvalidRequest for a cursor that no page returned, and `too_many_entries` if sums by a property
    would read more than MOST_ENTRIES.
    """
    start = _Cursor() if cursor is None else _Cursor.read(cursor)
    values = {
        "user_id": user_id,
        "feature": query.feature,
        "since": query.since or _FIRST_DAY,
        "until": query.until or _LAST_DAY,
        "after_start": start.start,
        "after_period": start.period,
        "after_day": start.day or "-infinity",
        "after_feature": start.feature,
        "limit": limit + 1,
    }
    if query.prop is None:
        rows = db.all(_sql["by_day"], values)
    else:
        rows = db.all(_sql["by_property"], values | _of_property(query, start))
        if rows and rows[0]["looked_at"] > MOST_ENTRIES:
            raise _too_many()
        rows = [row for row in rows if row["is_row"]]
    found = Page([_sum(row) for row in rows], None)
    return found if len(rows) <= limit else found.first(limit)


def _of_property(query: Query, start: _Cursor) -> dict[str, object]:
    since = datetime.combine(query.since or _FIRST_DAY, time(), UTC)
    return {
        "property": query.prop,
        "by_day": query.by_day,
        "booked_since": max(since, _DAWN) - _AHEAD,
        "after_none": start.value is None,
        "after_value": start.value or "",
        "most": MOST_ENTRIES,
    }


def _too_many() -> InvalidRequest:
    fewer = (
        f"Sums by a property read {MOST_ENTRIES:,} entries at most. Ask for later days, or add up"
        " the entries themselves."
    )
    return InvalidRequest(errors=[FieldError("from", "too_many_entries", fewer)])


def _bigint(number: object) -> int:
    if not isinstance(number, int) or not -1 <= number < 2**63:
        raise ValueError("no id")
    return number


def _storable(text: object) -> str:
    if not isinstance(text, str) or b"\0" in text.encode():
        raise ValueError("not storable")
    return text


def _sum(row: Row) -> Sum:
    return Sum(
        day=row["day"],
        feature=row["feature"],
        value=row["value"],
        quantity=row["quantity"],
        late=row["late"],
        corrected=row["corrected"],
        period_id=str(row["period"]),
        period_start=row["period_start"],
        period_end=row["period_end"],
        subscription_id=row["subscription_id"],
        plan_id=row["plan_id"],
    )
