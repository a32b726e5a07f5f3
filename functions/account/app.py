"""A person's own account: its address, its password, its sessions."""

import time
from contextlib import AbstractContextManager
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing import wiring
from billing.accounts import (  # noqa: F401 - signing_in is loaded during INIT
    accounts,
    erasing,
    passwords,
    profile,
    sessions,
    signing_in,
)
from billing.accounts.accounts import User
from billing.audit.trail import Action
from billing.deadline import LambdaContext
from billing.errors import FieldError, InvalidRequest, Unauthenticated
from billing.http import api, auditing, sign_in
from billing.http.shapes import (
    AccountChange,
    AccountReply,
    AccountShown,
    ChangePassword,
    EraseAccount,
    ErasureReply,
    ForgotPassword,
    ListedSession,
    ResetPassword,
    SessionList,
    VerifyEmail,
)
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT

# Answers that must not tell whether an account exists take at least so long, in seconds.
_ALIKE = 0.3

app = api.resolver()


@app.get("/account", security=api.BY_USER, responses=api.answers(AccountShown, 200))
@api.may_answer("unknown_user")
def get_account() -> Response[AccountShown]:
    """Read your account. It has your address, your name and what is still to be confirmed."""
    return _shown(api.user(app).id)


@app.patch("/account", security=api.BY_USER, responses=api.answers(AccountShown, 200))
@api.may_answer(
    "invalid_credentials", "recent_sign_in_required", "too_many_requests", "unknown_user"
)
def update_account(body: Annotated[AccountChange, Body()]) -> Response[AccountShown]:
    """Change your name or your email address.

    Another address needs the password. A link is sent to it, and until the link is confirmed the
    old address stays. Then the old address gets a mail that says so.

    Who was signed in by an identity provider sends no password, but a token of the last ten
    minutes. The address then counts at once, as contact data, until the provider tells another one.
    """
    user = api.user(app)
    if body.email is not None and api.recently_authenticated(app):
        accounts.patch_user(
            wiring.database(), user.id, email=body.email, name=None, by=sign_in.actor(app)
        )
    elif body.email is not None:
        with _audited(Action.EMAIL_CHANGE_ASKED, user.id):
            _confirm(user, body.current_password)
            wiring.links().send_to_next(user.id, body.email, wiring.now())
        wiring.mail_sender().wake()
    if "name" in body.model_fields_set:
        with _audited(Action.CHANGED, user.id):
            profile.rename(wiring.database(), user.id, body.name)
    return _shown(user.id)


@app.delete(
    "/account",
    status_code=202,
    security=api.BY_USER,
    responses=api.answers(ErasureReply, 202),
)
@api.may_answer(
    "invalid_credentials",
    "not_an_own_account",
    "recent_sign_in_required",
    "too_many_requests",
    "unknown_user",
)
def erase_account(
    body: Annotated[EraseAccount | None, Body()] = None,
) -> Response[ErasureReply]:
    """Erase your account. Send your password, typed anew; never refused otherwise.

    Who was signed in by an identity provider sends no password, but a token of the last ten
    minutes. You are signed out everywhere, and your name and address go at once. A running
    subscription is canceled after its usage was reported.
    """
    user = api.user(app)
    if not api.recently_authenticated(app):
        _confirm(user, body.password if body else None, field="password")
    erasing.erase(wiring.database(), user.id, by=sign_in.actor(app))
    return api.json_response(ErasureReply(user_id=user.id), 202, cookies=[sign_in.no_cookie()])


@app.post(
    "/email/verify",
    security=api.BY_ANYBODY,
    responses=api.answers(AccountShown, 200),
)
@api.own_account
@api.may_answer(
    "unauthenticated", "link_expired", "email_taken", "invalid_credentials", "too_many_requests"
)
def verify_email(body: Annotated[VerifyEmail, Body()]) -> Response[AccountShown]:
    """Confirm an email address with the link of a mail.

    The link alone proves nothing about who made the account. So the request has the account's
    session, or its password.
    """
    now = wiring.now()
    linked = wiring.links().proving(body.token, now)
    user = api.user_if_known(app)
    is_next = linked.purpose == "change_email"
    action = Action.EMAIL_CHANGED if is_next else Action.EMAIL_VERIFIED
    with _audited(action, linked.user_id):
        if body.password is not None:
            wiring.signing_in().confirm(
                email=linked.email,
                stored=linked.password_hash,
                password=body.password,
                address=sign_in.client_address(app),
                now=now,
            )
        elif user is None or user.id != linked.user_id:
            raise Unauthenticated("Sign in to the account of this link, or send its password.")
        wiring.links().prove(linked, now)
    wiring.mail_sender().wake()
    return _shown(linked.user_id)


