"""Identifiers and secrets in Commet's forms."""

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits
# One character per random byte. 256 is no multiple of 62, so a character has a twentieth of a bit
# less.
_BY_BYTE = (_ALPHABET * 5)[:256].encode()


def new_id(prefix: str) -> str:
    """A random public id such as `sub_k3J…`."""
    return f"{prefix}_{_random(20)}"


def new_secret(prefix: str) -> str:
    """Returns a secret with about 190 random bits after its prefix."""
    return f"{prefix}_{_random(32)}"


def _random(length: int) -> str:
    return secrets.token_bytes(length).translate(_BY_BYTE).decode()
