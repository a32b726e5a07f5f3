"""Writes what a request did at Commet into the audit trail, with its outcome."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import wiring
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import place_of
from billing.errors import BillingError, TooManyRequests
from billing.http import api

logger = Logger(child=True)

Details = dict[str, str | int | bool]


@contextmanager
def audited(
    app: APIGatewayHttpResolver,
    action: Action,
    user_id: str,
    *,
    by: Actor | None = None,
    **details: str | int | bool,
) -> Iterator[Details]:
    """Writes one entry when the block ends: `done`, or the code of the error that the block raised.

    The block may add details. A request above its own limit is not written. If the entry cannot be
    written, the answer is sent anyway and the log says `audit.not_written`, because what happened
    at Commet cannot be undone. `by` is the actor, if that is not the caller of the request.
    """
    about: Details = dict(details)
    outcome = trail.DONE
    try:
        yield about
    except BillingError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    finally:
        if outcome != TooManyRequests.code:
            _write(by or api.actor(app), action, user_id, outcome, about)


def _write(by: Actor, action: Action, user_id: str, outcome: str, about: Details) -> None:
    try:
        trail.write(wiring.database(), by, action, user_id=user_id, outcome=outcome, **about)
    except (psycopg.Error, BillingError) as error:
        fields = {"action": action.value, "user_id": user_id, "outcome": outcome}
        logger.exception("audit.not_written", exc_info=error, extra=fields | place_of(error))
