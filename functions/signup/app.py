"""POST /signup: creates a user and their first session. Makes no call to Commet."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import metric, wiring
from billing.accounts import accounts, passwords, people  # noqa: F401 - loaded during INIT
from billing.audit import trail
from billing.audit.trail import Action
from billing.deadline import LambdaContext
from billing.errors import TooManyRequests
from billing.http import api, sign_in
from billing.http.shapes import SignedIn, SignUp
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.metric import Metric

app = api.resolver()


@app.post("/signup", status_code=201, responses=api.answers(SignedIn, 201))
@api.own_account
@api.may_answer("email_taken", "too_many_requests")
def sign_up(body: Annotated[SignUp, Body()]) -> Response[SignedIn]:
    """Create an account and sign in. A link to confirm the email address is sent.

    Until the address is confirmed, only this session knows the account, it cannot check out, and
    after a day it is deleted.
    """
    now = wiring.now()
    try:
        wiring.attempts().sign_up(sign_in.client_address(app), now)
    except TooManyRequests:
        metric.count(Metric.SIGN_UP_REFUSED)
        raise
    user, session = accounts.sign_up(
        wiring.database(),
        email=body.email,
        password_hash=passwords.hash_password(
            body.password, email=body.email, product=wiring.settings().product_name
        ),
        name=body.name,
        now=now,
        origin=sign_in.origin(app),
        person=wiring.people().of_address(body.email),
    )
    by = sign_in.actor(app)
    trail.write(wiring.database(), by, Action.SIGNED_UP, user_id=user.id)
    sign_in.end_previous(app)
    wiring.mail_sender().wake()
    metric.count(Metric.SIGNED_UP)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=201)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
