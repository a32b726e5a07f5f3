"""Serves the description of the API: the OpenAPI document, the reference page, the problems.

`make openapi` writes the files into the function's folder. The document describes a stack with all
routes, so it is adapted to this stack.
"""

import copy
import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from billing.errors import NotFound

Document = dict[str, Any]

# The page needs scripts and styles of its own address. Its icons are in the style sheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OWN_ACCOUNT = "x-own-account"  # marks routes for people who sign up here

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_AN_HOUR = "public, max-age=3600"
# Third-party files have their version in their name.
_FOR_GOOD = "public, max-age=31536000, immutable"


def adapted(document: Document, *, own_accounts: bool, issuer: str) -> Document:
    """Returns the document for these settings, made from the document with all routes."""
    found = copy.deepcopy(document)
    schemes = found["components"]["securitySchemes"]
    if issuer:
        url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        # Not as `openIdConnect`: generators would send no token then, and a page may not read that
        # URL.
        described = schemes["identityToken"]["description"].partition(" Only where")[0]
        schemes["identityToken"]["description"] = f"{described} Its provider: {url}"
    if not own_accounts:
        del schemes["session"]
        found["paths"] = dict(_without_own_accounts(found["paths"]))
    return found


@cache
def served_document(folder: Path, *, own_accounts: bool, issuer: str) -> str:
    """Returns the text of the document that this stack serves. It names the stack itself as the
    server.
    """
    document = json.loads((folder / "openapi.json").read_text(encoding="utf-8"))
    found = adapted(document, own_accounts=own_accounts, issuer=issuer)
    found["servers"] = [{"url": "/", "description": "This stack"}]
    return json.dumps(found, separators=(",", ":"), ensure_ascii=False)


@cache
def asset(folder: Path, name: str) -> tuple[str, str, dict[str, str]]:
    """Returns the text of a file, its type and its headers. Raises NotFound."""
    place = folder / name
    if place.suffix not in _TYPES or not place.is_file():
        raise NotFound
    headers = {
        "Vary": "Accept-Encoding",
        "Cache-Control": _FOR_GOOD if place.stem[-1:].isdigit() else _AN_HOUR,
        "Content-Security-Policy": POLICY,
    }
    return place.read_text(encoding="utf-8"), _TYPES[place.suffix], headers


@cache
def compressed(text: str) -> bytes:
    """Returns the text as gzip. Cached, because the largest file takes a tenth of a second."""
    return gzip.compress(text.encode(), 6, mtime=0)


def _without_own_accounts(paths: Mapping[str, Document]) -> Any:
    for path, operations in paths.items():
        kept = {m: each for m, each in operations.items() if not each.get(OWN_ACCOUNT)}
        for operation in kept.values():
            security = operation.get("security", [])
            operation["security"] = [each for each in security if "session" not in each]
        if kept:
            yield path, kept
