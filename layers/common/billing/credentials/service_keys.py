"""Keys of a product's own backend: named, scoped, several valid at once, no database needed.

A key reads `svc_<name>_<64 hex digits>`; the secret `ServiceKeys` holds only SHA-256 hashes:
`{"keys": [{"name": "...", "sha256": "...", "scopes": ["usage:write", "read"]}]}`. To rotate, add
the new key's hash, wait a minute, move callers over, remove the old one: it opens nothing any more
five minutes later.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass

from billing.credentials.secrets import Secrets
from billing.errors import Unauthenticated

PREFIX = "svc_"

# A key that was just added is found at once, and a stranger cannot make us read the secret
# more often than this.
_REREAD_SECONDS = 60.0
_MAX_AGE_SECONDS = 300.0  # for how long a key that was taken out opens something yet


@dataclass(frozen=True, slots=True)
class Service:
    """A backend that showed a valid key."""

    name: str
    scopes: frozenset[str]


class ServiceKeys:
    """Knows which keys are valid."""

    def __init__(self, secrets: Secrets, secret_id: str) -> None:
        self._secrets = secrets
        self._secret_id = secret_id
        self._reread_at = float("-inf")

    def authenticate(self, key: str) -> Service:
        """The service this key belongs to; raises Unauthenticated for any other."""
        service = self._find(key, fresh=False)
        now = time.monotonic()
        if service is None and now - self._reread_at >= _REREAD_SECONDS:
            self._reread_at = now
            service = self._find(key, fresh=True)
        if service is None:
            raise Unauthenticated("The service key is not valid.")
        return service

    def _find(self, key: str, *, fresh: bool) -> Service | None:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        fields = self._secrets.fields(
            self._secret_id, fresh=fresh, max_age_seconds=_MAX_AGE_SECONDS
        )
        entries = fields.get("keys")
        for entry in entries if isinstance(entries, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("scopes"), list):
                continue  # one that is malformed opens nothing, and closes nothing either
            # All are compared, whichever matches: time tells nothing.
            if hmac.compare_digest(str(entry.get("sha256")).lower().encode(), digest.encode()):
                found = Service(str(entry.get("name")), frozenset(map(str, entry["scopes"])))
        return found
