"""An operator's commands for the running local stack: show a user, redrive, sweep.

The same invocations work in AWS (docs/operations.md). This module finds the stack that runs here,
invokes `reconcile` and prints the answer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from local.state import shown

_FUNCTION = "ReconcileFunction"
_SECONDS = 60

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

_COLUMNS = {
    "entitlements": ("feature", "allowed", "included", "unlimited", "overage_enabled",
                     "unit_price"),
    "periods": ("id", "starts_at", "ends_at", "closed_at", "usage"),
    "deliveries": ("event_id", "state", "reason", "quantity", "attempts", "due_at"),
    "debts": ("id", "kind", "source", "amount", "currency", "opened_at", "ended_by"),
    "debt_links": ("id", "state", "debts", "total", "currency", "transaction_id", "overpaid"),
    "webhooks": ("occurred_at", "type", "status", "id", "error"),
    "audit": ("at", "actor_kind", "actor", "action", "outcome"),
}  # fmt: skip

_WHOLE = {"id", "event_id", "status", "state"}  # never wrapped, because people copy them


class OperateError(Exception):
    """No stack runs here, or it refused the command."""


def ask(data_dir: Path, command: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `reconcile` to a command. `data_dir` is the running stack's directory.

    Raises OperateError.
    """
    stack = shown(data_dir)
    if stack is None:
        raise OperateError("No stack runs here. Start one in another terminal: make run")
    url = f"{stack['lambda']}/2015-03-31/functions/{_FUNCTION}/invocations"
    try:
        reply = httpx.post(url, json=dict(command), timeout=_SECONDS, trust_env=False)
        answer: dict[str, Any] = reply.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise OperateError(f"The stack does not answer: {error}") from error
    if "x-amz-function-error" in reply.headers:
        raise OperateError(str(answer.get("errorMessage")))
    return answer


def draw(console: Console, found: Mapping[str, Any]) -> None:
    """Prints one user's state for a person to read."""
    user = found["user"]
    console.print(f"[bold]{escape(user['id'])}[/]  {escape(user['email'] or 'no email address')}")
    if user["own_account"]:
        verified = _text(user["verified_at"]) if user["verified_at"] else "not verified"
        console.print(f"signed up here, {verified}")
    if user["same_address"]:
        console.print(f"others with this address: {', '.join(map(escape, user['same_address']))}")
    console.print(f"Commet's customer: {user['commet_customer_id'] or 'none yet'}")
    console.print(f"[dim]now {_text(found['now'])}[/]\n")
    for subscription in found["subscriptions"]:
        _subscription(console, subscription)
    for part, columns in _COLUMNS.items():
        _table(console, part, columns, found[part])
    if found["contact"]:
        _table(console, "contact", tuple(found["contact"]), [found["contact"]])
    if found["checkout"]:
        _table(console, "checkout", tuple(found["checkout"]), [found["checkout"]])
    console.print("[bold]reconcile will do[/]")
    for sentence in found["would_do"]:
        console.print(f"  {escape(sentence)}")


def _subscription(console: Console, row: Mapping[str, Any]) -> None:
    current = "  [dim](current)[/]" if row["current"] else ""
    console.print(f"[bold]subscription[/] {escape(row['id'])}  {_cell(row['status'])}{current}")
    for name in _SUBSCRIPTION:
        if row[name] is not None:
            console.print(f"  [dim]{name.replace('_', ' '):22}[/]{_cell(row[name])}")
    console.print()


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    if not rows:
        console.print(f"[bold]{title}[/]  [dim]none[/]\n")
        return
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column.replace("_", " "), header_style="dim", overflow="fold", no_wrap=column in _WHOLE
        )
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in columns))
    console.print(table, "")


def _cell(value: Any) -> str:
    text = escape(_text(value))
    colour = _COLOURS.get(text)
    return f"[{colour}]{text}[/]" if colour else text


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_usage(each)}" for key, each in value.items()) or "-"
    text = str(value)
    return text[:19].replace("T", " ") if text[4:5] == "-" and text[10:11] == "T" else text


def _usage(totals: Mapping[str, str]) -> str:
    return f"{totals['total']} (claimed {totals['claimed']})"
