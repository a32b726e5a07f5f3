"""The tokens in links of mails: to prove an address, to set a password, to sign in.

A token is the id of its row in `account_tokens` and an HMAC of that id, with a key derived from the
app secret. The database has the id, but not the key. So a mail can wait in the database until it is
sent, and nobody who reads the database can make its link.
"""

import hashlib
import hmac
import re
import secrets
from datetime import timedelta

# How long a token is valid, by its purpose.
LASTING = {
    "verify_email": timedelta(hours=24),
    "change_email": timedelta(hours=24),
    "reset_password": timedelta(minutes=30),
    "sign_in": timedelta(minutes=10),
}

_CONTEXT = b"account token"
_ID = re.compile(r"act_[0-9a-f]{24}")


def new_id() -> str:
    """Returns a new random id of a token."""
    return f"act_{secrets.token_hex(12)}"


def token_of(app_secret: str, token_id: str) -> str:
    """Returns the token of the id, for the link of a mail."""
    return f"{token_id}.{_mac(app_secret, token_id)}"


def id_of(app_secret: str, token: str) -> str | None:
    """Returns the id of the token; None for a text that is no token of ours.

    The token's row in the database says whether the token was used or has expired.
    """
    token_id, _, mac = token.partition(".")
    if not _ID.fullmatch(token_id):
        return None
    expected = _mac(app_secret, token_id).encode()
    return token_id if hmac.compare_digest(mac.encode("utf-8", "replace"), expected) else None


def _mac(app_secret: str, token_id: str) -> str:
    key = hmac.digest(app_secret.encode(), _CONTEXT, hashlib.sha256)
    return hmac.digest(key, token_id.encode(), hashlib.sha256).hex()
