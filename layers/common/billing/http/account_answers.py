"""The answers about people's own accounts: address, password, sessions, erasure."""

import time
from contextlib import AbstractContextManager

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import wiring
from billing.accounts import accounts, erasing, passwords, profile, signing_in  # noqa: F401 - INIT
from billing.accounts import sessions as opened
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.errors import FieldError, InvalidRequest, Unauthenticated
from billing.http import api, auditing
from billing.http.shapes.accounts import (
    AccountChange,
    AccountReply,
    AccountShown,
    ChangePassword,
    ErasureReply,
    ForgotPassword,
    ListedSession,
    ResetPassword,
    SessionList,
    VerifyEmail,
)
from billing.http.sign_in import actor, client_address, origin
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT

# The least time, in seconds, of answers that must not show whether an account exists.
_ALIKE = 0.3


def show(user_id: str) -> AccountShown:
    """Returns a user's account. Raises the errors of `profile.show`."""
    found = profile.show(wiring.database(), user_id, wiring.now())
    account = AccountReply(
        id=found.id,
        email=found.email,
        email_verified=found.is_proven,
        next_email=found.next_email,
        name=found.name,
        own_account=found.own_account,
        created_at=found.created_at,
    )
    return AccountShown(account=account)


def change(app: APIGatewayHttpResolver, user: User, body: AccountChange) -> AccountShown:
    """Changes the name. For another address, mails a link to that address.

    Another address needs the password. If an identity provider signed the user in, it needs a
    recent token instead, and the address counts at once. Raises InvalidCredentials,
    TooManyRequests, Forbidden `recent_sign_in_required`, and InvalidRequest without a password.
    """
    if body.email is not None and api.recently_authenticated(app):
        accounts.patch_user(wiring.database(), user.id, email=body.email, name=None, by=actor(app))
    elif body.email is not None:
        with _audited(app, Action.EMAIL_CHANGE_ASKED, user.id):
            _confirm(app, user, body.current_password)
            wiring.links().send_to_next(user.id, body.email, wiring.now())
        wiring.mail_sender().wake()
    if "name" in body.model_fields_set:
        with _audited(app, Action.CHANGED, user.id):
            profile.rename(wiring.database(), user.id, body.name)
    return show(user.id)


def erase(app: APIGatewayHttpResolver, user: User, password: str | None) -> ErasureReply:
    """Erases the caller's account. Checks the password or a recent token, like `change`.

    All sessions end. The answer has to delete the cookie (`sign_in.no_cookie`).
    """
    if not api.recently_authenticated(app):
        _confirm(app, user, password, field="password")
    erasing.erase(wiring.database(), user.id, by=actor(app))
    return ErasureReply(user_id=user.id)


def verify_email(app: APIGatewayHttpResolver, body: VerifyEmail) -> AccountShown:
    """Confirms an address with a link and with the account's session or password.

    Raises Conflict `link_expired` and `email_taken`; Unauthenticated without password and session;
    InvalidCredentials and TooManyRequests.
    """
    now = wiring.now()
    linked = wiring.links().proving(body.token, now)
    user = api.user_if_known(app)
    is_next = linked.purpose == "change_email"
    action = Action.EMAIL_CHANGED if is_next else Action.EMAIL_VERIFIED
    with _audited(app, action, linked.user_id):
        if body.password is not None:
            wiring.signing_in().confirm(
                email=linked.email,
                stored=linked.password_hash,
                password=body.password,
                address=client_address(app),
                now=now,
            )
        elif user is None or user.id != linked.user_id:
            raise Unauthenticated("Sign in to the account of this link, or send its password.")
        wiring.links().prove(linked, now)
    wiring.mail_sender().wake()
    return show(linked.user_id)


def send_verification(app: APIGatewayHttpResolver) -> None:
    """Sends the caller the link that confirms the address. Raises TooManyRequests."""
    now = wiring.now()
    user = api.user(app)
    wiring.attempts().mail(client_address(app), now)
    with _audited(app, Action.VERIFICATION_SENT, user.id):
        wiring.links().send_verification(user.id, now)
    wiring.mail_sender().wake()


