"""Writes a page of the ledger, or of its sums, as JSON or CSV, in an answer that Lambda can send.

Lambda's answer holds 6 MB. If a page would be larger, it ends earlier, and its cursor continues
after the last entry on it.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlencode

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.openapi.types import OpenAPIResponse

from billing.amounts import format_decimal
from billing.http import api, usage_answers
from billing.usage import ledger, sums
from billing.usage.ledger import Entry
from billing.usage.sums import Sum

T = TypeVar("T")

# Of 6,291,456 bytes. The rest is for the headers, including the cursor.
MAX_BYTES = 6_000_000

COLUMNS = (
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

COLUMNS_OF_SUMS = (
    "day",
    "feature",
    "value",
    "quantity",
    "late",
    "corrected",
    "period_id",
    "period_start",
    "period_end",
    "subscription_id",
    "plan_id",
)

# Signs that begin a formula, with their full-width and small forms, and the minus sign.
# Spreadsheets read some of these like the ASCII signs.
_FORMULA = "[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
# Characters that spreadsheets ignore before a formula: blanks, characters without a width, quotes.
_SKIPPED = "\\s\u200b-\u200f\u2060\ufeff\"'`\u2018-\u201f\u00ab\u00bb"
# In many countries a semicolon separates columns, so a cell also begins after each semicolon.
_CELL_WITH_FORMULA = re.compile(
    f"^(?=[{_SKIPPED};\uff1b]*{_FORMULA})|(?<=[;\uff1b])(?=[{_SKIPPED}]*{_FORMULA})"
)
_FORMULA_IN_JSON = re.compile(f"([;\uff1b][{_SKIPPED}\\\\]*)({_FORMULA})")


def or_csv(
    responses: dict[int, OpenAPIResponse], columns: Sequence[str]
) -> dict[int, OpenAPIResponse]:
    """Returns the answers for the OpenAPI document. The successful one may also be CSV."""
    text = {"type": "string", "examples": [",".join(columns)]}
    responses[200]["content"]["text/csv"] = {"schema": text}
    return responses


def ledger_answer(
    app: APIGatewayHttpResolver, page: ledger.Page, *, form: str | None
) -> Response[Any]:
    """Returns a page of the ledger, in the format that the request asks for.

    `form` is the request's parameter `format`. Without it, the header Accept decides.
    """
    if _wants_csv(app, form):
        text, sent = as_csv(page)
        return _answer(app, text, sent.next_cursor, is_csv=True)
    text, sent = as_json(page)
    return _answer(app, text, sent.next_cursor, is_csv=False)


def sums_answer(app: APIGatewayHttpResolver, page: sums.Page, *, form: str | None) -> Response[Any]:
    """Returns a page of sums, in the format that the request asks for."""
    if _wants_csv(app, form):
        lines = _fitting(page.sums, lambda each: _csv_line(each, COLUMNS_OF_SUMS))
        sent = page if len(lines) == len(page.sums) else page.first(len(lines))
        text = _line(COLUMNS_OF_SUMS) + "".join(lines)
        return _answer(app, text, sent.next_cursor, is_csv=True)
    rows = _fitting(page.sums, lambda each: usage_answers.summed(each).model_dump_json())
    sent = page if len(rows) == len(page.sums) else page.first(len(rows))
    cursor = json.dumps(sent.next_cursor)
    text = f'{{"sums":[{",".join(rows)}],"next_cursor":{cursor}}}'
    return _answer(app, text, sent.next_cursor, is_csv=False)


def as_json(page: ledger.Page) -> tuple[str, ledger.Page]:
    """Returns the page as a JSON document, and the part of the page that fits into it."""
    rows = _fitting(page.entries, lambda entry: usage_answers.entry(entry).model_dump_json())
    part = page if len(rows) == len(page.entries) else page.first(len(rows))
    cursor = json.dumps(part.next_cursor)
    return f'{{"events":[{",".join(rows)}],"next_cursor":{cursor}}}', part


def as_csv(page: ledger.Page) -> tuple[str, ledger.Page]:
    """Returns the page as CSV (RFC 4180) with a header line, and the part of the page that fits.

    An apostrophe is added before text that a spreadsheet would run as a formula. In `properties`,
    which is JSON, the sign that would begin the formula is written as an escape.
    """
    rows = _fitting(page.entries, lambda entry: _csv_line(entry, COLUMNS))
    part = page if len(rows) == len(page.entries) else page.first(len(rows))
    return _line(COLUMNS) + "".join(rows), part


def _wants_csv(app: APIGatewayHttpResolver, form: str | None) -> bool:
    accept = api.headers(app).get("accept", "")
    return form == "csv" or (form is None and accept.split(",")[0].split(";")[0] == "text/csv")


def _answer(
    app: APIGatewayHttpResolver, body: str, cursor: str | None, *, is_csv: bool
) -> Response[Any]:
    headers = {}
    if cursor is not None:
        asked = app.current_event.query_string_parameters | {"cursor": cursor}
        headers["Link"] = f'<{app.current_event.path}?{urlencode(asked)}>; rel="next"'
    content_type = "application/json"
    if is_csv:
        headers["Content-Disposition"] = 'attachment; filename="usage.csv"'
        content_type = "text/csv; charset=utf-8; header=present"
    return Response(200, content_type=content_type, body=body, headers=headers)


def _fitting(found: Sequence[T], write: Callable[[T], str]) -> list[str]:
    """Writes as many of `found` as fit into the answer."""
    rows: list[str] = []
    left = MAX_BYTES
    for each in found:
        row = write(each)
        # The answer is a text within a JSON document: each quote takes another byte there, and a
        # character outside ASCII up to twelve.
        left -= len(json.dumps(row))
        if left < 0:
            break
        rows.append(row)
    return rows


def _csv_line(row: Entry | Sum, columns: Sequence[str]) -> str:
    return _line([_cell(getattr(row, column)) for column in columns])


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
    if isinstance(value, date):
        return _moment(value)
    if isinstance(value, Mapping):
        return _properties(value) if value else ""
    return _CELL_WITH_FORMULA.sub("'", str(value))


def _moment(value: date) -> str:
    """Returns a time in UTC, or a day, as text."""
    if not isinstance(value, datetime):
        return value.isoformat()
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _properties(value: Mapping[str, str]) -> str:
    text = json.dumps(dict(value), ensure_ascii=False)
    return _FORMULA_IN_JSON.sub(lambda found: f"{found[1]}\\u{ord(found[2]):04x}", text)
