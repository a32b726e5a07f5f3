"""POST /login and POST /logout: begin and end a session."""

import time
from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import metric, wiring
from billing.accounts import accounts, passwords
from billing.deadline import LambdaContext
from billing.errors import TooManyRequests
from billing.http import api, sign_in
from billing.http.shapes import SignedIn, SignIn
from billing.metric import Metric

app = api.resolver()


@app.post("/login", responses=api.answers(SignedIn, 200, 401, 403))
def login(body: Annotated[SignIn, Body()]) -> Response[SignedIn]:
    """Sign in. Each sign-in opens a new session."""
    now = wiring.now()
    try:
        delay = wiring.attempts().sign_in(sign_in.client_address(app), body.email, now)
    except TooManyRequests:
        metric.count(Metric.SIGN_IN_REFUSED)
        raise
    time.sleep(delay.total_seconds())
    user, session = accounts.sign_in(
        wiring.database(),
        email=body.email,
        password=body.password,
        verify=passwords.verify_password,
        now=now,
    )
    metric.count(Metric.SIGNED_IN)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=200)


@app.post("/logout", status_code=204, security=api.BY_USER, responses=api.answers(None, 204, 403))
def logout() -> Response[None]:
    """End this session."""
    accounts.close_session(wiring.database(), api.session_token(app))
    return sign_in.signed_out()


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
