"""What `show` finds about a user, as tables of texts.

Each row has all that was found. A column in which no row has a value is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The parts, in the order of local/shown_user.py.
_PARTS = (
    *("user", "subscriptions", "entitlements", "periods", "deliveries", "drift", "payments"),
    *("debts", "debt_links", "webhooks", "outgoing_events", "audit", "contact", "checkout"),
)


@dataclass(frozen=True, slots=True)
class Table:
    """A part of what was found. Without rows it has no columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The parts of what `inspection.of_user` returns."""
    return [_table(name, _rows(found[name])) for name in _PARTS]


def _rows(part: Any) -> list[Mapping[str, Any]]:
    if part is None:
        return []
    return list(part) if isinstance(part, list) else [part]


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    texts = [{key: _text(value) for key, value in row.items()} for row in rows]
    columns = [key for key in texts[0] if any(row[key] for row in texts)] if texts else []
    return Table(
        _named(name),
        [_named(key) for key in columns],
        [[row[key] for key in columns] for row in texts],
    )


def _named(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    """A value as text; "" for none. Times lose their fractions of a second: they are in UTC."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    text = str(value)
    is_time = text[4:5] == "-" and text[10:11] == "T"
    return text[:19].replace("T", " ") if is_time else text
