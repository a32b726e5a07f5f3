"""POST /login, POST /login/link and POST /logout: begin and end a session."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import metric, wiring
from billing.accounts import accounts, signing_in  # noqa: F401 - loaded during INIT
from billing.audit import trail
from billing.audit.trail import Action
from billing.deadline import LambdaContext
from billing.errors import Forbidden
from billing.http import api, sign_in
from billing.http.shapes import SignedIn, SignIn, SignInByLink
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.metric import Metric

app = api.resolver()


@app.post("/login", operation_id="signIn", responses=api.answers(SignedIn, 200))
@api.own_account
@api.may_answer("invalid_credentials", "sign_in_link_required", "too_many_requests")
def login(body: Annotated[SignIn, Body()]) -> Response[SignedIn]:
    """Sign in with the address and password of an account. This opens a new session.

    After many wrong passwords, a network from which the account never signed in gets 403
    `sign_in_link_required`, and a link is sent if the password was right.
    """
    try:
        user, session = wiring.signing_in().sign_in(
            email=body.email,
            password=body.password,
            address=sign_in.client_address(app),
            device=sign_in.device(app),
            by=sign_in.actor(app),
            now=wiring.now(),
        )
    except Forbidden:
        wiring.mail_sender().wake()  # also where no link was queued: the answer takes as long
        raise
    sign_in.end_previous(app)
    metric.count(Metric.SIGNED_IN)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=200)


@app.post("/login/link", responses=api.answers(SignedIn, 200))
@api.own_account
@api.may_answer("link_expired")
def sign_in_by_link(body: Annotated[SignInByLink, Body()]) -> Response[SignedIn]:
    """Sign in with the link of a mail.

    The mail comes to whoever sends the right password after many wrong ones.
    """
    user, session = wiring.links().sign_in(body.token, wiring.now(), sign_in.origin(app))
    by = sign_in.actor(app)
    trail.write(wiring.database(), by, Action.SIGNED_IN, user_id=user.id, by_link=True)
    sign_in.end_previous(app)
    metric.count(Metric.SIGNED_IN)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=200)


@app.post("/logout", status_code=204, security=api.BY_SESSION, responses=api.answers(None, 204))
@api.own_account
def sign_out() -> Response[None]:
    """End this session. The cookie is deleted, too."""
    accounts.close_session(wiring.database(), api.session_token(app))
    by = sign_in.actor(app)
    trail.write(wiring.database(), by, Action.SIGNED_OUT, user_id=api.user(app).id)
    return sign_in.signed_out()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
