"""Passwords, hashed with argon2id. `billing.http.shapes` checks their length.

Sources: OWASP Password Storage Cheat Sheet (19 MiB, 2 passes, 1 lane) and NIST SP 800-63B.
"""

import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from billing.errors import FieldError, InvalidRequest

SHORTEST = 8
_SHORTEST_WORD = 3

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# If the email is unknown, the password is checked against this hash, so that the answer takes as
# long as for a known email. It is the hash of 200 random digits, longer than any password we
# accept.
_NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$qpguGHwrNlYr5ha5mr/FYQ"
    "$fMhT672CN3OAUAdfLsMXV9OLYjsWrL7cJmzx9iS7+Gg"
)


def hash_password(password: str, *, email: str, product: str = "") -> str:
    """Returns the hash to store, with salt and parameters.

    Raises InvalidRequest for a common password, and for one that is little more than the address, a
    part of it, or the product's name.
    """
    normal = _normal(password)
    if len(normal) < SHORTEST:
        raise _refused("string_too_short", f"Use at least {SHORTEST} characters.")
    if normal.lower() in _common_passwords():
        raise _refused("too_common", "Choose a less common password.")
    if _letters(normal) in _context_words(email, product):
        raise _refused("too_easy_to_guess", "Do not use the address or this product's name.")
    return _hasher.hash(normal)


def verify_password(stored: str | None, password: str) -> bool:
    """Returns whether the password matches the stored hash. Takes as long if `stored` is None."""
    try:
        _hasher.verify(stored or _NOBODY, _normal(password))
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def rehashed(stored: str, password: str) -> str | None:
    """Returns a new hash of a password that was just verified; None if `stored` has today's
    parameters.

    The rules for new passwords do not apply, because the user has this password already.
    """
    return _hasher.hash(_normal(password)) if _hasher.check_needs_rehash(stored) else None


def _normal(password: str) -> str:
    # Some keyboards send an accented letter as one character, others as two. Both are the same
    # password.
    return unicodedata.normalize("NFKC", password)


def _letters(text: str) -> str:
    """Returns the letters of a text. Digits and signs do not make a name a better password."""
    return "".join(each for each in _normal(text).lower() if each.isalpha())


def _context_words(email: str, product: str) -> frozenset[str]:
    local, _, domain = email.rpartition("@")
    words = {email, local, domain, domain.rpartition(".")[0], product}
    return frozenset(each for each in map(_letters, words) if len(each) >= _SHORTEST_WORD)


def _refused(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        "The password is too easy to guess.", errors=[FieldError("password", code, message)]
    )


@cache
def _common_passwords() -> frozenset[str]:
    # Imported late, because only a new password needs these 30,000 strings.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
