"""POST /signup: a user and their first session. Calls nobody outside."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import accounts, api, measures, passwords, sign_in_http, wiring
from billing.deadline import LambdaContext
from billing.errors import TooManyRequests
from billing.schemas import SignedIn, SignUp

app = api.resolver()


@app.post("/signup", status_code=201, responses=api.answers(SignedIn, 201, 403, 409))
def sign_up(body: Annotated[SignUp, Body()]) -> Response[SignedIn]:
    """Create an account and sign in."""
    now = wiring.clock()()
    try:
        sign_in_http.attempts().sign_up(sign_in_http.client_address(app), now)
    except TooManyRequests:
        measures.count("SignUpRefused")
        raise
    user, session = accounts.sign_up(
        wiring.database(),
        email=body.email,
        password_hash=passwords.hash_password(body.password),
        name=body.name,
        now=now,
    )
    measures.count("SignedUp")
    return sign_in_http.signed_in(user, session, in_cookie=body.cookie, status=201)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
