"""Which Commet a key stands for."""

import re

SANDBOX_BASE_URL = "https://commet.co/api/v1"


class KeyRefusedError(Exception):
    """The key must not, or cannot, be used here."""


def check_sandbox_key(key: str) -> str:
    """The key, if it is one of Commet's sandbox. Raises KeyRefusedError without quoting it."""
    if re.match(r"[cr]k_live_", key):
        raise KeyRefusedError(
            "COMMET_API_KEY is a live key: the local stack would bill real people. "
            "Use a sandbox key (ck_sandbox_..., rk_sandbox_...), or none for the stand-in."
        )
    if not re.fullmatch(r"[cr]k_sandbox_[!-~]+", key):
        raise KeyRefusedError(
            "COMMET_API_KEY is not a sandbox key: those begin with ck_sandbox_ or rk_sandbox_."
        )
    return key
