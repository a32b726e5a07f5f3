"""Prints what `show` found about a user, for a person and in 80 columns.

Ids and codes are never broken, because people copy and type them. If a row does not fit on a line,
it continues on the next one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

_WIDEST = 100
_INDENT = 2

_COLOURS = {
    "active": "green", "trialing": "green", "applied": "green", "past_due": "yellow",
    "paused": "yellow", "failed": "yellow", "pending": "yellow", "dead": "red", "parked": "red",
    "canceled": "dim", "ignored": "dim",
}  # fmt: skip

_SUBSCRIPTION = (
    "plan_name", "billing_interval", "period_start", "period_end", "cancel_at_period_end",
    "scheduled_change", "trial_ends_at", "created_at", "changed_at", "confirmed_at", "checked_at",
    "refresh_due", "recheck_at", "version",
)  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """How the rows of one part are shown: first these fields without names, then the others
    with names.
    """

    bare: Sequence[str]
    named: Sequence[str]


_PARTS = {
    "entitlements": _Part(
        ("feature",),
        ("allowed", "included", "unlimited", "overage_enabled", "unit_price", "currency"),
    ),
    "periods": _Part(("id",), ("starts_at", "ends_at", "closed_at", "usage")),
    "deliveries": _Part(
        ("event_id", "state"), ("reason", "quantity", "attempts", "due_at", "amount", "currency")
    ),
    "drift": _Part(
        ("feature",), ("period", "ours", "theirs", "found_at", "checked_at", "repair", "reason")
    ),
    "payments": _Part(
        ("kind", "about"),
        ("amount", "currency", "reason", "opened_at", "resolved_at", "outcome", "recovery_url"),
    ),
    "debts": _Part(
        ("id", "kind"), ("source", "amount", "currency", "opened_at", "ended_at", "ended_by")
    ),
    "debt_links": _Part(
        ("id", "state"), ("debts", "total", "currency", "transaction_id", "overpaid")
    ),
    "webhooks": _Part(("occurred_at", "status", "id"), ("type", "error")),
    "outgoing_events": _Part(("occurred_at", "type"), ("id", "data", "waiting", "failed")),
    "audit": _Part(("at", "action", "outcome"), ("actor_kind", "actor", "note")),
}


def draw(console: Console, found: Mapping[str, Any]) -> None:
    """Prints one user's state."""
    user = found["user"]
    _print(console, [Text(user["id"], "bold"), Text(user["email"] or "no email address")])
    if user["own_account"]:
        verified = _text(user["verified_at"]) if user["verified_at"] else "not verified"
        _print(console, [Text(f"signed up here, {verified}")])
    if user["same_address"]:
        _print(console, map(Text, ["others with this address:", *user["same_address"]]))
    _print(console, [Text("Commet's customer:"), Text(user["commet_customer_id"] or "none yet")])
    _print(console, [Text(f"now {_text(found['now'])}", "dim")])
    for subscription in found["subscriptions"]:
        _subscription(console, subscription)
    for title, part in _PARTS.items():
        _rows(console, title, part, found[title])
    for title in ("contact", "checkout"):
        if row := found[title]:
            _rows(console, title, _Part((), tuple(row)), [row])
    _print(console, [Text("\nreconcile will do", "bold")])
    for sentence in found["would_do"]:
        _print(console, [Text(sentence)], indent=_INDENT)


def _subscription(console: Console, row: Mapping[str, Any]) -> None:
    current = [Text("(current)", "dim")] if row["current"] else []
    heading = [Text("\nsubscription", "bold"), Text(row["id"]), _cell(row["status"]), *current]
    _print(console, heading)
    for name in _SUBSCRIPTION:
        if row[name] is not None:
            label = Text(f"{name.replace('_', ' '):22}", "dim")
            _print(console, [label, _cell(row[name])], indent=_INDENT)


def _rows(console: Console, title: str, part: _Part, rows: Sequence[Mapping[str, Any]]) -> None:
    none = [] if rows else [Text("none", "dim")]
    _print(console, [Text(f"\n{title.replace('_', ' ')}", "bold"), *none])
    for row in rows:
        _print(console, _pieces(part, row), indent=_INDENT)


def _pieces(part: _Part, row: Mapping[str, Any]) -> Iterator[Text]:
    """The fields of a row. Fields without a value are left out."""
    for name in part.bare:
        yield _cell(row[name])
    for name in part.named:
        if name == "allowed" or row[name] not in (None, False, {}, []):
            yield Text.assemble((name.replace("_", " "), "dim"), " ", _cell(row[name]))


def _print(console: Console, pieces: Iterable[Text], *, indent: int = 0) -> None:
    """Prints pieces on as many lines as they need.

    A piece is broken only if it is longer than a line, and only at its spaces.
    """
    width = min(console.width, _WIDEST)
    line = Text(" " * indent)
    gap, is_empty = "", True
    for piece in pieces:
        whole = indent + 2 * _INDENT + piece.cell_len <= width
        for word in [piece] if whole else piece.split(" "):
            if not is_empty and line.cell_len + len(gap) + word.cell_len > width:
                console.print(line, soft_wrap=True)
                line, is_empty = Text(" " * (indent + 2 * _INDENT)), True
            line.append_text(Text("" if is_empty else gap)).append_text(word)
            gap, is_empty = " ", False
        gap = "  "
    console.print(line, soft_wrap=True)


def _cell(value: Any) -> Text:
    text = _text(value)
    return Text(text, _COLOURS.get(text, ""))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_usage(each)}" for key, each in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    text = str(value)
    return text[:19].replace("T", " ") if text[4:5] == "-" and text[10:11] == "T" else text


def _usage(totals: Any) -> str:
    if not isinstance(totals, dict) or "claimed" not in totals:
        return _text(totals)
    return f"{totals['total']} (claimed {totals['claimed']})"
