"""Checks that a Commet API key is a sandbox key."""

import re

SANDBOX_BASE_URL = "https://commet.co/api/v1"


class KeyRefusedError(Exception):
    """The key is a live key, or does not look like a key of Commet."""


def check_sandbox_key(key: str) -> str:
    """Returns the key. Raises KeyRefusedError, without quoting the key, if it is no sandbox key."""
    if re.match(r"[cr]k_live_", key):
        raise KeyRefusedError(
            "COMMET_API_KEY is a live key, and the local stack would bill real people. "
            "Use a sandbox key (ck_sandbox_..., rk_sandbox_...), or no key for the stand-in."
        )
    if not re.fullmatch(r"[cr]k_sandbox_[!-~]+", key):
        raise KeyRefusedError(
            "COMMET_API_KEY is not a sandbox key. Sandbox keys begin with ck_sandbox_ or"
            " rk_sandbox_."
        )
    return key
