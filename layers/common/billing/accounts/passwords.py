"""Passwords, hashed with argon2id. Their length is checked by `billing.http.shapes`.

Sources: OWASP Password Storage Cheat Sheet (19 MiB, 2 passes, 1 lane) and NIST SP 800-63B.
"""

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from billing.errors import FieldError, InvalidRequest

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# With an unknown email, the password is checked against this hash, so that the answer takes as long
# as with a known one. It is the hash of 200 random digits, longer than any password we accept.
_NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$qpguGHwrNlYr5ha5mr/FYQ"
    "$fMhT672CN3OAUAdfLsMXV9OLYjsWrL7cJmzx9iS7+Gg"
)


def hash_password(password: str) -> str:
    """The hash to store, with salt and parameters. Raises InvalidRequest for a common password."""
    if password.lower() in _common_passwords():
        raise InvalidRequest(
            "The password is one of the most common ones.",
            errors=[FieldError("password", "too_common", "Choose a less common password.")],
        )
    return _hasher.hash(password)


def verify_password(stored: str | None, password: str) -> bool:
    """Whether the password matches the stored hash. Takes as long where `stored` is None."""
    try:
        _hasher.verify(stored or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


@cache
def _common_passwords() -> frozenset[str]:
    # Imported late: only a sign-up needs these 30,000 strings.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
