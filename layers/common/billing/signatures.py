"""Did Commet really send this? Hex HMAC-SHA256 of the raw body; nothing else is signed.

The key is the whole secret as Commet shows it, `whsec_` included. There is no time in the
signature, so replays are told by the event's id.
"""

import hashlib
import hmac
from collections.abc import Iterable


def is_signed(body: bytes, signature: str, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets signed this body. Several are valid at once while one is rotated.

    Compares in constant time and accepts upper-case hex. An empty secret signs nothing.
    """
    claimed = signature.strip().lower().encode("utf-8", "surrogatepass")
    matches = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()
        matches |= bool(secret) and hmac.compare_digest(expected, claimed)
    return matches
