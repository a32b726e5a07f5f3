"""Everything recorded about one user, for an operator, and what reconcile will do about them."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import NotFound

_sql = Statements(__file__)

Plain = dict[str, Any]


def of_user(db: Database, who: str, *, now: datetime) -> Plain:
    """Everything recorded about a user, as plain JSON: times as ISO-8601, amounts as text.

    `who` is our user id, Commet's customer id or the email address. `would_do` lists in sentences
    what coming runs of reconcile will do for the user. The result contains personal data, so it
    must not be logged. Raises NotFound `unknown_user`.
    """
    user = db.one(_sql["find"], {"who": who})
    if user is None:
        raise NotFound("There is no user with this id or email address.", code="unknown_user")
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
        "checkout": db.all(_sql["checkout"], ids),
        "events": db.all(_sql["events"], ids),
    }
    would_do = [*_questions(seen["subscriptions"]), *_retries(seen["events"])]
    found: Plain = _plain(
        {"user": user, **seen, "checkout": next(iter(seen["checkout"]), None), "now": now}
    )
    return found | {"would_do": would_do or ["nothing: no row is in doubt and no webhook waits"]}


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
    """The value with JSON's own types only."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
