"""The tokens in links of mails: for the proof of an address, a new password, a sign-in.

A token is the id of its row in `account_tokens` and an HMAC of that id, under a key derived from
the app secret. The database has the id and nothing that the HMAC could be made from. So a mail can
wait in the database until it is sent, and nobody who reads the database can make its link.
"""

import hashlib
import hmac
import re
import secrets
from datetime import timedelta

# How long a token is good, by its purpose.
LASTING = {
    "verify_email": timedelta(hours=24),
    "change_email": timedelta(hours=24),
    "reset_password": timedelta(minutes=30),
    "sign_in": timedelta(minutes=10),
}

_CONTEXT = b"account token"
_ID = re.compile(r"act_[0-9a-f]{24}")


def new_id() -> str:
    """A new random id of a token."""
    return f"act_{secrets.token_hex(12)}"


def token_of(app_secret: str, token_id: str) -> str:
    """The token that belongs to the id, for the link of a mail."""
    return f"{token_id}.{_mac(app_secret, token_id)}"


def id_of(app_secret: str, token: str) -> str | None:
    """The id of the token; None for a text that is no token of ours.

    Says nothing about whether the token was used or has expired: its row in the database does.
    """
    token_id, _, mac = token.partition(".")
    if not _ID.fullmatch(token_id):
        return None
    expected = _mac(app_secret, token_id).encode()
    return token_id if hmac.compare_digest(mac.encode("utf-8", "replace"), expected) else None


def _mac(app_secret: str, token_id: str) -> str:
    key = hmac.digest(app_secret.encode(), _CONTEXT, hashlib.sha256)
    return hmac.digest(key, token_id.encode(), hashlib.sha256).hex()
