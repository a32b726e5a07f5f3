"""The steps of a run of deliver_usage other than sending. Nothing in this module calls Commet.

The steps park deliveries that must not be sent any more, and begin to replace totals that shrank.
They send deliveries again whose subscription is active again. They also price what Commet billed
too much in ended periods, and what it can bill no more.
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
from billing.delivery.outbox import CLOSING, KEY_LIFETIME, MARGIN, log_parked, redrive

_sql = Statements(__file__)

logger = Logger(child=True)

# Rows per statement. A statement must end within five seconds, also on a busy database.
_CLOSE_LIMIT = 1_000
_PARK_LIMIT = 1_000
_CREDIT_LIMIT = 100
_LOST_LIMIT = 50
_AGAIN_LIMIT = 100
_CLOSE_SECONDS = 10.0  # the limit of one step, so that due deliveries do not wait longer

T = TypeVar("T")


class Steps:
    """Runs steps one by one. If the database refuses one step, the others still run.

    `failed` is the number of refused steps.
    """

    def __init__(self) -> None:
        self.failed = 0

    def take(self, step: Callable[[], T], otherwise: T) -> T:
        """Returns the step's result, or `otherwise` if the database refused the step.

        Raises DatabaseUnavailable.
        """
        try:
            return step()
        except psycopg.Error as error:
            logger.exception("delivery.step_failed", extra=place_of(error))
            self.failed += 1
            return otherwise


def park_unsendable(db: Database, now: datetime, steps: Steps, deadline: Deadline) -> int:
    """Parks deliveries that must not be sent any more. Returns how many it parked.

    Parking needs no call to Commet, so this step comes first and never waits for Commet.
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
    """Handles totals that are now below the quantity claimed of them.

    While the period runs, the function begins to replace quiet totals at Commet. After the end of
    the period, it parks credits. It also resumes claims of totals whose replacement can no longer
    be sent.
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


def redrive_active_again(db: Database) -> None:
    """Sends refused deliveries again whose subscription was reactivated or resumed since."""
    for row in db.all(_sql["active_again"], {"limit": _AGAIN_LIMIT}):
        redrive(db, user_id=row["user_id"], event_id=row["event_id"])


def mark_lost(db: Database, deadline: Deadline) -> None:
    """Prices refused deliveries that Commet can bill no more, and marks them as lost.

    Handles one batch even if `deadline` is over, so that slow calls never stop it for good.
    """
    while True:
        marked = db.value(_sql["mark_lost"], {"limit": _LOST_LIMIT})
        if marked == 0 or deadline.remaining() <= 0:
            return
