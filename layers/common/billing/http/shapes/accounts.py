"""Accounts: a person's own, and users of the product. Export, erasure, audit."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from billing.field_types import Email, Name
from billing.http.json_schema import one_of
from billing.http.shapes.base import NextCursor, Reply, Request, Time, UserIdReply
from billing.http.shapes.signing_in import (
    ContactEmail,
    EmailReply,
    LinkToken,
    NewPassword,
    OwnEmail,
    TypedPassword,
    UserReply,
)


class AccountReply(Reply):
    """A user's own account."""

    id: UserIdReply
    email: EmailReply | None = Field(
        description="The account's email address. Null until the identity provider tells one.",
        examples=["ana@example.com"],
    )
    email_verified: bool = Field(description="Whether the address is proven to be the user's.")
    next_email: EmailReply | None = Field(
        description="Replaces `email` once the link in the mail to it was confirmed. Null where no"
        " change is asked for.",
        examples=["ana@example.org"],
    )
    name: str | None = Field(
        description="The user's name. Null where none was given.", examples=["Ana Torres"]
    )
    own_account: bool = Field(description="Whether the user signed up here, with a password.")
    created_at: Time = Field(description="When the account was made.")


class AccountShown(Reply):
    """The account of the caller."""

    account: AccountReply


AboutThresholds = Annotated[
    bool,
    Field(
        strict=True,
        description="Whether you get mails when usage or spending reaches a threshold.",
        examples=[True],
    ),
]


class MailPreferences(Request):
    """Which mails you want. Mails about payments and the end of a trial are always sent."""

    thresholds: AboutThresholds


class MailPreferencesReply(Reply):
    """Which mails you get, of those that you can switch off."""

    thresholds: AboutThresholds


class AccountChange(Request):
    """What is to change. A field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Ana Torres"}]})

    name: Name | None = Field(
        default=None, description="The new name. Null removes the name.", examples=["Ana Torres"]
    )
    email: Email | None = Field(
        default=None,
        description="The next address. It counts once it is confirmed by the link in a mail; of a"
        " user of an identity provider, at once.",
        examples=["ana@example.org"],
        json_schema_extra={"format": "idn-email"},
    )
    current_password: TypedPassword | None = Field(
        default=None,
        description="The password. Needed for another address by those who have one here.",
    )


class VerifyEmail(Request):
    """Confirms an address, by the account's session or with its password."""

    token: LinkToken
    password: TypedPassword | None = Field(
        default=None, description="Needed where the request has no session of the account."
    )


class ChangePassword(Request):
    """The old password and the new one."""

    current_password: TypedPassword
    password: NewPassword


class ForgotPassword(Request):
    """Whose password was forgotten."""

    email: OwnEmail


class ResetPassword(Request):
    """A new password, and the token that permits setting it."""

    token: LinkToken
    password: NewPassword


class ListedSession(Reply):
    """One of the caller's sessions."""

    id: str = Field(
        description="The session's id, with which it can be ended.",
        examples=["sess_91ce04b7a2d85f36"],
    )
    current: bool = Field(description="Whether it is the session of this request.")
    device: str | None = Field(
        description="The browser and the system. Null where they are not known.",
        examples=["Firefox on Linux"],
    )
    created_at: Time = Field(description="When the person signed in.")
    last_seen_at: Time = Field(description="When the session was last used, to the hour.")
    expires_at: Time = Field(description="When the session ends, unless it is used.")


class SessionList(Reply):
    """All sessions of the caller."""

    sessions: list[ListedSession] = Field(description="The session of this request comes first.")


class PutUser(Request):
    """A user of your product, as invoices name them."""

    email: ContactEmail
    name: Name | None = Field(
        default=None, description="The user's name, as invoices have it.", examples=["Ana Torres"]
    )


class PatchUser(Request):
    """What is left out stays as it is."""

    email: ContactEmail | None = None
    name: Name | None = Field(
        default=None, description="The new name. Null removes the name.", examples=["Ana Torres"]
    )


class UserPut(Reply):
    """A user."""

    user: UserReply


class ErasureReply(Reply):
    """An erasure that has begun."""

    user_id: UserIdReply
    erased: Literal[True] = Field(
        default=True, description="Name and address are gone. The rest follows by itself."
    )


class Export(Reply):
    """Everything recorded about a user. Follow `next_cursor` until it is null."""

    user_id: UserIdReply
    exported_at: Time = Field(description="When this page was made.")
    sections: dict[str, list[dict[str, Any]]] = Field(
        description="Rows by section. A page goes on where the last one ended.",
        examples=[{"account": [{"id": "usr_8f2c41d09ab37e65f1c0d2b4"}]}],
    )
    next_cursor: NextCursor


class EraseAccount(Request):
    """Your password, typed anew."""

    password: TypedPassword


class AuditEntry(Reply):
    """One entry of the audit trail."""

    at: Time = Field(description="When it was done.")
    actor_kind: Annotated[str, one_of("user", "service", "operator", "system")] = Field(
        description="Who did it: the user, a service key, an operator or the stack itself."
    )
    actor: str | None = Field(
        description="The user's id, the service key's name or the operator's author. Null where"
        " nobody was signed in.",
        examples=["usr_8f2c41d09ab37e65f1c0d2b4"],
    )
    action: str = Field(description="What was done.", examples=["account.signed_in"])
    outcome: str = Field(description="`done`, or the code of the refusal.", examples=["done"])
    request_id: str | None = Field(
        description="The id of the request. Null where there was none.",
        examples=["JKJaXmPLvHcESHA="],
    )
    network: str | None = Field(
        description="Of sign-ins: a part of the client's address, a /24 (IPv4) or a /48 (IPv6).",
        examples=["203.0.113.0/24"],
    )
    details: dict[str, str | int | bool] = Field(
        description="What belongs to the action, by name.", examples=[{"by_link": True}]
    )


class AuditPage(Reply):
    """Some entries of the audit trail."""

    entries: list[AuditEntry] = Field(description="Newest first.")
    next_cursor: NextCursor
