"""Users whom an identity provider brings.

Issuer and subject of a token say who the user is. With the first token, a user with an id of ours
is created. The address in a token is contact data: nobody is ever found by it.
"""

import secrets
from datetime import datetime
from typing import TYPE_CHECKING

from aws_lambda_powertools import Logger
from pydantic import TypeAdapter, ValidationError

from billing import email_address
from billing.accounts.accounts import User
from billing.audit import trail
from billing.audit.trail import SOMEBODY, Action, Actor
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.errors import NotFound, Unauthenticated
from billing.field_types import Email, Name

if TYPE_CHECKING:
    from billing.credentials.identity_tokens import Identity

_sql = Statements(__file__)

logger = Logger(child=True)

_email: TypeAdapter[str] = TypeAdapter(Email)
_name: TypeAdapter[str] = TypeAdapter(Name)


def user_of(db: Database, identity: "Identity", now: datetime, *, by: Actor = SOMEBODY) -> User:
    """Returns the user of an identity. Creates the user with the first token.

    An address or a name that our own forms would refuse is left out. `by` is the person in this
    request, for the audit trail. Raises Unauthenticated for a token that was issued before the
    person was erased.
    """
    email = _valid(_email, identity.email)
    row = db.one(
        _sql["user_of_identity"],
        {
            "issuer": identity.issuer,
            "subject": identity.subject,
            "new_id": f"usr_{secrets.token_hex(12)}",
            "email": email,
            "email_key": None if email is None else email_address.key(email),
            "is_proven": identity.email_verified,
            "name": _valid(_name, identity.name),
            "issued_at": identity.issued_at,
            "now": now,
            "entry": trail.entry(by, Action.REGISTERED),
        },
    )
    if row is None:
        raise Unauthenticated("The account was erased. Sign in at the identity provider again.")
    if row["appeared"]:
        logger.info("user.appeared", extra={"user_id": row["id"]})
    return User(row["id"], row["email"], row["name"])


def find(db: Database, issuer: str, subject: str) -> User:
    """Returns the user with this issuer and subject. Raises NotFound `unknown_user`."""
    row = db.one(_sql["find"], {"issuer": issuer, "subject": subject})
    if row is None:
        raise NotFound(
            "The issuer has sent no token of a user with this subject yet.", code="unknown_user"
        )
    return User(row["id"], row["email"], row["name"])


def _valid(kind: TypeAdapter[str], value: str | None) -> str | None:
    try:
        return None if value is None else kind.validate_python(value)
    except ValidationError:
        return None
