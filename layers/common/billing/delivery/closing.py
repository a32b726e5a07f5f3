"""What a run of deliveries does beside sending: nothing here calls Commet.

Deliveries that must not be sent any more are parked, totals that shrank are replaced before their
period ends, and what is left of periods and subscriptions that are over gets its money value.
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

# A statement may take five seconds, on a database that is busy with others too.
_CLOSE_LIMIT = 1_000
_PARK_LIMIT = 1_000
_CREDIT_LIMIT = 100
_LOST_LIMIT = 50
_CLOSE_SECONDS = 10.0  # each step: what is due does not wait for longer

T = TypeVar("T")


class Steps:
    """Work that each stands for itself: one step the database refuses stops none of the others."""

    def __init__(self) -> None:
        self.failed = 0

    def take(self, step: Callable[[], T], otherwise: T) -> T:
        """What the step answers, or the other where it failed."""
        try:
            return step()
        except psycopg.Error as error:
            logger.exception("delivery.step_failed", extra=place_of(error))
            self.failed += 1
            return otherwise


def park_unsendable(db: Database, now: datetime, steps: Steps, deadline: Deadline) -> int:
    """Parks what must not be sent any more; how many.

    That takes no call, so it comes before all calls and waits for none of Commet's answers.
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
    for each in steps.take(partial(db.all, _sql["ended_replacements"], period), none):
        if deadline.remaining() <= 0:
            break
        parked += log_parked(steps.take(partial(db.all, _sql["end_replacement"], each), none))
    return parked


def close(db: Database, now: datetime, quiet: timedelta, steps: Steps, deadline: Deadline) -> None:
    """What the end of a period asks for beside sending growth: what shrank is set right."""
    period = {"now": now, "margin": MARGIN, "closing": CLOSING, "limit": _CLOSE_LIMIT}
    steps.take(partial(db.execute, _sql["resume_claims"], period), None)
    none: list[Row] = []
    shrunk = steps.take(partial(db.all, _sql["to_be_replaced"], period), none)
    share = deadline.within(_CLOSE_SECONDS)
    for each in shrunk:
        if share.remaining() <= 0:
            break
        values = {**period, "quiet": quiet, **each}
        steps.take(partial(db.execute, _sql["begin_replacement"], values), None)
    steps.take(partial(_credit, db, deadline.within(_CLOSE_SECONDS)), None)


def _credit(db: Database, deadline: Deadline) -> None:
    """Notes what closed periods were billed too much."""
    values = {"limit": _CREDIT_LIMIT}
    while deadline.remaining() > 0:
        if db.value(_sql["credit_closed_periods"], values) < _CREDIT_LIMIT:
            return


def mark_lost(db: Database, deadline: Deadline) -> None:
    """Gives what is left unsent of subscriptions that have ended its money value.

    Some in every run, even where slow calls have used up its time.
    """
    while True:
        marked = db.value(_sql["mark_lost"], {"limit": _LOST_LIMIT})
        if marked == 0 or deadline.remaining() <= 0:
            return
