"""Users, signing up, and finding the user of a password or a session.

A session is a random token of 256 bits. Only its SHA-256 is stored. A session ends seven days after
its last use, and 30 days after it began at the latest.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing import email_address
from billing.accounts import erasing, tokens
from billing.audit import trail
from billing.audit.trail import Action, Actor
from billing.database.connection import Database, Row
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidCredentials,
    InvalidRequest,
    NotFound,
    Unauthenticated,
)

_sql = Statements(__file__)

TOKEN_PREFIX = "ses_"  # noqa: S105 - the beginning of every token, not a secret
# The prefixes of ids of this project and of Commet. Some code looks up ids of several kinds
# (customers of webhooks, and `show`). A user with such an id could be taken for somebody else
# there.
RESERVED_PREFIXES = (
    *("usr_", "ses_", "sess_", "act_", "svc_", "chg_"),
    *("cus_", "sub_", "pln_", "pp_", "ftr_", "inv_", "txn_", "pay_", "evt_", "whe_", "whev_"),
)
SLIDING = timedelta(days=7)
LONGEST = timedelta(days=30)

_TOUCH_EVERY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class User:
    """A user. `is_unverified`: an own account whose address is not proven."""

    id: str
    email: str | None  # None: the identity provider's token has none, and nobody has set one
    name: str | None
    is_unverified: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was just opened. `id` names it in the user's list; only `token` opens it."""

    id: str
    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a session begins: the name of the device, and the stored form of its network."""

    device: str | None = None
    network: str | None = None


NOWHERE = Origin()


def sign_up(
    db: Database,
    *,
    email: str,
    password_hash: str,
    name: str | None,
    now: datetime,
    origin: Origin = NOWHERE,
    person: bytes | None = None,
) -> tuple[User, Session]:
    """Creates an unverified account and its first session. Queues the mail that proves the address.

    `person` is a hash that says who the person is (accounts/people.py). An account that was erased
    is recognised by it. Raises Conflict `email_taken` if a verified account has the address.
    """
    session = new_session(now)
    user = User(f"usr_{secrets.token_hex(12)}", email, name, is_unverified=True)
    params = {
        "id": user.id,
        "email": email,
        "email_key": email_address.key(email),
        "name": name,
        "password_hash": password_hash,
        "person": person,
        "now": now,
        "token_id": tokens.new_id(),
        "lasting": tokens.LASTING["verify_email"],
        **session_row(session, origin),
    }
    if not db.value(_sql["sign_up"], params):
        raise email_taken()
    return user, session


def email_taken() -> Conflict:
    """Returns the error to raise if a verified account has this email address."""
    return Conflict("There is already an account with this email address.", code="email_taken")


def email_unverified() -> Forbidden:
    """Returns the error to raise if an own account has to prove its address first."""
    return Forbidden(
        "Confirm your email address first: open the link in the mail that we sent.",
        code="email_unverified",
    )


def require_verified(user: User) -> None:
    """Raises Forbidden `email_unverified` for an own account whose address is not proven."""
    if user.is_unverified:
        raise email_unverified()


def by_password(
    db: Database, *, email: str, password: str, verify: Callable[[str | None, str], bool]
) -> tuple[User, str]:
    """Returns the verified account with this address and password, and the stored hash.

    Raises InvalidCredentials in all other cases: the address is unknown or not proven, or the
    password is wrong.
    """
    row = db.one(_sql["user_by_email"], {"email_key": email_address.key(email)})
    if not verify(row["password_hash"] if row else None, password) or row is None:
        raise InvalidCredentials(of_user=row["id"] if row else None)
    return _user(row), row["password_hash"]


def password_hash_of(db: Database, user_id: str) -> str | None:
    """Returns the stored hash of a user's password; None for a user without a password."""
    found: str | None = db.value(_sql["password_of"], {"user_id": user_id})
    return found


def begin_session(
    db: Database,
    user: User,
    password_hash: str,
    now: datetime,
    origin: Origin = NOWHERE,
    *,
    person: bytes | None = None,
) -> Session:
    """Begins a session of a verified account. The caller has just checked the password's hash.

    `person` is that of `sign_up`, and replaces the stored one. Raises InvalidCredentials if the
    password was changed since that check.
    """
    session = new_session(now)
    params = {
        "user_id": user.id,
        "password_hash": password_hash,
        "person": person,
        "now": now,
        **session_row(session, origin),
    }
    if not db.value(_sql["begin_session"], params):
        raise InvalidCredentials
    return session


