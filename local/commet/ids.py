"""Identifiers and secrets in the forms Commet uses."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """A random public id such as `sub_k3J…`."""
    return f"{prefix}_{_random(20)}"


def new_secret(prefix: str) -> str:
    """A secret with 190 bits or more behind its prefix."""
    return f"{prefix}_{_random(32)}"


def _random(length: int) -> str:
    # One draw for all characters: a call of the system per character was a tenth of a request.
    number = int.from_bytes(secrets.token_bytes(length))
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
