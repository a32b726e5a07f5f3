"""Sign-up and sign-in."""

from typing import Annotated

from pydantic import AfterValidator, Field

from billing.field_types import Email, Name, Text, encodable
from billing.http.shapes.base import Reply, Request, Time, UserIdReply

NewPassword = Annotated[
    str,
    Field(
        min_length=8,
        max_length=128,
        description="The new password. Common passwords, and ones made of the email address or the"
        " product's name, are refused.",
        examples=["a long walk home"],
        json_schema_extra={"format": "password"},
    ),
    AfterValidator(encodable),
]

TypedPassword = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="The account's password.",
        examples=["a long walk home"],
        json_schema_extra={"format": "password"},
    ),
    AfterValidator(encodable),
]

LinkToken = Annotated[
    Text,
    Field(
        max_length=200,
        description="The token of the link in the mail.",
        examples=["lnk_4b1f9f3e6c2a"],
    ),
]

OwnEmail = Annotated[
    Email,
    Field(
        description="The account's email address.",
        examples=["ana@example.com"],
        json_schema_extra={"format": "idn-email"},
    ),
]

ContactEmail = Annotated[
    Email,
    Field(
        description="The address that invoices go to. Several users may have the same.",
        examples=["ana@example.com"],
        json_schema_extra={"format": "idn-email"},
    ),
]

EmailReply = Annotated[str, Field(json_schema_extra={"format": "idn-email"})]

InCookie = Annotated[
    bool,
    Field(
        description="Whether the session's token is set as a cookie, for pages, and not in the"
        " answer's body."
    ),
]


class SignUp(Request):
    """A new account with an email address and a password."""

    email: OwnEmail
    password: NewPassword
    name: Name | None = Field(
        default=None, description="The person's name, as invoices have it.", examples=["Ana Torres"]
    )
    cookie: InCookie = False


class SignIn(Request):
    """The address and password of an account."""

    email: OwnEmail
    password: TypedPassword
    cookie: InCookie = False


class SignInByLink(Request):
    """The token of a link to sign in with."""

    token: LinkToken
    cookie: InCookie = False


class UserReply(Reply):
    """A user, as invoices name them."""

    id: UserIdReply
    email: EmailReply | None = Field(
        description="The user's email address. Null until an identity provider tells one.",
        examples=["ana@example.com"],
    )
    name: str | None = Field(
        description="The user's name. Null where none was given.", examples=["Ana Torres"]
    )


class SessionReply(Reply):
    """A session that was opened."""

    token: str | None = Field(
        description="Send it as `Authorization: Bearer …`. Null where it was set as a cookie.",
        examples=["ses_5f0c9e7d2b1a4c3e"],
    )
    expires_at: Time = Field(
        description="When the session ends, unless it is used. Each use moves the end."
    )


class SignedIn(Reply):
    """A user who signed in, and the session."""

    user: UserReply
    session: SessionReply
