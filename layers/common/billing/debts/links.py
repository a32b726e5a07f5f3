"""Payment links for debts: offers one link for all that a user owes in a currency, and finds out
what was paid.

As long as the debts stay the same, the user gets the same link. If a debt is added or ended, the
link is superseded: it is canceled at Commet, and the next request creates a new link. Commet
cancels no link that somebody has tried to pay, so a superseded link may still be paid. Its payment
then ends the link's debts, like any other payment.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger

from billing.amounts import format_decimal, minor_digits
from billing.commet.answers import Payment
from billing.commet.call_budget import Budget
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.debts.asking import ask_about_each
from billing.errors import CommetRefused, Conflict

if TYPE_CHECKING:
    from billing.commet.client import Commet

_sql = Statements(__file__)

logger = Logger(child=True)

_DESCRIPTION = "Usage that has not been paid"
_KEY_REFUSED = frozenset({401, 403})
# Somebody may pay a link in this status. Only such a link ends when it expires.
_WAITS = frozenset({"pending", "failed"})
# How many links are asked about while a person waits.
_AT_MOST = 5
_BATCH = 20


@dataclass(frozen=True, slots=True)
class Link:
    """A link on which debts of one currency are paid.

    `total` is the amount to pay there, in major units, with tax.
    """

    url: str
    total: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class _Unfinished:
    id: int
    state: str
    payment_id: str


def offer(
    db: Database,
    commet: "Commet",
    user_id: str,
    *,
    success_url: str,
    now: datetime,
    deadline: Deadline,
) -> Link | None:
    """Returns the user's link for all open debts of one currency.

    Returns None if nothing is owed, or if Commet refuses to create a link. Raises Conflict
    `checkout_in_progress` while another request creates the link, CommetUnavailable, and
    CommetRefused for a refused API key.
    """
    row = db.one(_sql["offer"], {"user_id": user_id, "now": now})
    if row is None:
        return None
    if row["url"] is not None:
        return Link(row["url"], row["total"], row["currency"])
    if not row["is_leased"]:
        raise _in_progress()
    try:
        payment = commet.create_payment(
            user_id=user_id,
            amount=int(row["net"].scaleb(minor_digits(row["currency"]))),
            currency=row["currency"],
            description=_DESCRIPTION,
            success_url=success_url,
            idempotency_key=_key(user_id, row, success_url),
            deadline=deadline,
        )
    except CommetRefused as error:
        db.execute(_sql["end_lease"], {"id": row["id"]})
        if error.commet_status in _KEY_REFUSED:
            raise
        extra = {"commet_code": error.commet_code, "commet_request_id": error.request_id}
        logger.warning("debts.link_refused", extra=extra)
        return None
    except Exception:
        # Commet may have created the link. The next request repeats the call with the same key.
        db.execute(_sql["end_lease"], {"id": row["id"]})
        raise
    total = Decimal(payment.amount_total).scaleb(-minor_digits(row["currency"]))
    values = {"id": row["id"], "payment_id": payment.id, "url": payment.url, "total": total}
    if db.value(_sql["store"], values) != "offered" or payment.url is None:
        raise _in_progress()  # the debts have changed since; the next request creates a new link
    return Link(payment.url, total, row["currency"])


def ask(
    db: Database, commet: "Commet", user_id: str, *, now: datetime, deadline: Deadline
) -> frozenset[str]:
    """Asks Commet whether the user's links were paid, and ends the debts that were.

    Returns the statuses of the payments at Commet. Raises CommetUnavailable or CommetRefused.
    """
    rows = db.all(_sql["unfinished_of"], {"user_id": user_id, "limit": _AT_MOST})
    return frozenset(_look(db, commet, now, deadline, _Unfinished(**row)) for row in rows)


def run(
    db: Database, commet: "Commet", budget: Budget, *, now: datetime, deadline: Deadline
) -> int:
    """Cancels superseded links and asks Commet about the other links that are due. Returns how many
    links there were.

    Raises CommetUnavailable.
    """
    return ask_about_each(
        lambda: [_Unfinished(**row) for row in db.all(_sql["lease_unfinished"], {"limit": _BATCH})],
        partial(_look, db, commet, now, deadline),
        budget,
        deadline,
        calls=2,
    )


def _look(
    db: Database, commet: "Commet", now: datetime, deadline: Deadline, link: _Unfinished
) -> str:
    try:
        payment = _canceled(commet, link, deadline)
    except CommetRefused as error:
        if error.commet_status != 404:
            raise
        # nobody can pay a link that does not exist
        db.execute(_sql["end"], {"id": link.id, "now": now})
        return "canceled"
    expired = payment.expires_at is not None and payment.expires_at <= now
    if payment.status == "succeeded":
        db.execute(_sql["complete"], {"payment_id": link.payment_id, "now": now})
    elif payment.status == "canceled" or (expired and payment.status in _WAITS):
        db.execute(_sql["end"], {"id": link.id, "now": now})
    else:
        db.execute(_sql["ask_again"], {"id": link.id})
    return payment.status


def _canceled(commet: "Commet", link: _Unfinished, deadline: Deadline) -> Payment:
    """Returns the payment. Cancels it first if its link is superseded and Commet allows that."""
    if link.state == "superseded":
        try:
            return commet.cancel_payment(link.payment_id, deadline)
        except CommetRefused as error:
            if error.commet_code != "payment_not_cancelable":
                raise
    return commet.payment(link.payment_id, deadline)


def _key(user_id: str, row: Row, success_url: str) -> str:
    """Returns the key for creating this link. It depends on the debts, the sum and the address."""
    parts = (user_id, *map(str, row["debts"]), format_decimal(row["net"]), success_url)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return f"debts:{row['id']}:{digest}"


def _in_progress() -> Conflict:
    return Conflict(
        "Another request of this user is being answered. Try again in a few seconds.",
        code="checkout_in_progress",
        retry_after=2,
    )
