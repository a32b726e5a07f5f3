"""Checks the signatures of webhooks. A signature is the hex HMAC-SHA256 of the raw body alone.

The HMAC's key is the whole secret as Commet shows it, including `whsec_`. The signature contains no
time, so a repeated webhook is recognised by its id.
"""

import hashlib
import hmac
import time
from collections.abc import Iterable

from billing.clock import Clock, wall_clock
from billing.credentials.secrets import Secrets
from billing.credentials.webhook_secrets import WebhookSecret
from billing.errors import BadSignature, PayloadTooLarge

MAX_BODY_BYTES = 1_100_000  # a megabyte of data, and the fields around it

# If a signature is wrong, the secret is read again, because it may have been rotated. This happens
# at most once in this time, so that strangers cannot make us read the secret with every request.
_REREAD_SECONDS = 60.0
_MAX_AGE_SECONDS = 300.0  # the longest time for which a removed secret is accepted


def is_signed(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Returns whether the signature was made with one of the secrets.

    During a rotation, several secrets are valid. The comparison takes constant time and accepts
    upper-case hex. An empty secret never matches.
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
        """Returns if Commet signed the body. Raises BadSignature or PayloadTooLarge."""
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
