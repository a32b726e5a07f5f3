"""Passwords: hashed with argon2id at OWASP strength; the length is asked for by the schemas.

Source: OWASP Password Storage Cheat Sheet (19 MiB, 2 passes, 1 lane) and NIST SP 800-63B.
"""

from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from billing.errors import FieldError, InvalidRequest

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# What an unknown email is checked against, so that it takes as long as a known one: the hash of
# 200 random digits, longer than any password we accept.
_NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$qpguGHwrNlYr5ha5mr/FYQ"
    "$fMhT672CN3OAUAdfLsMXV9OLYjsWrL7cJmzx9iS7+Gg"
)


def hash_password(password: str) -> str:
    """The hash to store, salt and parameters included; raises InvalidRequest for a common one."""
    if password.lower() in _common_passwords():
        raise InvalidRequest(
            "The password is one of the most common ones.",
            errors=[FieldError("password", "too_common", "Choose a less common password.")],
        )
    return _hasher.hash(password)


def verify_password(stored: str | None, password: str) -> bool:
    """Whether the password is right. Takes the same time where there is no stored hash."""
    try:
        _hasher.verify(stored or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


@cache
def _common_passwords() -> frozenset[str]:
    # Late: 30,000 strings that only sign-up needs.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])
