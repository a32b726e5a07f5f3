"""Events that the backend sends to an endpoint of yours, signed after Standard Webhooks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from usage_billing.problems import WrongSignature

_PREFIX = "whsec_"
_TOLERANCE = 300  # seconds by which the sender's clock may differ from ours


@dataclass(frozen=True, slots=True)
class Event:
    """Something that became true for a user. `data` depends on `type` (docs/events).

    An event may come more than once: keep its `id`. `sequence` numbers the events of one user.
    """

    id: str
    type: str
    user_id: str
    sequence: int
    occurred_at: datetime
    data: Mapping[str, Any]


def read_event(body: bytes | str, headers: Mapping[str, str], secret: str | Sequence[str]) -> Event:
    """The event of a request to your endpoint. Raises WrongSignature unless the backend sent it.

    `body` is the request's body as it came, before any JSON is read. `headers` may have names in
    upper or lower case. `secret` begins with `whsec_`; while you change it, give both. A request
    that is more than five minutes old, or that much ahead, is refused.
    """
    content: object = body.encode() if isinstance(body, str) else body
    if not isinstance(content, bytes):  # a framework has read the JSON
        raise TypeError(f"Give the body as it came, bytes or str, not {type(body).__name__}.")
    verify(content, headers, secret)
    return _event(json.loads(content))


def verify(body: bytes, headers: Mapping[str, str], secret: str | Sequence[str]) -> None:
    """Raises WrongSignature unless the request was signed with (one of) the secrets, just now."""
    sent = {name.lower(): value for name, value in headers.items()}
    message = sent.get("webhook-id", "")
    moment = sent.get("webhook-timestamp", "")
    if not message or not (moment.isascii() and moment.isdigit()):
        raise WrongSignature("The request has no webhook-id, or no webhook-timestamp.")
    if abs(time.time() - int(moment)) > _TOLERANCE:
        raise WrongSignature("The request is too old, or this machine's clock is wrong.")
    secrets = [secret] if isinstance(secret, str) else secret
    signed = f"{message}.{moment}.".encode() + body
    right = [hmac.new(_key(each), signed, hashlib.sha256).digest() for each in secrets]
    found = [_signature(each) for each in sent.get("webhook-signature", "").split()]
    if not any(hmac.compare_digest(ours, theirs) for ours in right for theirs in found):
        raise WrongSignature("The request was not signed with this secret.")


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key or not secret.startswith(_PREFIX):
        raise ValueError(
            "The secret is not the one that the backend showed: it begins with whsec_."
        )
    return key


def _signature(text: str) -> bytes:
    """The bytes of one `v1,<base64>`; none for another version or for nonsense."""
    version, _, encoded = text.partition(",")
    try:
        return base64.b64decode(encoded, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""


def _event(document: Mapping[str, Any]) -> Event:
    return Event(
        id=document["id"],
        type=document["type"],
        user_id=document["subject"],
        sequence=int(document["sequence"]),
        occurred_at=datetime.fromisoformat(document["time"]),
        data=document["data"],
    )
