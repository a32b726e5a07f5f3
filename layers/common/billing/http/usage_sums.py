"""Answers of the routes that sum up one user's usage."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from billing import wiring
from billing.accounts.limits import Limit, Turn
from billing.http import usage_answers, usage_export
from billing.http.shapes.ledger import UsageSums
from billing.usage import sums

# Sums by a property read the ledger, so they have a limit that keeps the database free for others.
BY_PROPERTY = Limit(300, timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class Asked:
    """The parameters of a request. None: left out."""

    group_by: str | None
    feature: str | None
    since: date | None
    until: date | None
    cursor: str | None
    limit: int | None
    form: str | None


def page(user_id: str, asked: Asked) -> UsageSums:
    """Returns a page of the sums of a user. `asked.form` has no effect.

    Raises the errors of `sums.page`, and TooManyRequests if the user's sums by a property of this
    hour are used up.
    """
    found = _found(user_id, asked)
    listed = [usage_answers.summed(each) for each in found.sums]
    return UsageSums(sums=listed, next_cursor=found.next_cursor)


def answer(app: APIGatewayHttpResolver, user_id: str, asked: Asked) -> Response[Any]:
    """Returns a page of the sums of a user as JSON or CSV, shortened to what Lambda can send.

    Raises the errors of `page`.
    """
    return usage_export.sums_answer(app, _found(user_id, asked), form=asked.form)


def _found(user_id: str, asked: Asked) -> sums.Page:
    days, _, prop = (asked.group_by or "day").partition("property.")
    query = sums.Query(asked.feature, asked.since, asked.until, prop or None, by_day=bool(days))
    db = wiring.database()
    if query.prop is not None:
        Turn(db, f"sums:{user_id}", BY_PROPERTY, wiring.now()).take()
    return sums.page(db, user_id, query, cursor=asked.cursor, limit=asked.limit or 100)
