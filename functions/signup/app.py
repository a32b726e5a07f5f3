"""POST /signup: creates a user and their first session. Makes no call to Commet."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import metric, wiring
from billing.accounts import accounts, passwords
from billing.deadline import LambdaContext
from billing.errors import TooManyRequests
from billing.http import api, sign_in
from billing.http.shapes import SignedIn, SignUp
from billing.metric import Metric

app = api.resolver()


@app.post("/signup", status_code=201, responses=api.answers(SignedIn, 201, 403, 409))
def sign_up(body: Annotated[SignUp, Body()]) -> Response[SignedIn]:
    """Create an account and sign in."""
    now = wiring.now()
    try:
        wiring.attempts().sign_up(sign_in.client_address(app), now)
    except TooManyRequests:
        metric.count(Metric.SIGN_UP_REFUSED)
        raise
    user, session = accounts.sign_up(
        wiring.database(),
        email=body.email,
        password_hash=passwords.hash_password(body.password),
        name=body.name,
        now=now,
    )
    metric.count(Metric.SIGNED_UP)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=201)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
