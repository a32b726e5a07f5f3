"""Did Commet really send this? Hex HMAC-SHA256 of the raw body; nothing else is signed.

The key is the whole secret as Commet shows it, `whsec_` included. There is no time in the
signature, so replays are told by the event's id.
"""

import hashlib
import hmac
import time
from collections.abc import Iterable

from billing.clock import Clock, wall_clock
from billing.credentials.secrets import Secrets
from billing.credentials.webhook_secrets import WebhookSecret
from billing.errors import BadSignature, PayloadTooLarge

MAX_BODY_BYTES = 1_100_000  # a megabyte of text, and the event around it

# A secret that was just rotated in is found, and strangers cannot make us read it more often.
_REREAD_SECONDS = 60.0
_MAX_AGE_SECONDS = 300.0  # for how long one that was taken out is believed yet


def is_signed(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets signed this body. Several are valid at once while one is rotated.

    Compares in constant time and accepts upper-case hex. An empty secret signs nothing.
    """
    claimed = signature.strip().lower().encode("utf-8", "surrogatepass")
    matches = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()
        matches |= bool(secret) and hmac.compare_digest(expected, claimed)
    return matches


class Verifier:
    """Checks signatures against the current secrets."""

    def __init__(self, secrets: Secrets, secret_id: str, clock: Clock = wall_clock) -> None:
        self._secrets = secrets
        self._secret_id = secret_id
        self._clock = clock
        self._reread_at = float("-inf")

    def verify(self, body: bytes, signature: str) -> None:
        """Raises PayloadTooLarge or BadSignature; returns for what Commet has signed."""
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge
        if is_signed(body, signature, self._current(fresh=False)):
            return
        now = time.monotonic()
        if now - self._reread_at >= _REREAD_SECONDS:
            self._reread_at = now
            if is_signed(body, signature, self._current(fresh=True)):
                return
        raise BadSignature

    def _current(self, *, fresh: bool) -> Iterable[str]:
        fields = self._secrets.fields(
            self._secret_id, fresh=fresh, max_age_seconds=_MAX_AGE_SECONDS
        )
        return WebhookSecret.of(fields).valid(self._clock())
