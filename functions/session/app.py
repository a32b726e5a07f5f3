"""POST /login, POST /login/link and POST /logout: begin and end a session."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing.deadline import LambdaContext
from billing.http import api, sign_in, sign_in_answers
from billing.http.shapes.signing_in import SignedIn, SignIn, SignInByLink

app = api.resolver()


@app.post("/login", operation_id="signIn", responses=api.answers(SignedIn, 200))
@api.own_account
@api.may_answer("invalid_credentials", "sign_in_link_required", "too_many_requests")
def login(body: Annotated[SignIn, Body()]) -> Response[SignedIn]:
    """Sign in with the address and password of an account. This opens a new session.

    After many wrong passwords, a network from which the account never signed in gets 403
    `sign_in_link_required`, and a link is sent if the password was right.
    """
    user, session = sign_in_answers.sign_in(app, body)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=200)


@app.post("/login/link", responses=api.answers(SignedIn, 200))
@api.own_account
@api.may_answer("link_expired")
def sign_in_by_link(body: Annotated[SignInByLink, Body()]) -> Response[SignedIn]:
    """Sign in with the link of a mail.

    The mail comes to whoever sends the right password after many wrong ones.
    """
    user, session = sign_in_answers.sign_in_by_link(app, body.token)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=200)


@app.post("/logout", status_code=204, security=api.BY_SESSION, responses=api.answers(None, 204))
@api.own_account
def sign_out() -> Response[None]:
    """End this session. The cookie is deleted, too."""
    sign_in_answers.sign_out(app)
    return sign_in.signed_out()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
