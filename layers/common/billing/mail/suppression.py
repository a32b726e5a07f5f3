"""Addresses that get no more mail: mails to them came back for good, or were called unwanted.

SES says so in events, which EventBridge brings (https://docs.aws.amazon.com/ses/, "Examples of
event data"). Our own table is asked before a mail is queued, so that the person can be told, and
mails that nobody can read do not harm the reputation of the sender.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import InvalidRequest

_sql = Statements(__file__)

# How each kind of event is called, and where it lists the addresses.
_KINDS = {
    "Bounce": ("bounce", "bouncedRecipients"),
    "Complaint": ("complaint", "complainedRecipients"),
}


@dataclass(frozen=True, slots=True)
class Unwelcome:
    """What one event says: no more mail to these addresses, because of `reason`."""

    reason: str  # "bounce" or "complaint"
    message_id: str
    addresses: tuple[str, ...]


def read(event: Mapping[str, Any]) -> Unwelcome | None:
    """What an event of SES says; None for an event after which mails may still be sent.

    A mailbox that is full, or a server that is down, is no reason to stop: such bounces are not
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
    # One recipient is all that our mails have, so the mail's own address is meant too.
    return Unwelcome(reason, str(detail["mail"]["messageId"]), tuple(_bare(n) for n in named))


def suppress(db: Database, unwelcome: Unwelcome) -> None:
    """Suppresses the addresses; those that are suppressed already stay so."""
    db.execute(
        _sql["suppress"],
        {
            "reason": unwelcome.reason,
            "message_id": unwelcome.message_id,
            "addresses": list(unwelcome.addresses),
        },
    )


def allow(db: Database, address: str) -> bool:
    """Lets mails to the address be queued again. Returns whether it was suppressed."""
    return db.one(_sql["allow"], {"address": address}) is not None


def _bare(address: str) -> str:
    """The address of `Name <address>`."""
    return address.rpartition("<")[2].rstrip(">").strip()
