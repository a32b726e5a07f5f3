"""A person's own account: its address, its password, its sessions."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body, Query
from aws_lambda_powertools.event_handler.openapi.params import Path as PathParameter

from billing.deadline import LambdaContext
from billing.http import account_answers, api, mail_answers, sign_in
from billing.http.shapes.accounts import (
    AccountChange,
    AccountShown,
    ChangePassword,
    EraseAccount,
    ErasureReply,
    ForgotPassword,
    MailPreferences,
    MailPreferencesReply,
    ResetPassword,
    SessionList,
    VerifyEmail,
)

_PAGE: Any = {
    200: {
        "description": "A page",
        "content": {"text/html": {"schema": {"type": "string", "examples": ["<!doctype html>"]}}},
    }
}
Token = Annotated[
    str,
    Query(
        max_length=200,
        description="The token in the link of a mail.",
        examples=["usr_8f2c41d09ab37e65.5d41402abc4b2a76"],
    ),
]

app = api.resolver()


@app.get("/account", security=api.BY_USER, responses=api.answers(AccountShown, 200))
@api.may_answer("unknown_user")
def get_account() -> Response[AccountShown]:
    """Read your account. It has your address, your name and what is still to be confirmed."""
    return api.json_response(account_answers.show(api.user(app).id))


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
    return api.json_response(account_answers.change(app, api.user(app), body))


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
    erased = account_answers.erase(app, api.user(app), body.password if body else None)
    return api.json_response(erased, 202, cookies=[sign_in.no_cookie()])


@app.get("/account/mails", security=api.BY_USER, responses=api.answers(MailPreferencesReply, 200))
def get_mail_preferences() -> Response[MailPreferencesReply]:
    """Read which mails you get, of those that you can switch off."""
    return api.json_response(mail_answers.show(api.user(app)))


@app.put("/account/mails", security=api.BY_USER, responses=api.answers(MailPreferencesReply, 200))
@api.may_answer("unknown_user")
def set_mail_preferences(
    body: Annotated[MailPreferences, Body()],
) -> Response[MailPreferencesReply]:
    """Choose which mails you get. Mails about payments and the end of a trial are always sent."""
    return api.json_response(mail_answers.change(app, api.user(app), body))


@app.get("/unsubscribe", responses=_PAGE)
@api.may_answer("not_found")
def get_unsubscribe_page(token: Token) -> Response[str]:
    """Show the page of a mail's link, with a button that switches such mails off."""
    return mail_answers.ask(token)


@app.post("/unsubscribe", responses=_PAGE)
@api.any_sender
@api.may_answer("not_found")
def unsubscribe(token: Token) -> Response[str]:
    """Switch mails off with the link of a mail, without signing in.

    Mail programs post here after one click (RFC 8058). The body is not read.
    """
    return mail_answers.switch_off(app, token)


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
    return api.json_response(account_answers.verify_email(app, body))


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
    account_answers.send_verification(app)
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
    account_answers.change_password(app, body)
    return Response(204)


@app.post("/password/forgot", status_code=202, responses=api.answers(None, 202))
@api.own_account
@api.may_answer("too_many_requests")
def request_password_reset(body: Annotated[ForgotPassword, Body()]) -> Response[None]:
    """Send a link to set a new password, if there is an account with this address.

    The answer is the same, and takes as long, where there is none.
    """
    account_answers.forgot_password(app, body)
    return Response(202)


@app.post("/password/reset", status_code=204, responses=api.answers(None, 204))
@api.own_account
@api.may_answer("link_expired", "email_taken")
def reset_password(body: Annotated[ResetPassword, Body()]) -> Response[None]:
    """Set a new password with the link of a mail. Confirms the address, too.

    All sessions end, and an address that waits to be confirmed is forgotten. Sign in with the new
    password afterwards.
    """
    account_answers.reset_password(app, body)
    return Response(204)


@app.get("/sessions", security=api.BY_SESSION, responses=api.answers(SessionList, 200))
@api.own_account
def list_sessions() -> Response[SessionList]:
    """List your sessions. The session of this request comes first."""
    return api.json_response(account_answers.sessions(app))


@app.delete("/sessions", status_code=204, security=api.BY_SESSION, responses=api.answers(None, 204))
@api.own_account
def end_other_sessions() -> Response[None]:
    """End all your sessions but this one."""
    account_answers.end_other_sessions(app)
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
    account_answers.end_session(app, session_id)
    return Response(204)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
