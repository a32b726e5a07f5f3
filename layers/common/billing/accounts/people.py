"""Hashes that say who a person is, so that a person who comes back after an erasure is recognised.

A keyed hash (HMAC) is stored. The key is not in the database, so nobody can try addresses or ids
until a hash fits. The key never changes, because nobody would be recognised with another key. So it
is a secret of its own, which remains when the stack is deleted. Users of an identity provider are
recognised by a hash of the random subject (database/routines/identities.sql).
"""

import hashlib
import hmac

from billing import email_address


class People:
    """Makes the hashes with a secret."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def of_address(self, email: str) -> bytes:
        """Returns the hash for an own account. Every spelling of one address has the same hash."""
        return self._hash("address", email_address.key(email))

    def of_product_id(self, user_id: str) -> bytes:
        """Returns the hash for a product's user, from the id that the product gave."""
        return self._hash("product", user_id)

    def _hash(self, *parts: str) -> bytes:
        return hmac.digest(self._key, "\x00".join(("person", *parts)).encode(), hashlib.sha256)