def change_password(app: APIGatewayHttpResolver, body: ChangePassword) -> None:
    """Changes the caller's password. All other sessions end.

    Raises InvalidCredentials and TooManyRequests for the old password, and InvalidRequest for the
    new one.
    """
    user = api.user(app)
    with _audited(app, Action.PASSWORD_CHANGED, user.id):
        old_hash = _confirm(app, user, body.current_password)
        profile.change_password(
            wiring.database(),
            user.id,
            old_hash=old_hash,
            new_hash=_hash(body.password, user.email or ""),
            token=api.session_token(app),
            now=wiring.now(),
        )
    wiring.mail_sender().wake()


def forgot_password(app: APIGatewayHttpResolver, body: ForgotPassword) -> None:
    """Sends a link to set a new password, if there is an account with this address.

    Takes as long if there is none. Raises TooManyRequests.
    """
    began = time.monotonic()
    now = wiring.now()
    wiring.attempts().mail(client_address(app), now)
    wiring.links().forgot_password(body.email, now, by=actor(app))
    # wakes also if nothing was queued, so that the answer takes as long
    wiring.mail_sender().wake()
    time.sleep(max(0.0, _ALIKE - (time.monotonic() - began)))


def reset_password(app: APIGatewayHttpResolver, body: ResetPassword) -> None:
    """Sets the password of the account that a link belongs to. All sessions end.

    Raises Conflict `link_expired` and `email_taken`, and InvalidRequest for a common password.
    """
    now = wiring.now()
    linked = wiring.links().resetting(body.token, now)
    with _audited(app, Action.PASSWORD_RESET, linked.user_id):
        wiring.links().reset_password(
            linked, _hash(body.password, linked.email), now, origin(app).network
        )
    wiring.mail_sender().wake()


def sessions(app: APIGatewayHttpResolver) -> SessionList:
    """Returns the caller's sessions. The session of this request comes first."""
    found = opened.of_user(
        wiring.database(), api.user(app).id, token=api.session_token(app), now=wiring.now()
    )
    listed = [
        ListedSession(
            id=each.id,
            current=each.is_current,
            device=each.device,
            created_at=each.created_at,
            last_seen_at=each.last_seen_at,
            expires_at=each.expires_at,
        )
        for each in found
    ]
    return SessionList(sessions=listed)


def end_other_sessions(app: APIGatewayHttpResolver) -> None:
    """Ends all sessions of the caller except that of this request."""
    user = api.user(app)
    with _audited(app, Action.SESSION_ENDED, user.id) as about:
        about["ended"] = opened.end_others(wiring.database(), user.id, api.session_token(app))


def end_session(app: APIGatewayHttpResolver, session_id: str) -> None:
    """Ends one session of the caller. Raises NotFound `session_not_found`."""
    user = api.user(app)
    with _audited(app, Action.SESSION_ENDED, user.id):
        opened.end(wiring.database(), user.id, session_id)


def _confirm(
    app: APIGatewayHttpResolver,
    user: User,
    password: str | None,
    *,
    field: str = "current_password",
) -> str:
    """Checks the password in this field of the body. Returns its stored hash."""
    stored = accounts.password_hash_of(wiring.database(), user.id)
    if stored is None or user.email is None:
        raise profile.not_an_own_account()
    if password is None:
        missing = FieldError(field, "missing", "Type the password again.")
        raise InvalidRequest(errors=[missing])
    wiring.signing_in().confirm(
        email=user.email,
        stored=stored,
        password=password,
        address=client_address(app),
        now=wiring.now(),
    )
    return stored


def _audited(
    app: APIGatewayHttpResolver, action: Action, user_id: str
) -> AbstractContextManager[auditing.Details]:
    return auditing.audited(app, action, user_id, by=actor(app))


def _hash(password: str, email: str) -> str:
    return passwords.hash_password(password, email=email, product=wiring.settings().product_name)
