"""Sends mails to people. A schedule invokes it, and each request that has queued a mail.

{}                                                  sends what is due
{"source": "aws.ses", ...}                          a mail came back, or was called unwanted
{"command": "redrive", "id"?, "user"?}              sends dead mails, and those in doubt, again
{"command": "allow", "address": "ana@example.com"}  lets mails to a suppressed address be queued
{"command": "verify_address", "user", "author", "note", "address"?}
                                                    counts an address of an account as confirmed
{"command": "free_address", "user", "author", "note"}
                                                    takes the address from an account
"""

from dataclasses import asdict
from typing import Any

from aws_lambda_powertools import Logger, Metrics

from billing import metric, wiring
from billing.accounts import commands as account_commands
from billing.accounts import tokens
from billing.deadline import Deadline, LambdaContext
from billing.mail import commands, outbox, sending, suppression, unsubscribing
from billing.mail import service as _service  # noqa: F401 - wiring imports it late
from billing.metric import Metric

logger = Logger()
metrics = Metrics()


def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Does one run and returns its counts, or handles an event of SES or a command.

    Raises InvalidRequest for a wrong command, and for an event of SES that cannot be read. The
    failure queue then keeps that event for a person.
    """
    # A schedule may send any JSON.
    if not isinstance(event, dict):
        event = {}
    if event.get("source") == "aws.ses":
        return _suppress(event)
    if "command" in event:
        about_addresses = event["command"] in account_commands.COMMANDS
        obey = account_commands.obey if about_addresses else commands.obey
        return obey(wiring.database(), event, now=wiring.now())
    answer: dict[str, Any] = _run(event, context)
    return answer


def _suppress(event: dict[str, Any]) -> dict[str, Any]:
    unwelcome = suppression.read(event)
    if unwelcome is None:
        return {"suppressed": 0}
    suppression.suppress(wiring.database(), unwelcome)
    metric.count(Metric.ADDRESSES_SUPPRESSED)
    fields = {"message_id": unwelcome.message_id, "reason": unwelcome.reason}
    logger.warning("mail.address_suppressed", extra=fields)
    return {"suppressed": len(unwelcome.addresses)}


# Events and commands have no metrics, and Powertools warns about a function that publishes none.
@metrics.log_metrics
def _run(_: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    settings = wiring.settings()
    db = wiring.database()
    sending.tidy(db, wiring.now())
    done = sending.Done()
    if settings.email_from:
        # Read before a mail is leased, because no mail can be made without the secret.
        secret = wiring.secrets().text(settings.app_secret_id)
        done = sending.send(
            db,
            wiring.ses(),
            letterhead=sending.Letterhead(
                settings.product_name, settings.email_from, settings.app_url
            ),
            links=sending.Links(
                token_of=lambda token_id: tokens.token_of(secret, token_id),
                unsubscribe_of=lambda user_id: unsubscribing.url_of(
                    settings.api_url or settings.app_url, secret, user_id
                ),
            ),
            clock=wiring.clock(),
            deadline=Deadline.of_invocation(context, reserve=5),
        )
    gauges = outbox.gauges(db, wiring.now())
    if not settings.email_from and gauges.age_seconds:
        logger.warning("mail.no_sender", extra={"age_seconds": gauges.age_seconds})
    metrics.add_metric(Metric.MAILS_SENT, Metric.MAILS_SENT.unit, done.sent)
    metrics.add_metric(Metric.MAILS_POSTPONED, Metric.MAILS_POSTPONED.unit, done.postponed)
    metrics.add_metric(Metric.MAILS_FAILED, Metric.MAILS_FAILED.unit, gauges.dead + gauges.in_doubt)
    metrics.add_metric(Metric.MAIL_AGE_SECONDS, Metric.MAIL_AGE_SECONDS.unit, gauges.age_seconds)
    summary = asdict(done) | asdict(gauges)
    logger.info("send_mail.done", extra=summary)
    return summary
