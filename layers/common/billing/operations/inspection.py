"""Everything recorded about one user, for an operator, and what reconcile will do about the
user.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing import email_address
from billing.amounts import format_decimal, format_exact, format_unit_price
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import NotFound

_sql = Statements(__file__)

Plain = dict[str, Any]

# Columns in major units.
_MONEY = {"amount", "tax", "total", "overpaid"}


def of_user(db: Database, who: str, *, now: datetime) -> Plain:
    """Everything recorded about a user, as plain JSON: times as ISO-8601, quantities and amounts
    as text, amounts in major units.

    `who` is our user id, Commet's customer id or the email address. `would_do` lists in sentences
    what coming runs of reconcile will do for the user. The result contains personal data, so it
    must not be logged. Raises NotFound `unknown_user`.
    """
    user = db.one(_sql["find"], {"who": who, "email_key": email_address.key(who)})
    if user is None:
        raise NotFound("There is no user with this id or email address.", code="unknown_user")
    key = email_address.key(user["email"]) if user["email"] else None
    others = db.all(_sql["same_address"], {"email_key": key, "user_id": user["id"]})
    ids = {
        "user_id": user["id"],
        "customers": [each for each in (user["id"], user["commet_customer_id"]) if each],
        "now": now,
    }
    seen = {
        "subscriptions": db.all(_sql["subscriptions"], ids),
        "entitlements": db.all(_sql["entitlements"], ids),
        "periods": db.all(_sql["periods"], ids),
        "deliveries": db.all(_sql["deliveries"], ids),
        "drift": db.all(_sql["drift"], ids),
        "payments": db.all(_sql["payments"], ids),
        "debts": db.all(_sql["debts"], ids),
        "debt_links": db.all(_sql["debt_links"], ids),
        "checkout": db.all(_sql["checkout"], ids),
        "contact": db.all(_sql["contact"], ids),
        "webhooks": db.all(_sql["webhooks"], ids),
        "outgoing_events": db.all(_sql["outgoing_events"], ids),
        "audit": db.all(_sql["audit"], ids),
    }
    for rows in seen.values():
        for row in rows:
            _as_money(row)
    would_do = [*_questions(seen["subscriptions"]), *_retries(seen["webhooks"])]
    found: Plain = _plain(
        {
            "user": {**user, "same_address": [row["id"] for row in others]},
            **seen,
            "checkout": next(iter(seen["checkout"]), None),
            "contact": next(iter(seen["contact"]), None),
            "now": now,
        }
    )
    return found | {"would_do": would_do or ["nothing: no row is in doubt and no webhook waits"]}


def _as_money(row: Row) -> None:
    """Writes the amounts of a row as money, if the row has a currency."""
    currency = row.get("currency")
    if not currency:
        return
    for name in _MONEY & row.keys():
        if row[name] is not None:
            row[name] = format_exact(row[name], currency)
    if row.get("unit_price") is not None:
        row["unit_price"] = format_unit_price(row["unit_price"], currency)


def _questions(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row["schedule_asks_at"] is None:
            continue
        why = "it is in doubt" if row["in_doubt"] else "the daily check"
        when = "now" if row["due"] else f"at {_plain(row['schedule_asks_at'])}"
        yield f"ask Commet about {row['id']} {when}: {why}"


def _retries(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row["status"] == "failed":
            yield f"apply webhook {row['id']} again at {_plain(row['due_at'])}"
        elif row["status"] == "dead":
            yield f"nothing about webhook {row['id']}: it is dead until somebody redrives it"


def _plain(value: Any) -> Any:
    """Returns the value with JSON's own types only."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return format_decimal(value) if isinstance(value, Decimal) else value
