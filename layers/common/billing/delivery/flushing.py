"""Delivers the usage of one user at once, because the user may leave at Commet."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import psycopg
from aws_lambda_powertools import Logger

from billing.clock import Clock
from billing.commet.call_budget import Budget
from billing.database.connection import Database, place_of
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.delivery import outbox
from billing.delivery.outbox import MARGIN, QUIET, Outcome, Result
from billing.delivery.sending import UsageReceiver, guarded_attempt

logger = Logger(child=True)

_sql = Statements(__file__)

# How long a person waits at most for usage to be delivered.
_SECONDS = 2.0
# How many deliveries of one user are sent at once. A plan has fewer metered features.
_LIMIT = 16


def flush(
    db: Database,
    commet: UsageReceiver,
    user_id: str,
    *,
    clock: Clock,
    interval: timedelta,
    budget: Budget,
    deadline: Deadline,
) -> bool:
    """Delivers all undelivered usage of the user, due or not, within two seconds.

    Also lowers Commet's totals where corrections have lowered ours.

    Returns whether nothing is left to deliver. The next run of deliver_usage sends whatever is left
    after two seconds, or at `deadline`. `interval` is the least time between two scheduled
    deliveries of one total. For the next two hours, any overage of the user is due at once. Raises
    DatabaseUnavailable and no other error.
    """
    try:
        outbox.expect_departure(db, user_id)
        db.execute(_sql["hurry"], {"user_id": user_id})
        period = {"user_id": user_id, "now": clock(), "margin": MARGIN}
        for lowered in db.all(_sql["lowered"], period):
            db.execute(_sql["begin_replacement"], {**period, **lowered, "quiet": QUIET})
        outbox.claim_of_user(db, user_id, now=clock(), interval=interval)
        leased = outbox.lease(db, _LIMIT, user_id=user_id)
        if leased and budget.take(sum(delivery.calls for delivery in leased)):
            send = partial(guarded_attempt, commet, deadline=deadline.within(_SECONDS), now=clock())
            with ThreadPoolExecutor(len(leased), thread_name_prefix="flush") as pool:
                results = list(pool.map(send, leased))
        else:
            results = [Result(each, Outcome.POSTPONED, no_effect=True) for each in leased]
        outbox.record(db, results, now=clock())
        return not db.value(_sql["any_undelivered"], period)
    except psycopg.Error as error:
        logger.exception("delivery.flush_failed", extra=place_of(error))
        return False
