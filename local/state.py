"""What the local stack keeps in its data directory between two runs, and shows during one."""

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
    """Writes JSON that only we may read: all of it or nothing."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    fresh.replace(path)


class Kept:
    """Generated once, then the same in every run. Readable by nobody else."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _KEPT
        try:
            self._values: dict[str, str] = json.loads(self._path.read_text())
        except FileNotFoundError:
            self._values = {}
        made = {
            "service_key": f"svc_local_{secrets.token_hex(32)}",
            "app_secret": secrets.token_urlsafe(32),
            "owner_password": secrets.token_urlsafe(24),
            "app_password": secrets.token_urlsafe(24),
            # The secret of the webhook function, empty until an endpoint is registered.
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
        """The secret of the functions: names, scopes and hashes, never the key."""
        digest = hashlib.sha256(self["service_key"].encode()).hexdigest()
        scopes = ["usage:write", "usage:correct", "read"]
        return json.dumps({"keys": [{"name": "local", "sha256": digest, "scopes": scopes}]})

    def _save(self) -> None:
        write_private(self._path, self._values)


def show(directory: Path, facts: dict[str, Any]) -> None:
    """Writes `stack.json`, for scripts."""
    write_private(directory / _SHOWN, facts)


def shown(directory: Path) -> dict[str, Any] | None:
    """What the stack that runs in this directory has shown; None where none does."""
    try:
        facts: dict[str, Any] = json.loads((directory / _SHOWN).read_text())
    except FileNotFoundError:
        return None
    return facts


def hide(directory: Path) -> None:
    """Removes it: what it names is no longer there."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _SHOWN).unlink()
