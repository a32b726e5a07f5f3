"""Signing up, signing in, and finding the user of a session.

A session is a random token of 256 bits. Only its SHA-256 is stored. A session ends seven days after
its last use, and 30 days after it began at the latest.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg.errors import UniqueViolation

from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.errors import Conflict, InvalidCredentials, NotFound, Unauthenticated

_sql = Statements(__file__)

TOKEN_PREFIX = "ses_"  # noqa: S105 - the beginning of every token, not a secret
SLIDING = timedelta(days=7)
LONGEST = timedelta(days=30)

_TOUCH_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class User:
    id: str
    email: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Session:
    token: str
    expires_at: datetime


def sign_up(
    db: Database,
    *,
    email: str,
    password_hash: str,
    name: str | None,
    now: datetime,
) -> tuple[User, Session]:
    """A new user and their first session. Raises Conflict `email_taken`."""
    session = _new_session(now)
    row = db.one(
        _sql["sign_up"],
        {
            "id": f"usr_{secrets.token_hex(12)}",
            "email": email,
            "name": name,
            "password_hash": password_hash,
            "now": now,
            "token_sha256": _digest(session.token),
            "expires_at": session.expires_at,
        },
    )
    if row is None:
        raise email_taken()
    return _user(row), session


def email_taken() -> Conflict:
    """The error to raise where another user has this email address."""
    return Conflict("There is already an account with this email address.", code="email_taken")


def sign_in(
    db: Database,
    *,
    email: str,
    password: str,
    verify: Callable[[str | None, str], bool],
    now: datetime,
) -> tuple[User, Session]:
    """The user and a new session.

    Raises InvalidCredentials, whether the email is unknown or the password wrong.
    """
    row = db.one(_sql["user_by_email"], {"email": email})
    if not verify(row["password_hash"] if row else None, password) or row is None:
        raise InvalidCredentials
    user = _user(row)
    return user, open_session(db, user, now)


def open_session(db: Database, user: User, now: datetime) -> Session:
    """A new session of this user."""
    session = _new_session(now)
    db.execute(
        _sql["insert_session"],
        {
            "token_sha256": _digest(session.token),
            "user_id": user.id,
            "now": now,
            "expires_at": session.expires_at,
        },
    )
    return session


def user_of_session(db: Database, token: str, now: datetime) -> User:
    """The user of the session with this token.

    Raises Unauthenticated for an unknown token and for a session that has ended.
    """
    row = db.one(
        _sql["use_session"],
        {
            "token_sha256": _digest(token),
            "now": now,
            "sliding": SLIDING,
            "longest": LONGEST,
            "touch_every": _TOUCH_EVERY,
        },
    )
    if row is None:
        raise Unauthenticated("The session is not valid or has ended. Sign in again.")
    return _user(row)


def close_session(db: Database, token: str) -> None:
    """Ends the session. An unknown token is no error: its session has ended already."""
    db.execute(_sql["delete_session"], {"token_sha256": _digest(token)})


def put_user(
    db: Database, *, user_id: str, email: str, name: str | None, now: datetime
) -> tuple[User, bool]:
    """Registers or updates a user of a product, who has no password here.

    Returns the user, and whether the user is new. A user who signed up here keeps their own email
    and name. Raises Conflict `email_taken` where another user has the address.
    """
    params = {"id": user_id, "email": email, "name": name, "now": now}
    try:
        row = db.one(_sql["put_user"], params)
    except UniqueViolation as error:
        raise email_taken() from error
    assert row is not None  # noqa: S101 - an upsert always returns its row
    return _user(row), bool(row["created"])


def user_by_id(db: Database, user_id: str) -> User:
    """The user with this id; raises NotFound `unknown_user`."""
    row = db.one(_sql["user_by_id"], {"id": user_id})
    if row is None:
        raise NotFound("There is no user with this id.", code="unknown_user")
    return _user(row)


def _user(row: Row) -> User:
    return User(row["id"], row["email"], row["name"])


def _new_session(now: datetime) -> Session:
    return Session(TOKEN_PREFIX + secrets.token_hex(32), now + SLIDING)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
