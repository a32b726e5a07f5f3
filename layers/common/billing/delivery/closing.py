"""What a run of deliver_usage does beside sending. Nothing in this module calls Commet.

It parks deliveries that must not be sent any more, begins to replace totals that shrank, and prices
what ended periods were billed too much and what ended subscriptions were never billed.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import psycopg
from aws_lambda_powertools import Logger

from billing.database.connection import Database, Row, place_of
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.delivery.outbox import CLOSING, KEY_LIFETIME, MARGIN, log_parked

_sql = Statements(__file__)

logger = Logger(child=True)

# Rows per statement: few enough for the five seconds a statement may take, on a busy database too.
_CLOSE_LIMIT = 1_000
_PARK_LIMIT = 1_000
_CREDIT_LIMIT = 100
_LOST_LIMIT = 50
_CLOSE_SECONDS = 10.0  # the limit of one step, so that due deliveries do not wait longer

T = TypeVar("T")


class Steps:
    """Runs steps one by one. If the database refuses one, the others still run.

    `failed` counts the refused steps.
    """

    def __init__(self) -> None:
        self.failed = 0

    def take(self, step: Callable[[], T], otherwise: T) -> T:
        """The step's result, or `otherwise` if the database refused the step.

        Raises DatabaseUnavailable.
        """
        try:
            return step()
        except psycopg.Error as error:
            logger.exception("delivery.step_failed", extra=place_of(error))
            self.failed += 1
            return otherwise


def park_unsendable(db: Database, now: datetime, steps: Steps, deadline: Deadline) -> int:
    """Parks deliveries that must not be sent any more; returns how many.

    Parking needs no call to Commet, so it comes before all calls and never waits for an answer.
    """
    parked = 0
    values = {"key_lifetime": KEY_LIFETIME, "limit": _PARK_LIMIT}
    none: list[Row] = []
    while True:
        expired = steps.take(partial(db.all, _sql["park_expired"], values), none)
        parked += log_parked(expired)
        if len(expired) < _PARK_LIMIT or deadline.remaining() <= 0:
            break
    period = {"now": now, "margin": MARGIN, "limit": _CLOSE_LIMIT}
    for replacement in steps.take(partial(db.all, _sql["ended_replacements"], period), none):
        if deadline.remaining() <= 0:
            break
        ended = steps.take(partial(db.all, _sql["end_replacement"], replacement), none)
        parked += log_parked(ended)
    return parked


def close(db: Database, now: datetime, quiet: timedelta, steps: Steps, deadline: Deadline) -> None:
    """Handles totals that shrank below what was claimed.

    While their period runs it begins to replace them at Commet, once they are quiet; after the end
    it parks credits. It also resumes claims where a replacement can no longer be sent.
    """
    period = {
        "now": now, "margin": MARGIN, "closing": CLOSING, "quiet": quiet, "limit": _CLOSE_LIMIT
    }  # fmt: skip
    steps.take(partial(db.execute, _sql["resume_claims"], period), None)
    none: list[Row] = []
    shrunk = steps.take(partial(db.all, _sql["to_be_replaced"], period), none)
    share = deadline.within(_CLOSE_SECONDS)
    for total in shrunk:
        if share.remaining() <= 0:
            break
        values = {**period, **total}
        steps.take(partial(db.execute, _sql["begin_replacement"], values), None)
    steps.take(partial(_credit, db, deadline.within(_CLOSE_SECONDS)), None)


def _credit(db: Database, deadline: Deadline) -> None:
    """Parks credits for what Commet billed too much in closed periods."""
    values = {"limit": _CREDIT_LIMIT}
    while deadline.remaining() > 0:
        if db.value(_sql["credit_closed_periods"], values) < _CREDIT_LIMIT:
            return


def mark_lost(db: Database, deadline: Deadline) -> None:
    """Prices the refused deliveries of ended subscriptions, and marks them as lost.

    Handles one batch even if `deadline` is over, so that slow calls never stop it for good.
    """
    while True:
        marked = db.value(_sql["mark_lost"], {"limit": _LOST_LIMIT})
        if marked == 0 or deadline.remaining() <= 0:
            return
