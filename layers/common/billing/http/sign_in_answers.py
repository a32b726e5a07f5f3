"""Signs people in and out. Makes no call to Commet.

The caller makes the answer, in JSON (`sign_in.signed_in`) or as a page, and sets the cookie.
"""

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver

from billing import metric, wiring
from billing.accounts import accounts, signing_in  # noqa: F401 - loaded during INIT
from billing.accounts.accounts import Session, User
from billing.audit import trail
from billing.audit.trail import Action
from billing.errors import Forbidden
from billing.http import api
from billing.http.shapes.signing_in import SignIn
from billing.http.sign_in import actor, client_address, device, end_previous, origin
from billing.mail import waking  # noqa: F401 - wiring imports it late; here it loads during INIT
from billing.metric import Metric


def sign_in(app: APIGatewayHttpResolver, body: SignIn) -> tuple[User, Session]:
    """Opens a session for an address and its password.

    Raises InvalidCredentials, TooManyRequests, and Forbidden `sign_in_link_required`.
    """
    try:
        user, session = wiring.signing_in().sign_in(
            email=body.email,
            password=body.password,
            address=client_address(app),
            device=device(app),
            by=actor(app),
            now=wiring.now(),
        )
    except Forbidden:
        # wakes also if no link was queued, so that the answer takes as long
        wiring.mail_sender().wake()
        raise
    end_previous(app)
    metric.count(Metric.SIGNED_IN, service="session")
    return user, session


def sign_in_by_link(app: APIGatewayHttpResolver, token: str) -> tuple[User, Session]:
    """Opens a session with the token of a mailed link. Raises the errors of `Links.sign_in`."""
    user, session = wiring.links().sign_in(token, wiring.now(), origin(app))
    by = actor(app)
    trail.write(wiring.database(), by, Action.SIGNED_IN, user_id=user.id, by_link=True)
    end_previous(app)
    metric.count(Metric.SIGNED_IN, service="session")
    return user, session


def sign_out(app: APIGatewayHttpResolver) -> None:
    """Ends the session of this request. The answer has to delete the cookie (`no_cookie`)."""
    accounts.close_session(wiring.database(), api.session_token(app))
    trail.write(wiring.database(), actor(app), Action.SIGNED_OUT, user_id=api.user(app).id)
