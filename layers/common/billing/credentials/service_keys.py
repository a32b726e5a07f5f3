"""Service keys, with which a product's backend calls us. Checking them needs no database.

A key has the form `svc_<name>_<64 hex digits>`. The secret `ServiceKeys` holds the SHA-256 hash of
each valid key:

    {"keys": [{"name": "...", "sha256": "...", "scopes": ["usage:write", "read"]}]}

To rotate a key, add the new key's hash, wait a minute, move the callers to the new key, and remove
the old hash. The old key stops working within five minutes.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from billing.credentials.secrets import Secrets
from billing.errors import Unauthenticated

PREFIX = "svc_"

# If a key is unknown, the secret is read again, because the key may be new. This happens at most
# once in this time, so that strangers cannot make us read the secret with every request.
_REREAD_SECONDS = 60.0
_MAX_AGE_SECONDS = 300.0  # the longest time for which a removed key works


@dataclass(frozen=True, slots=True)
class Service:
    """A backend that sent a valid key. It has the key's name and scopes."""

    name: str
    scopes: frozenset[str]


class ServiceKeys:
    """Checks service keys against the secret."""

    def __init__(self, secrets: Secrets, secret_id: str) -> None:
        self._secrets = secrets
        self._secret_id = secret_id
        self._reread_at = float("-inf")

    def authenticate(self, key: str) -> Service:
        """Returns the service that has the key. Raises Unauthenticated for an unknown key."""
        service = self._find(key, fresh=False)
        now = time.monotonic()
        if service is None and now - self._reread_at >= _REREAD_SECONDS:
            self._reread_at = now
            service = self._find(key, fresh=True)
        if service is None:
            raise Unauthenticated("The service key is not valid.")
        return service

    def listed(self) -> list[Service]:
        """Returns one service for each key, in the order of their names.

        Raises the errors of reading the secret.
        """
        found = [_service(entry) for entry in self._entries(fresh=False)]
        return sorted(found, key=lambda service: (service.name, sorted(service.scopes)))

    def _find(self, key: str, *, fresh: bool) -> Service | None:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for entry in self._entries(fresh=fresh):
            # The key is compared with every entry, so that the time does not show which one
            # matched.
            if hmac.compare_digest(str(entry.get("sha256")).lower().encode(), digest.encode()):
                found = _service(entry)
        return found

    def _entries(self, *, fresh: bool) -> list[dict[str, Any]]:
        """Returns the entries of the secret. A malformed entry is ignored, and the other keys
        remain valid.
        """
        fields = self._secrets.fields(
            self._secret_id, fresh=fresh, max_age_seconds=_MAX_AGE_SECONDS
        )
        entries = fields.get("keys")
        return [
            entry
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and isinstance(entry.get("scopes"), list)
        ]


def _service(entry: Mapping[str, Any]) -> Service:
    return Service(str(entry.get("name")), frozenset(map(str, entry["scopes"])))