def rehash(db: Database, user_id: str, *, old: str, new: str) -> None:
    """Stores a new hash of the same password, unless the password was changed meanwhile."""
    db.execute(_sql["rehash"], {"user_id": user_id, "old": old, "new": new})


def is_known_network(db: Database, user_id: str, network: str | None) -> bool:
    """Returns whether the account has signed in from this network before."""
    return bool(db.value(_sql["is_known_network"], {"user_id": user_id, "network": network}))


def user_of_session(db: Database, token: str, now: datetime) -> User:
    """Returns the user of the session with this token.

    Raises Unauthenticated for an unknown token and for a session that has ended.
    """
    row = db.one(
        _sql["use_session"],
        {
            "token_sha256": digest(token),
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
    """Ends the session. An unknown token is no error, because its session may have ended
    already.
    """
    db.execute(_sql["delete_session"], {"token_sha256": digest(token)})


def put_user(
    db: Database,
    *,
    user_id: str,
    email: str,
    name: str | None,
    now: datetime,
    deadline: Deadline,
    by: Actor = trail.SOMEBODY,
    person: bytes | None = None,
) -> tuple[User, bool]:
    """Registers or updates a user of a product, who has no password here.

    Returns the user, and whether the user is new. A user who signed up here keeps the own email and
    name. The address is contact data, so several users may have it. `person` is that of `sign_up`.
    Raises Conflict `being_erased` if an erased user still has the id, and InvalidRequest for a new
    user whose id could be taken for an id of ours or of Commet's.
    """
    if _is_reserved(user_id) and db.one(_sql["user_by_id"], {"id": user_id}) is None:
        reserved = "Ids that begin so are this project's or the billing provider's."
        raise InvalidRequest(errors=[FieldError("user_id", "reserved_prefix", reserved)])
    params = {
        "id": user_id,
        "email": email,
        "email_key": email_address.key(email),
        "name": name,
        "person": person,
        "now": now,
        "registered": trail.entry(by, Action.REGISTERED),
        "changed": trail.entry(by, Action.CHANGED),
    }
    row = db.one(_sql["put_user"], params)
    if row is None:  # an erased user has the id
        erasing.make_way(db, user_id, deadline)
        row = db.one(_sql["put_user"], params)
    if row is None:
        raise erasing.being_erased()
    return _user(row), bool(row["created"])


def patch_user(
    db: Database,
    user_id: str,
    *,
    email: str | None,
    name: str | None,
    clear_name: bool = False,
    by: Actor = trail.SOMEBODY,
) -> User:
    """Changes the address or the name of a user of a product. A value of None changes nothing.

    Raises NotFound `unknown_user`, and Conflict `own_account` for a user who signed up here.
    """
    params = {
        "id": user_id,
        "email": email,
        "email_key": None if email is None else email_address.key(email),
        "name": name,
        "clear_name": clear_name,
        "changed": trail.entry(by, Action.CHANGED),
    }
    row = db.one(_sql["patch_user"], params)
    if row is None:
        user_by_id(db, user_id)
        raise Conflict("The user signed up here and keeps their own data.", code="own_account")
    return _user(row)


def user_by_id(db: Database, user_id: str) -> User:
    """Returns the user with this id. Raises NotFound `unknown_user`."""
    row = db.one(_sql["user_by_id"], {"id": user_id})
    if row is None:
        raise NotFound("There is no user with this id.", code="unknown_user")
    return _user(row)


def _is_reserved(user_id: str) -> bool:
    return user_id.lower().startswith(RESERVED_PREFIXES)


def new_session(now: datetime) -> Session:
    """Returns a session with a random id and token. It is not stored yet."""
    return Session(
        id=f"sess_{secrets.token_hex(12)}",
        token=TOKEN_PREFIX + secrets.token_hex(32),
        expires_at=now + SLIDING,
    )


def session_row(session: Session, origin: Origin) -> Row:
    """Returns a new session as parameters for the statement that stores it."""
    return {
        "token_sha256": digest(session.token),
        "session_id": session.id,
        "expires_at": session.expires_at,
        "device": origin.device,
        "network": origin.network,
    }


def digest(token: str) -> bytes:
    """Returns the SHA-256 of a session's token, under which the session is stored."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _user(row: Row) -> User:
    return User(row["id"], row["email"], row["name"], row["is_unverified"])
