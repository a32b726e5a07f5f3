"""Asks Commet about disputes that are open for over a day, because a webhook may have been lost.

The status of Commet's transaction is `disputed` while its dispute is open, and after the dispute
was lost. Any other status ends the dispute here.
"""

from dataclasses import dataclass

from aws_lambda_powertools import Logger

from billing.clock import Clock
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetRefused, CommetUnavailable
from billing.payments import disputes

logger = Logger(child=True)

Fields = dict[str, str | None]

_STILL_DISPUTED = "disputed"
_WON = "succeeded"


@dataclass(frozen=True, slots=True)
class Watched:
    """Counts of one run: disputes about which Commet answered, and disputes that were over."""

    asked: int = 0
    ended: int = 0


def run(
    db: Database, commet: Commet, budget: Budget, *, clock: Clock, deadline: Deadline
) -> Watched:
    """Asks about each dispute once a day, as time and the call budget allow.

    If Commet does not answer, a later run asks again. If Commet refuses the question, it is asked
    again a day later.
    """
    asked = ended = 0
    while deadline.remaining() > 0:
        now = clock()
        dispute = disputes.lease_oldest(db, now=now)
        if dispute is None:
            break
        fields: Fields = {"user_id": dispute.user_id, "transaction_id": dispute.transaction_id}
        try:
            if not budget.wait(1, deadline):
                disputes.unlease(db, dispute)
                break
            status = commet.transaction(dispute.transaction_id, deadline).status
        except CommetRefused as error:
            logger.warning("reconcile.dispute_unknown", extra=fields | _said(error))
            continue
        except CommetUnavailable as error:
            disputes.unlease(db, dispute)
            if error.asked_retry_after is not None:
                budget.pause(error.asked_retry_after)
            logger.warning("reconcile.dispute_unseen", extra=fields | _said(error))
            break
        asked += 1
        if status != _STILL_DISPUTED:
            outcome = "won" if status == _WON else "unknown"
            ended += disputes.end(db, dispute, outcome=outcome, now=now)
            logger.info("reconcile.dispute_over", extra=fields | {"outcome": outcome})
    return Watched(asked, ended)


def _said(error: CommetRefused | CommetUnavailable) -> Fields:
    return {"commet_code": error.commet_code, "commet_request_id": error.request_id}
