"""Sends the mails of the outbox, one after the other.

Each mail is leased, sent and recorded before the next one is leased. So a run that dies leaves at
most one mail in doubt, and two runs at once never send the same mail.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aws_lambda_powertools import Logger

from billing.clock import Clock
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.mail import outbox, rendering
from billing.mail.outbox import Mail, Outcome
from billing.mail.service import (
    CALL_SECONDS,
    MailService,
    Message,
    NotTaken,
    Refused,
    Unanswered,
)
from billing.mail.texts import WORDS

logger = Logger(child=True)


@dataclass(frozen=True, slots=True)
class Letterhead:
    """The values that all mails of a stack share."""

    product: str
    sender: str  # an address
    app_url: str


@dataclass(frozen=True, slots=True)
class Links:
    """Makes the parts of a mail's links that need the stack's secret."""

    token_of: Callable[[str], str]  # a link's token, from the token's id
    unsubscribe_of: Callable[[str], str]  # the address that switches mails off, from the user's id


@dataclass(slots=True)
class Done:
    """Numbers of mails that one run handled."""

    sent: int = 0
    postponed: int = 0
    in_doubt: int = 0
    refused: int = 0


def send(
    db: Database,
    service: MailService,
    *,
    letterhead: Letterhead,
    links: Links,
    clock: Clock,
    deadline: Deadline,
) -> Done:
    """Sends all mails that are due, as long as one more call fits before `deadline`.

    Stops if the mail service takes no mail at all. The next run continues.
    """
    done = Done()
    while deadline.remaining() > CALL_SECONDS:
        mail = outbox.lease_next(db, clock())
        if mail is None:
            break
        outcome, stop = _attempt(db, service, mail, letterhead, links)
        _count(done, outcome)
        if stop:
            break
    return done


def tidy(db: Database, now: datetime) -> int:
    """Ends mails that nobody will send, and deletes old ones. Returns how many it ended."""
    ended = outbox.end_hopeless(db, now)
    for each in ended:
        fields = {"mail": each.id, "kind": each.kind, "state": each.state, "reason": each.reason}
        logger.warning("mail.ended", extra=fields)
    outbox.delete_old(db)
    return len(ended)


def _attempt(
    db: Database,
    service: MailService,
    mail: Mail,
    letterhead: Letterhead,
    links: Links,
) -> tuple[Outcome, bool]:
    """Sends one leased mail and records the outcome. Returns the outcome, and whether to stop
    the run.
    """
    message_id, reason, stop = None, None, False
    try:
        message_id = service.send(_message(mail, letterhead, links))
        outcome = Outcome.SENT
    except Refused as error:
        outcome, reason = Outcome.REFUSED, error.reason
    except Unanswered as error:
        outcome, reason = Outcome.IN_DOUBT, error.reason
    except NotTaken as error:
        outcome, reason, stop = Outcome.POSTPONED, error.reason, error.concerns_all
    outbox.record(db, mail, outcome, message_id=message_id, reason=reason)
    fields = {"mail": mail.id, "kind": mail.kind, "attempt": mail.attempts, "reason": reason}
    log = logger.info if outcome is Outcome.SENT else logger.warning
    log(f"mail.{outcome.name.lower()}", extra=fields | {"message_id": message_id})
    return outcome, stop


def _message(mail: Mail, letterhead: Letterhead, links: Links) -> Message:
    """Returns the mail in the form in which it is sent.

    Raises Refused for an address that no mail can be sent to, and NotTaken for a mail that this
    version of the code cannot make.
    """
    recipient = rendering.recipient_of(mail.address)
    if recipient is None:
        raise Refused("address")
    try:
        return _made(mail, recipient, letterhead, links)
    except Exception as error:
        logger.exception("mail.not_made", extra={"mail": mail.id, "kind": mail.kind})
        raise NotTaken("not_made", concerns_all=False) from error


def _made(mail: Mail, recipient: str, letterhead: Letterhead, links: Links) -> Message:
    words = WORDS[mail.kind]
    unsubscribe = links.unsubscribe_of(mail.user_id) if words.optional else None
    rendered = rendering.render(
        mail.kind,
        address=mail.address,
        product=letterhead.product,
        link=_link(mail, letterhead, links),
        ends_at=mail.expires_at if "expires_at" in mail.fields else None,
        fields={name: str(value) for name, value in mail.fields.items()},
        unsubscribe=unsubscribe,
    )
    return Message(
        sender=rendering.sender_of(letterhead.product, letterhead.sender),
        recipient=recipient,
        subject=rendered.subject,
        text=rendered.text,
        html=rendered.html,
        unsubscribe=unsubscribe,
    )


def _link(mail: Mail, letterhead: Letterhead, links: Links) -> str | None:
    if not WORDS[mail.kind].has_token:
        return rendering.link_of(letterhead.app_url, mail.kind)
    token_id = mail.fields.get("token_id")
    if token_id is None:
        return None
    return rendering.link_of(letterhead.app_url, mail.kind, links.token_of(str(token_id)))


def _count(done: Done, outcome: Outcome) -> None:
    match outcome:
        case Outcome.SENT:
            done.sent += 1
        case Outcome.POSTPONED:
            done.postponed += 1
        case Outcome.IN_DOUBT:
            done.in_doubt += 1
        case Outcome.REFUSED:
            done.refused += 1
