"""The code that sign-up, sign-in and sign-out share: the answer, the cookie and the client's
address.
"""

import hmac
from dataclasses import replace
from datetime import datetime

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.shared.cookies import Cookie, SameSite

from billing import wiring
from billing.accounts import accounts, devices
from billing.accounts.accounts import LONGEST, Origin, Session, User
from billing.audit import trail
from billing.audit.trail import Actor
from billing.http import api
from billing.http.shapes.signing_in import SessionReply, SignedIn, UserReply


def client_address(app: APIGatewayHttpResolver) -> str:
    """Returns the IP address under which attempts are counted.

    Without a trusted proxy, this is the address that connected to API Gateway. With trusted
    proxies, it is the address that connected to the outermost proxy.
    """
    hops = wiring.settings().trusted_proxy_hops
    headers = api.headers(app)
    addresses = [a.strip() for a in headers.get("x-forwarded-for", "").split(",")]
    # API Gateway appends the address that connected to it. With one trusted proxy, addresses[-1] is
    # the proxy and addresses[-2] the client.
    if hops and len(addresses) > hops and _is_from_our_proxy(headers.get("x-proxy-proof", "")):
        return addresses[-1 - hops]
    return str(app.current_event.request_context.http.source_ip)


def actor(app: APIGatewayHttpResolver) -> Actor:
    """Returns who sends this request, for the audit trail, with the network of the request."""
    return replace(api.actor(app), network=trail.network_of(client_address(app)))


def origin(app: APIGatewayHttpResolver) -> Origin:
    """Returns the origin of a session that this request begins."""
    network = wiring.attempts().network(client_address(app))
    return Origin(device(app), network)


def device(app: APIGatewayHttpResolver) -> str | None:
    """Returns the name of the client's device; None if it is not known."""
    return devices.label(api.headers(app).get("user-agent", ""))


def _is_from_our_proxy(proof: str) -> bool:
    """Returns whether the proof was made with our secret, so that only our proxy can have sent it.

    Without this proof, anybody could call the HTTP API directly, without the proxy, and write
    another address into X-Forwarded-For with each attempt.
    """
    key = wiring.secrets().text(wiring.settings().app_secret_id)
    expected = hmac.digest(key.encode(), b"trusted proxy", "sha256").hex()
    return hmac.compare_digest(proof.encode("utf-8", "replace"), expected.encode())


def end_previous(app: APIGatewayHttpResolver) -> None:
    """Ends the session that a successful sign-in was sent with, because the new one replaces it."""
    token = api.session_token_if_sent(app)
    if token is not None:
        accounts.close_session(wiring.database(), token)


def signed_in(user: User, session: Session, *, in_cookie: bool, status: int) -> Response[SignedIn]:
    """Returns the answer to a sign-up or sign-in. With `in_cookie`, only the cookie has the
    token.
    """
    body = SignedIn(
        user=UserReply(id=user.id, email=user.email, name=user.name),
        session=SessionReply(
            token=None if in_cookie else session.token, expires_at=session.expires_at
        ),
    )
    return api.json_response(
        body, status, cookies=[session_cookie(session.token)] if in_cookie else None
    )


def signed_out() -> Response[None]:
    """Returns the answer to a sign-out. It makes the browser delete the cookie."""
    return Response(204, cookies=[no_cookie()])


def session_cookie(token: str) -> Cookie:
    """Returns the session's cookie. Scripts cannot read it, and other sites cannot make browsers
    send it.

    It lives as long as the longest session, because the server decides when a session ends.
    """
    return Cookie(
        name=api.cookie_name(),
        value=token,
        path="/",
        secure=api.cookie_is_secure(),
        http_only=True,
        max_age=int(LONGEST.total_seconds()),
        same_site=SameSite.LAX_MODE,
    )


def no_cookie() -> Cookie:
    """Returns a cookie that makes the browser delete the session's cookie."""
    expired = session_cookie("")
    expired.max_age = None
    expired.expires = datetime(1970, 1, 1)  # noqa: DTZ001 - Powertools prints it as GMT
    return expired
