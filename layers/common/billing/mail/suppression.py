"""Addresses that get no more mail, because mails to them came back for good or were marked
unwanted.

SES reports both in events, which EventBridge delivers (https://docs.aws.amazon.com/ses/, "Examples
of event data"). Our own table is read before a mail is queued. So the person can be told, and mails
that nobody can read do not harm the reputation of the sender.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import InvalidRequest

_sql = Statements(__file__)

# The name of each kind of event, and the field that lists the addresses.
_KINDS = {
    "Bounce": ("bounce", "bouncedRecipients"),
    "Complaint": ("complaint", "complainedRecipients"),
}


@dataclass(frozen=True, slots=True)
class Unwelcome:
    """The content of one event: no more mail to these addresses, because of `reason`."""

    reason: str  # "bounce" or "complaint"
    message_id: str
    addresses: tuple[str, ...]


def read(event: Mapping[str, Any]) -> Unwelcome | None:
    """Returns the content of an event of SES; None if mails may still be sent.

    If a mailbox is full or a server is down, mails may still be sent: such bounces are not
    `Permanent`. Raises InvalidRequest for an event of an unknown form.
    """
    try:
        return _read(event)
    except (LookupError, TypeError):
        raise InvalidRequest("This event of SES has an unknown form.") from None


def _read(event: Mapping[str, Any]) -> Unwelcome | None:
    detail = event["detail"]
    kind = str(detail["eventType"])
    if kind not in _KINDS:
        return None
    reason, listed = _KINDS[kind]
    about = detail[reason]
    if reason == "bounce" and about["bounceType"] != "Permanent":
        return None
    named = tuple(str(each["emailAddress"]) for each in about[listed])
    # Our mails have one recipient each, so the event concerns the mail's own address too.
    return Unwelcome(reason, str(detail["mail"]["messageId"]), tuple(_bare(n) for n in named))


def suppress(db: Database, unwelcome: Unwelcome) -> None:
    """Suppresses the addresses. Addresses that are suppressed already remain so."""
    db.execute(
        _sql["suppress"],
        {
            "reason": unwelcome.reason,
            "message_id": unwelcome.message_id,
            "addresses": list(unwelcome.addresses),
        },
    )


def allow(db: Database, address: str) -> bool:
    """Allows mails to the address again. Returns whether the address was suppressed."""
    return db.one(_sql["allow"], {"address": address}) is not None


def _bare(address: str) -> str:
    """Returns the address in `Name <address>`."""
    return address.rpartition("<")[2].rstrip(">").strip()
