"""People's choices about mails: signed in, or with the link of a mail."""

import base64
import hashlib
from dataclasses import replace
from html import escape
from string import Template

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response

from billing import wiring
from billing.accounts.accounts import User
from billing.errors import NotFound
from billing.http import api
from billing.http.shapes.accounts import MailPreferences, MailPreferencesReply
from billing.mail import preferences, unsubscribing
from billing.mail.preferences import Preferences

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;margin:3rem auto;max-width:32rem;padding:0 1rem}"
    "button{font:inherit;padding:.6rem 1rem}"
)
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: dict[str, str | list[str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
}
_PAGE = Template(
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>$title</title><style>{_STYLE}</style></head>\n"
    "<body><main><h1>$title</h1>\n$content</main></body></html>\n"
)
_ASK = """<p>Mails from $product about thresholds of your usage and spending end. Mails about failed
payments and the end of a trial still come.</p>
<form method="post"><button>Get no more of these mails</button></form>
"""
_DONE = """<p>You get no more mails from $product about thresholds of your usage and spending.
You can switch them on again in your account.</p>
"""


def show(user: User) -> MailPreferencesReply:
    """Returns what the user has chosen about mails."""
    return MailPreferencesReply(thresholds=preferences.read(wiring.database(), user.id).thresholds)


def change(app: APIGatewayHttpResolver, user: User, body: MailPreferences) -> MailPreferencesReply:
    """Replaces what the user has chosen about mails. Raises NotFound `unknown_user`."""
    wanted = Preferences(thresholds=body.thresholds)
    if not preferences.change(wiring.database(), user.id, wanted, by=api.actor(app)):
        raise NotFound("There is no user with this id.", code="unknown_user")
    return MailPreferencesReply(thresholds=wanted.thresholds)


def ask(token: str) -> Response[str]:
    """Returns a page with a button that switches mails off. It changes nothing. Raises NotFound."""
    _user_of(token)
    return _page("Fewer mails", _ASK)


def switch_off(app: APIGatewayHttpResolver, token: str) -> Response[str]:
    """Switches off the mails that can be switched off. Returns a page that says so. Raises
    NotFound.

    The answer is the same for a user who was erased.
    """
    user_id = _user_of(token)
    by = replace(api.actor(app), id=user_id)
    preferences.change(wiring.database(), user_id, Preferences(thresholds=False), by=by)
    return _page("No more of these mails", _DONE)


def _user_of(token: str) -> str:
    secret = wiring.secrets().text(wiring.settings().app_secret_id)
    user_id = unsubscribing.user_of(secret, token)
    if user_id is None:
        raise NotFound("This is no link of ours. Open the whole link of the mail.")
    return user_id


def _page(title: str, content: str) -> Response[str]:
    product = escape(wiring.settings().product_name)
    html = _PAGE.substitute(title=title, content=Template(content).substitute(product=product))
    return Response(200, content_type="text/html; charset=utf-8", body=html, headers=dict(_HEADERS))
