"""Headers that keep a browser from running, framing or guessing the type of an answer."""

from collections.abc import MutableMapping

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # Two years. Browsers ignore this header over plain http, so the local stack remains reachable.
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
}


def add_to(headers: MutableMapping[str, str]) -> None:
    """Adds the headers that are missing. A page that sets its own policy keeps it."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
