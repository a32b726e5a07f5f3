"""The addresses with which a person switches mails off, without signing in (RFC 8058).

The token of an address is a user's id and an HMAC of that id, with a key derived from the app
secret. It never expires and works any number of times. It only switches mails off, so somebody who
finds one can do nothing else.
"""

import hashlib
import hmac
import re
from urllib.parse import quote

PATH = "/unsubscribe"

_CONTEXT = b"unsubscribe"
_USER_ID = re.compile(r"usr_[0-9A-Za-z_]{1,60}")  # other users get no mails


def url_of(api_url: str, app_secret: str, user_id: str) -> str:
    """Returns the address that switches a user's mails off. `api_url` is the API's address."""
    token = quote(token_of(app_secret, user_id), safe="")
    return f"{api_url.rstrip('/')}{PATH}?token={token}"


def token_of(app_secret: str, user_id: str) -> str:
    """Returns the token of a user."""
    return f"{user_id}.{_mac(app_secret, user_id)}"


def user_of(app_secret: str, token: str) -> str | None:
    """Returns the user's id in a token of ours; None for any other text."""
    user_id, _, mac = token.partition(".")
    if not _USER_ID.fullmatch(user_id):
        return None
    expected = _mac(app_secret, user_id).encode()
    return user_id if hmac.compare_digest(mac.encode("utf-8", "replace"), expected) else None


def _mac(app_secret: str, user_id: str) -> str:
    key = hmac.digest(app_secret.encode(), _CONTEXT, hashlib.sha256)
    return hmac.digest(key, user_id.encode(), hashlib.sha256).hex()
