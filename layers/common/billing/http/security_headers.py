"""Headers that keep a browser from doing with an answer what it was not made for."""

from collections.abc import MutableMapping

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # Two years. Browsers heed it over https alone, so the laptop is not locked out.
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
}


def add_to(headers: MutableMapping[str, str]) -> None:
    """Adds those that are missing: a page may have a policy of its own."""
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