@app.post(
    "/email/verification",
    status_code=202,
    security=api.BY_SESSION,
    responses=api.answers(None, 202),
)
@api.own_account
@api.may_answer("too_many_requests")
def send_verification_mail() -> Response[None]:
    """Send the link that confirms your address again. Up to three mails an hour are sent."""
    now = wiring.now()
    wiring.attempts().mail(sign_in.client_address(app), now)
    with _audited(Action.VERIFICATION_SENT, api.user(app).id):
        wiring.links().send_verification(api.user(app).id, now)
    wiring.mail_sender().wake()
    return Response(202)


@app.post(
    "/password",
    status_code=204,
    security=api.BY_SESSION,
    responses=api.answers(None, 204),
)
@api.own_account
@api.may_answer("invalid_credentials", "not_an_own_account", "too_many_requests")
def change_password(body: Annotated[ChangePassword, Body()]) -> Response[None]:
    """Set another password. All your other sessions end, and a mail says so."""
    user = api.user(app)
    with _audited(Action.PASSWORD_CHANGED, user.id):
        old_hash = _confirm(user, body.current_password)
        profile.change_password(
            wiring.database(),
            user.id,
            old_hash=old_hash,
            new_hash=_hash(body.password, user.email or ""),
            token=api.session_token(app),
            now=wiring.now(),
        )
    wiring.mail_sender().wake()
    return Response(204)


@app.post("/password/forgot", status_code=202, responses=api.answers(None, 202))
@api.own_account
@api.may_answer("too_many_requests")
def request_password_reset(body: Annotated[ForgotPassword, Body()]) -> Response[None]:
    """Send a link to set a new password, if there is an account with this address.

    The answer is the same, and takes as long, where there is none.
    """
    began = time.monotonic()
    now = wiring.now()
    wiring.attempts().mail(sign_in.client_address(app), now)
    wiring.links().forgot_password(body.email, now, by=sign_in.actor(app))
    wiring.mail_sender().wake()  # also where nothing was queued: the answer takes as long
    time.sleep(max(0.0, _ALIKE - (time.monotonic() - began)))
    return Response(202)


@app.post("/password/reset", status_code=204, responses=api.answers(None, 204))
@api.own_account
@api.may_answer("link_expired", "email_taken")
def reset_password(body: Annotated[ResetPassword, Body()]) -> Response[None]:
    """Set a new password with the link of a mail. Confirms the address, too.

    All sessions end, and an address that waits to be confirmed is forgotten. Sign in with the new
    password afterwards.
    """
    now = wiring.now()
    linked = wiring.links().resetting(body.token, now)
    with _audited(Action.PASSWORD_RESET, linked.user_id):
        wiring.links().reset_password(
            linked, _hash(body.password, linked.email), now, sign_in.origin(app).network
        )
    wiring.mail_sender().wake()
    return Response(204)


@app.get("/sessions", security=api.BY_SESSION, responses=api.answers(SessionList, 200))
@api.own_account
def list_sessions() -> Response[SessionList]:
    """List your sessions. The session of this request comes first."""
    found = sessions.of_user(
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
    return api.json_response(SessionList(sessions=listed))


@app.delete("/sessions", status_code=204, security=api.BY_SESSION, responses=api.answers(None, 204))
@api.own_account
def end_other_sessions() -> Response[None]:
    """End all your sessions but this one."""
    user = api.user(app)
    with _audited(Action.SESSION_ENDED, user.id) as about:
        about["ended"] = sessions.end_others(wiring.database(), user.id, api.session_token(app))
    return Response(204)


@app.delete(
    "/sessions/<session_id>",
    status_code=204,
    security=api.BY_SESSION,
    responses=api.answers(None, 204),
)
@api.own_account
@api.may_answer("session_not_found")
def end_session(
    session_id: Annotated[
        str,
        PathParameter(
            pattern=r"^[A-Za-z0-9_]{1,100}$",
            description="The session's id, from `GET /sessions`.",
            examples=["sess_91ce04b7a2d85f36"],
        ),
    ],
) -> Response[None]:
    """End one of your sessions. It may be the session of this request."""
    user = api.user(app)
    with _audited(Action.SESSION_ENDED, user.id):
        sessions.end(wiring.database(), user.id, session_id)
    return Response(204)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _confirm(user: User, password: str | None, *, field: str = "current_password") -> str:
    """The stored hash of the password that the user typed again, in this field of the body."""
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
        address=sign_in.client_address(app),
        now=wiring.now(),
    )
    return stored


def _audited(action: Action, user_id: str) -> AbstractContextManager[auditing.Details]:
    return auditing.audited(app, action, user_id, by=sign_in.actor(app))


def _hash(password: str, email: str) -> str:
    return passwords.hash_password(password, email=email, product=wiring.settings().product_name)


def _shown(user_id: str) -> Response[AccountShown]:
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
    return api.json_response(AccountShown(account=account))
