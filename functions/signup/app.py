"""POST /signup: creates a user and their first session. Makes no call to Commet."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing.deadline import LambdaContext
from billing.http import api, sign_in, sign_up_answers
from billing.http.shapes.signing_in import SignedIn, SignUp

app = api.resolver()


@app.post("/signup", status_code=201, responses=api.answers(SignedIn, 201))
@api.own_account
@api.may_answer("email_taken", "too_many_requests")
def sign_up(body: Annotated[SignUp, Body()]) -> Response[SignedIn]:
    """Create an account and sign in. A link to confirm the email address is sent.

    Until the address is confirmed, only this session knows the account, it cannot check out, and
    after a day it is deleted.
    """
    user, session = sign_up_answers.sign_up(app, body)
    return sign_in.signed_in(user, session, in_cookie=body.cookie, status=201)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)
