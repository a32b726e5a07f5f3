"""Where the backend is, and which key opens it."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

VARIABLES = ("BILLING_URL", "BILLING_KEY")

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def base_url(url: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The backend's address without a slash at its end.

    Raises ValueError if neither the argument nor BILLING_URL names one, or if the key would travel
    unencrypted: http is for this machine only.
    """
    named = url or environment.get("BILLING_URL")
    if not named:
        raise ValueError("Say where the billing backend is: BILLING_URL, or the argument url.")
    parts = urlsplit(named)
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError("The billing backend's address begins with https://.")
    return named.rstrip("/")


def origin(url: str) -> str:
    """The part of an address that errors may show: without a path, and without a login in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def service_key(key: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The service key. Raises ValueError if neither the argument nor BILLING_KEY has one."""
    named = key or environment.get("BILLING_KEY")
    if not named:
        raise ValueError("A service key is needed: BILLING_KEY, or the argument key.")
    return named


def headers(key: str) -> dict[str, str]:
    """The headers of every request."""
    return {"authorization": f"Bearer {key}", "accept": "application/json"}
