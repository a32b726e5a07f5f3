"""Signs requests to endpoints, after Standard Webhooks (standardwebhooks.com).

An endpoint's secret is computed from a secret of the stack that is never rotated, the endpoint's id
and a generation. So the database contains nothing to sign with, and a rotation is a new generation.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import timedelta

# How long the secrets before the newest one also sign after a rotation.
OVERLAP = timedelta(hours=24)

_CONTEXT = b"event endpoint"
_PREFIX = "whsec_"


def secret_of(stack_secret: str, endpoint_id: str, generation: int) -> str:
    """Returns the endpoint's secret of a generation: `whsec_` and 32 bytes in base64."""
    key = hmac.digest(stack_secret.encode(), _CONTEXT, hashlib.sha256)
    derived = hmac.digest(key, f"{endpoint_id}.{generation}".encode(), hashlib.sha256)
    return _PREFIX + base64.b64encode(derived).decode()


def headers(
    secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Returns the headers that prove who sent `body`, with one signature for each secret.

    `timestamp` is in seconds since 1970. Receivers refuse a timestamp that differs by minutes.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_signature(secret, signed)}" for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
