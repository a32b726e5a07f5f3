"""Answers the routes that add up one user's usage."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from billing import wiring
from billing.accounts.limits import Limit, Turn
from billing.http import usage_export
from billing.usage import sums

# Sums by a property read the ledger, so they are counted: nobody keeps the database busy.
BY_PROPERTY = Limit(300, timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of a request; None: left out."""

    group_by: str | None
    feature: str | None
    since: date | None
    until: date | None
    cursor: str | None
    limit: int | None
    form: str | None


def answer(app: APIGatewayHttpResolver, user_id: str, asked: Asked) -> Response[Any]:
    """A page of the sums of a user.

    Raises what `sums.page` raises, and TooManyRequests where the user's sums by a property of this
    hour are used up.
    """
    days, _, prop = (asked.group_by or "day").partition("property.")
    query = sums.Query(asked.feature, asked.since, asked.until, prop or None, by_day=bool(days))
    db = wiring.database()
    if query.prop is not None:
        Turn(db, f"sums:{user_id}", BY_PROPERTY, wiring.now()).take()
    page = sums.page(db, user_id, query, cursor=asked.cursor, limit=asked.limit or 100)
    return usage_export.sums_answer(app, page, form=asked.form)
