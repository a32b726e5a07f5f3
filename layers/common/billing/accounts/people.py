"""Says who a person is, so that an erased account is recognised when the person comes back.

What is stored is a keyed hash (HMAC). Without the key, which is not in the database, nobody can try
addresses or ids until one fits. The key never changes: with another one nobody would be recognised.
So it is a secret of its own, which outlives the stack. Users of an identity provider are known by a
hash of its random subject (database/routines/identities.sql).
"""

import hashlib
import hmac

from billing import email_address


class People:
    """Makes the hashes with a secret."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def of_address(self, email: str) -> bytes:
        """Of a person with an account here: every spelling of one address gives the same."""
        return self._hash("address", email_address.key(email))

    def of_product_id(self, user_id: str) -> bytes:
        """Of a product's user, by the id that the product gave."""
        return self._hash("product", user_id)

    def _hash(self, *parts: str) -> bytes:
        return hmac.digest(self._key, "\x00".join(("person", *parts)).encode(), hashlib.sha256)
