"""The files that pages load: style sheet, script and logo.

A file's address contains a part of the digest of its content, so a browser may cache the file for a
year. A page of an earlier release may ask for an earlier digest. It gets the present file, without
caching.
"""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from billing.errors import NotFound

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file in the form in which it is sent. `body` is plain, `compressed` is gzip."""

    address: str
    kind: str
    body: bytes
    compressed: bytes


class Assets:
    """The files of a folder by name. `theme` is added to the end of `app.css`."""

    def __init__(self, folder: Path, theme: str = "") -> None:
        self._found: dict[str, Asset] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix in _TYPES:
                body = file.read_bytes() + (theme.encode() if file.name == "app.css" else b"")
                digest = hashlib.sha256(body).hexdigest()[:8]
                self._found[file.name] = Asset(
                    f"/assets/{file.stem}.{digest}{file.suffix}",
                    _TYPES[file.suffix],
                    body,
                    gzip.compress(body, 9, mtime=0),
                )

    def address(self, name: str) -> str:
        """Returns the address of the file with this name."""
        return self._found[name].address

    def served(self, name: str) -> tuple[Asset, str]:
        """Returns the file for the last part of a requested address, and its `Cache-Control`.

        Raises NotFound.
        """
        stem, _, rest = name.partition(".")
        found = self._found.get(f"{stem}.{rest.rpartition('.')[2]}")
        if found is None:
            raise NotFound
        return found, _FOR_GOOD if found.address.endswith(f"/{name}") else "no-cache"
