"""The content of the webhook secret: the secrets that Commet may sign with, newest first.

    {"secrets": ["whsec_new", {"secret": "whsec_old", "until": "2026-09-02T10:00:00+00:00"}],
     "endpoint": "whe_...", "rotation": "2026-09"}

`secrets` may also be a list of plain texts, written by hand. The deployment, which registers the
endpoint, writes the other two fields. `endpoint` is the id of the endpoint to which the first
secret belongs. `rotation` is the rotation that was asked for when the endpoint was created.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self

from billing.credentials.secrets import SecretsManagerStore, name_secret, parse
from billing.errors import Unavailable

# Longer than Commet tries to deliver a webhook that was signed with the old secret.
STAYS_VALID = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Signed:
    """One secret, and the time from which it is no longer accepted, or None."""

    secret: str = field(repr=False)
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """The secret's content. A malformed entry is ignored, and the others remain valid."""

    signing: tuple[Signed, ...] = ()
    endpoint_id: str | None = None
    rotation: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Reads the JSON object of the secret."""
        listed = fields.get("secrets")
        endpoint_id, rotation = fields.get("endpoint"), fields.get("rotation")
        return cls(
            # Only a list is accepted: the single letters of a text would be secrets that are easy
            # to guess.
            tuple(filter(None, map(_signed, listed if isinstance(listed, list) else []))),
            endpoint_id if isinstance(endpoint_id, str) and endpoint_id else None,
            rotation if isinstance(rotation, str) else "",
        )

    def valid(self, now: datetime) -> list[str]:
        """Returns the secrets that are accepted at `now`."""
        return [each.secret for each in self.signing if each.until is None or now < each.until]

    def renewed(self, secret: str, *, endpoint_id: str, rotation: str, now: datetime) -> Self:
        """Returns the content with a new first secret. The older ones expire within a day."""
        end = now + STAYS_VALID
        older = (
            Signed(each.secret, min(each.until or end, end))
            for each in self.signing
            if each.secret != secret and (each.until is None or now < each.until)
        )
        return type(self)((Signed(secret), *older), endpoint_id, rotation)

    def text(self) -> str:
        """Returns the JSON text to store."""
        secrets = [
            {"secret": each.secret, "until": each.until.isoformat()} if each.until else each.secret
            for each in self.signing
        ]
        content: dict[str, Any] = {"secrets": secrets, "rotation": self.rotation}
        if self.endpoint_id:
            content["endpoint"] = self.endpoint_id
        return json.dumps(content)


class Vault:
    """Reads and writes the webhook secret in Secrets Manager. Methods raise Unavailable."""

    def __init__(self, store: SecretsManagerStore, secret_id: str) -> None:
        self._store = store
        self._secret_id = secret_id

    def read(self) -> WebhookSecret:
        """The stored content."""
        with self._named():
            return WebhookSecret.of(parse(self._store.get(self._secret_id)))

    def write(self, secret: WebhookSecret) -> None:
        """Replaces the stored content."""
        with self._named():
            self._store.put(self._secret_id, secret.text())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Adds the secret's id to errors."""
        try:
            yield
        except Unavailable as error:
            name_secret(error, self._secret_id)
            raise


def _signed(entry: object) -> Signed | None:
    if isinstance(entry, str):
        return Signed(entry) if entry else None
    if not isinstance(entry, dict):
        return None
    secret, until = entry.get("secret"), entry.get("until")
    try:
        end = datetime.fromisoformat(until) if isinstance(until, str) else None
    except ValueError:
        return None
    if not isinstance(secret, str) or not secret or end is None or end.tzinfo is None:
        return None
    return Signed(secret, end)
