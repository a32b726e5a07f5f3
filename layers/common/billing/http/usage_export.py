"""Writes a page of the ledger as JSON or CSV, in an answer that Lambda can send.

Lambda's answer holds 6 MB. A page that would be larger ends earlier, and its cursor goes on after
the last entry that it has.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from billing.amounts import format_decimal
from billing.http import usage_answers
from billing.usage.ledger import Entry, Page

# Of 6,291,456 bytes. The rest is for the headers, with the cursor.
MAX_BYTES = 6_000_000

_COLUMNS = (
    "booked_at",
    "occurred_at",
    "user_id",
    "feature",
    "kind",
    "quantity",
    "idempotency_key",
    "period_id",
    "period_start",
    "period_end",
    "subscription_id",
    "plan_id",
    "late",
    "reason",
    "author",
    "needs_credit",
    "properties",
)

# Signs that begin a formula, with their full-width and small forms, and the minus sign:
# spreadsheets read some of these as if they were ASCII.
_FORMULA = "[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
# Passed over in front of a formula: blanks, characters without a width, quotes.
_SKIPPED = "\\s\u200b-\u200f\u2060\ufeff\"'`\u2018-\u201f\u00ab\u00bb"
# Where a semicolon separates columns, as in many countries, a cell begins after each semicolon.
_CELL_WITH_FORMULA = re.compile(
    f"^(?=[{_SKIPPED};\uff1b]*{_FORMULA})|(?<=[;\uff1b])(?=[{_SKIPPED}]*{_FORMULA})"
)
_FORMULA_IN_JSON = re.compile(f"([;\uff1b][{_SKIPPED}\\\\]*)({_FORMULA})")


def as_json(page: Page) -> tuple[str, Page]:
    """The page as a JSON document, and the part of the page that is in it."""
    rows, part = _fitting(page, lambda entry: usage_answers.entry(entry).model_dump_json())
    cursor = json.dumps(part.next_cursor)
    return f'{{"events":[{",".join(rows)}],"next_cursor":{cursor}}}', part


def as_csv(page: Page) -> tuple[str, Page]:
    """The page as CSV (RFC 4180) with a header line, and the part of the page that is in it.

    An apostrophe stands before text that a spreadsheet would run as a formula. In `properties`,
    which is JSON, the sign that would begin the formula is written as an escape.
    """
    rows, part = _fitting(page, _csv_line)
    return _line(_COLUMNS) + "".join(rows), part


def _fitting(page: Page, write: Callable[[Entry], str]) -> tuple[list[str], Page]:
    rows: list[str] = []
    left = MAX_BYTES
    for entry in page.entries:
        row = write(entry)
        # The answer is a text within a JSON document: each quote takes another byte there, and a
        # character that is not ASCII up to twelve.
        left -= len(json.dumps(row))
        if left < 0:
            return rows, page.first(len(rows))
        rows.append(row)
    return rows, page


def _csv_line(entry: Entry) -> str:
    return _line([_cell(getattr(entry, column)) for column in _COLUMNS])


def _line(cells: list[str] | tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format_decimal(value)  # "-3" is a number, not a formula
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return _properties(value) if value else ""
    return _CELL_WITH_FORMULA.sub("'", str(value))


def _properties(value: Mapping[str, str]) -> str:
    text = json.dumps(dict(value), ensure_ascii=False)
    return _FORMULA_IN_JSON.sub(lambda found: f"{found[1]}\\u{ord(found[2]):04x}", text)
