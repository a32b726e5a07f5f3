"""The local stack's files: secrets.json remains between runs, stack.json exists during a run."""

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

_KEPT = "secrets.json"
_SHOWN = "stack.json"


def write_private(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file that only we may read. The file is replaced as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    fresh.replace(path)


class Kept:
    """Secrets that are generated once and stored for later runs, in a file that only we may
    read.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _KEPT
        try:
            self._values: dict[str, str] = json.loads(self._path.read_text())
        except FileNotFoundError:
            self._values = {}
        made = {
            "service_key": f"svc_local_{secrets.token_hex(32)}",
            "app_secret": secrets.token_urlsafe(32),
            "people_secret": secrets.token_urlsafe(32),
            "owner_password": secrets.token_urlsafe(24),
            "app_password": secrets.token_urlsafe(24),
            "accounts_password": secrets.token_urlsafe(24),
            # The webhook secret; empty until an endpoint is registered.
            "webhook_secret": '{"secrets": []}',
        }
        if made.keys() - self._values.keys():
            self._values = made | self._values
            self._save()

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __setitem__(self, name: str, value: str) -> None:
        if self._values.get(name) != value:
            self._values[name] = value
            self._save()

    def service_keys(self) -> str:
        """Returns the text of the secret with the service keys. It contains hashes and no key."""
        digest = hashlib.sha256(self["service_key"].encode()).hexdigest()
        scopes = [
            "usage:write",
            "usage:correct",
            "read",
            "billing:manage",
            "users:manage",
            "events:manage",
        ]
        return json.dumps({"keys": [{"name": "local", "sha256": digest, "scopes": scopes}]})

    def _save(self) -> None:
        write_private(self._path, self._values)


def show(directory: Path, facts: dict[str, Any]) -> None:
    """Writes `stack.json`, which scripts read."""
    write_private(directory / _SHOWN, facts)


def shown(directory: Path) -> dict[str, Any] | None:
    """Returns the content of `stack.json` in this directory; None if no stack runs."""
    try:
        facts: dict[str, Any] = json.loads((directory / _SHOWN).read_text())
    except FileNotFoundError:
        return None
    return facts


def hide(directory: Path) -> None:
    """Removes `stack.json`, because the stack has ended."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _SHOWN).unlink()
