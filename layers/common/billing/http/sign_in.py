"""What sign-up, sign-in and sign-out share of HTTP: the answer, the cookie, the counters and whom
they count."""

import hmac
from datetime import datetime

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.shared.cookies import Cookie, SameSite

from billing import wiring
from billing.accounts.accounts import LONGEST, Session, User
from billing.http import api
from billing.http.shapes import SessionReply, SignedIn, UserReply


def client_address(app: APIGatewayHttpResolver) -> str:
    """The address to count attempts by: who connected, or what the last trusted proxy saw."""
    hops = wiring.settings().trusted_proxy_hops
    headers = app.current_event.headers
    seen = [a.strip() for a in headers.get("x-forwarded-for", "").split(",")]
    # API Gateway appends who connected to it, so with one proxy of ours that is seen[-2].
    if hops and len(seen) > hops and _is_proxys(headers.get("x-proxy-proof", "")):
        return seen[-1 - hops]
    return str(app.current_event.request_context.http.source_ip)


def _is_proxys(proof: str) -> bool:
    """Whether only a proxy of ours can have sent this. An HTTP API can be called around any proxy,
    and who does could name another address with each attempt."""
    key = wiring.secrets().text(wiring.settings().app_secret_id)
    expected = hmac.digest(key.encode(), b"trusted proxy", "sha256").hex()
    return hmac.compare_digest(proof.encode("utf-8", "replace"), expected.encode())


def signed_in(user: User, session: Session, *, in_cookie: bool, status: int) -> Response[SignedIn]:
    """The answer to a sign-up or sign-in. A token in a cookie is not in the body as well."""
    body = SignedIn(
        user=UserReply(id=user.id, email=user.email, name=user.name),
        session=SessionReply(
            token=None if in_cookie else session.token, expires_at=session.expires_at
        ),
    )
    return api.json_response(body, status, cookies=[_cookie(session.token)] if in_cookie else None)


def signed_out() -> Response[None]:
    """The answer to a sign-out; takes the cookie back."""
    expired = _cookie("")
    expired.max_age = None
    expired.expires = datetime(1970, 1, 1)  # noqa: DTZ001 - Powertools prints it as GMT
    return Response(204, cookies=[expired])


def _cookie(token: str) -> Cookie:
    """No script reads it and no other site's form or script sends it. The server ends sessions,
    so the cookie may live as long as the longest one."""
    return Cookie(
        name=api.cookie_name(),
        value=token,
        path="/",
        secure=api.cookie_is_secure(),
        http_only=True,
        max_age=int(LONGEST.total_seconds()),
        same_site=SameSite.LAX_MODE,
    )
