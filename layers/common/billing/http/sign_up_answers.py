"""Signs people up. Makes no call to Commet.

The caller makes the answer, in JSON (`sign_in.signed_in`) or as a page, and sets the cookie.
"""

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import metric, wiring
from billing.accounts import accounts, passwords, people  # noqa: F401 - loaded during INIT
from billing.accounts.accounts import Session, User
from billing.audit import trail
from billing.audit.trail import Action
from billing.errors import TooManyRequests
from billing.http.shapes.signing_in import SignUp
from billing.http.sign_in import actor, client_address, end_previous, origin
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.metric import Metric


def sign_up(app: APIGatewayHttpResolver, body: SignUp) -> tuple[User, Session]:
    """Creates a user and the user's first session, and sends the link that confirms the address.

    Raises TooManyRequests, Conflict `email_taken`, and InvalidRequest for a common password.
    """
    now = wiring.now()
    try:
        wiring.attempts().sign_up(client_address(app), now)
    except TooManyRequests:
        metric.count(Metric.SIGN_UP_REFUSED, service="signup")
        raise
    user, session = accounts.sign_up(
        wiring.database(),
        email=body.email,
        password_hash=passwords.hash_password(
            body.password, email=body.email, product=wiring.settings().product_name
        ),
        name=body.name,
        now=now,
        origin=origin(app),
        person=wiring.people().of_address(body.email),
    )
    trail.write(wiring.database(), actor(app), Action.SIGNED_UP, user_id=user.id)
    end_previous(app)
    wiring.mail_sender().wake()
    metric.count(Metric.SIGNED_UP, service="signup")
    return user, session
