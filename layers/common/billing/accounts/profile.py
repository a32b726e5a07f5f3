"""The parts of an account that its user sees and changes, and those that an operator changes."""

from dataclasses import dataclass
from datetime import datetime

from billing import email_address
from billing.accounts import accounts
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import Conflict, InvalidCredentials, NotFound

_sql = Statements(__file__)


@dataclass(frozen=True, slots=True)
class Account:
    """A user. `next_email` waits to be proven and then replaces `email`."""

    id: str
    email: str | None
    name: str | None
    own_account: bool
    is_proven: bool  # to us, or to the identity provider that brought the user
    created_at: datetime
    next_email: str | None


def show(db: Database, user_id: str, now: datetime) -> Account:
    """Returns the account with this id. Raises NotFound `unknown_user`."""
    row = db.one(_sql["show"], {"user_id": user_id, "now": now})
    if row is None:
        raise NotFound("There is no user with this id.", code="unknown_user")
    return Account(**row)


def rename(db: Database, user_id: str, name: str | None) -> None:
    """Sets the user's name; None removes it."""
    db.execute(_sql["rename"], {"user_id": user_id, "name": name})


def change_password(
    db: Database, user_id: str, *, old_hash: str, new_hash: str, token: str, now: datetime
) -> None:
    """Sets the password, and ends all sessions except that of `token`.

    `old_hash` is the stored hash of the password that the user typed. Raises InvalidCredentials if
    the password was changed meanwhile.
    """
    params = {
        "user_id": user_id,
        "old": old_hash,
        "new": new_hash,
        "keep": accounts.digest(token),
        "now": now,
    }
    if not db.value(_sql["change_password"], params):
        raise InvalidCredentials


def verify_address(db: Database, user_id: str, email: str | None, now: datetime) -> None:
    """Marks an address as proven, on the word of an operator: `email`, or the account's own.

    Raises NotFound `unknown_user`; Conflict `not_an_own_account`, and `email_taken` if another
    account has the address.
    """
    key = None if email is None else email_address.key(email)
    params = {"user_id": user_id, "email": email, "email_key": key, "now": now}
    _raise(db.value(_sql["verify_address"], params))


def free_address(db: Database, user_id: str, now: datetime) -> None:
    """Takes the address from an account, so that another account can prove to have it.

    All sessions of the account end, and nobody can sign in to it. Raises NotFound `unknown_user`
    and Conflict `not_an_own_account`.
    """
    _raise(db.value(_sql["free_address"], {"user_id": user_id, "now": now}))


def _raise(refused: str | None) -> None:
    if refused == "email_taken":
        raise accounts.email_taken()
    if refused == "unknown_user":
        raise NotFound("There is no user with this id.", code="unknown_user")
    if refused is not None:
        raise not_an_own_account()


def not_an_own_account() -> Conflict:
    """Returns the error to raise if an action is only for users who signed up here."""
    return Conflict("The user did not sign up here.", code="not_an_own_account")
