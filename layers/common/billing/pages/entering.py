"""Pages before signing in: sign up, sign in and out, and the pages of links in mails.

Opening a link changes nothing, because programs that scan mails open links. The page of the link
has a form, and sending the form carries out the link's action.
"""

from typing import Any
from urllib.parse import parse_qsl, urlencode

from aws_lambda_powertools.event_handler import Response

from billing.errors import BillingError
from billing.http import account_answers, plan_answers, sign_in, sign_in_answers, sign_up_answers
from billing.http.estimate import price_of
from billing.http.shapes.accounts import ForgotPassword, ResetPassword, VerifyEmail
from billing.http.shapes.plans import PlanReply
from billing.http.shapes.signing_in import SignIn, SignUp
from billing.pages import forms, site
from billing.pages.site import app, word

_CONFIRM = "/app/confirm"
# The page of a form, by the beginning of the address that the form is sent to. Other forms are on
# the overview.
_PAGES_OF_FORMS = {
    "/app/checkout": "/",
    _CONFIRM: _CONFIRM,
    "/app/billing/cancel": "/app/billing/cancel",
    "/app/billing": "/app/billing",
    "/app/account/delete": "/app/account/delete",
    "/app/account": "/app/account",
}
# The subject of a form, as words `again.<name>`, by the address that the form is sent to.
_ABOUT_FORMS = {
    "/app/limit": "limit",
    "/app/alerts": "alert",
    "/app/alerts/remove": "alert_remove",
    "/app/checkout": "checkout",
    "/app/billing/cancel": "cancel",
    "/app/billing/keep": "keep",
    "/app/account/name": "name",
    "/app/account/email": "email",
    "/app/account/password": "password",
    "/app/account/sessions": "sessions",
    "/app/account/mails": "mails",
    "/app/account/delete": "delete",
}
# Fields with typed text and no codes. They are shown beside the subject of the form.
_TYPED = ("amount", "alert_value", "name", "email")

# --- sign in and out ------------------------------------------------------------------------------


@app.get(site.SIGN_IN)
def show_sign_in() -> Response[Any]:
    """Shows the form to sign in. A user who is signed in is redirected to the wanted page."""
    wanted = site.local_path(site.query("next"))
    if site.visitor() is not None:
        return site.see_other(wanted)
    return _sign_in_form({"next": wanted if wanted != site.HOME else ""})


@app.post(site.SIGN_IN)
def sign_in_with_password() -> Response[Any]:
    """Signs in. Redirects to the wanted page, or shows the form that was not sent before."""
    values = site.form()
    try:
        body = forms.checked(SignIn, values)
        _, session = sign_in_answers.sign_in(app, body)
    except BillingError as error:
        if error.status >= 500:
            raise
        return _sign_in_form(values, error)
    cookie = sign_in.session_cookie(session.token)
    if values.get("again"):
        return _send_again(values, cookie)
    return site.see_other(site.local_path(values.get("next", "")), cookies=[cookie])


@app.post("/app/logout")
def sign_out() -> Response[Any]:
    """Ends the session."""
    if site.visitor() is not None:
        sign_in_answers.sign_out(app)
    return site.see_other("/", done="signed_out", cookies=[sign_in.no_cookie()])


def _sign_in_form(values: forms.Values, error: BillingError | None = None) -> Response[Any]:
    return site.page(
        "login.html",
        status=error.status if error else 200,
        title=word("login.title"),
        values=site.shown(values),
        problem=site.explained(error) if error else "",
        wrong=site.field_problems(error) if error else {},
        retry_after=error.retry_after if error else None,
    )


def _send_again(values: forms.Values, cookie: Any) -> Response[Any]:
    """Offers to send the form that could not be sent, because the session had ended."""
    action = site.local_path(values["again"])
    fields = parse_qsl(values.get("typed", ""), keep_blank_values=True)
    return site.page(
        "send_again.html",
        title=word("login.again_title"),
        hosted=True,  # a checkout ends at Commet, for example
        action=action,
        back=next(
            (_PAGES_OF_FORMS[at] for at in _PAGES_OF_FORMS if action.startswith(at)), site.HOME
        ),
        about=word(f"again.{_ABOUT_FORMS.get(action, 'other')}"),
        typed=[value for name, value in fields if name in _TYPED and value],
        fields=fields,
        cookies=[cookie],
    )


# --- sign up ------------------------------------------------------------------------------------


@app.get("/app/signup")
def show_sign_up() -> Response[Any]:
    """The form to sign up, for the plan that was chosen on the page of prices."""
    if site.visitor() is not None:
        return site.see_other(site.checkout_or(site.HOME))
    return _sign_up_form({name: site.query(name) for name in ("plan", "interval")})


@app.post("/app/signup")
def sign_up() -> Response[Any]:
    """Creates the account and signs in. A link to confirm the address is sent."""
    values = site.form()
    try:
        body = forms.checked(SignUp, values)
        _, session = sign_up_answers.sign_up(app, body)
    except BillingError as error:
        if error.status >= 500:
            raise
        return _sign_up_form(values, error)
    cookies = [sign_in.session_cookie(session.token)]
    if plan := values.get("plan"):
        cookies.append(site.plan_cookie(plan, values.get("interval", "")))
    return site.see_other(_CONFIRM, cookies=cookies)


def _sign_up_form(values: forms.Values, error: BillingError | None = None) -> Response[Any]:
    plan = _plan(values.get("plan", ""))
    return site.page(
        "signup.html",
        status=error.status if error else 200,
        title=word("signup.heading"),
        values=site.shown(values),
        plan=plan,
        price=price_of(plan, values.get("interval", "")) if plan else None,
        problem=site.explained(error) if error else "",
        wrong=site.field_problems(error) if error else {},
    )


def _plan(code: str) -> PlanReply | None:
    """Returns the plan that is sold under this code; None if there is none."""
    if not code:
        return None
    try:
        found = plan_answers.plans(None, site.deadline())
    except BillingError:
        return None
    return next((plan for plan in found.plans if plan.code == code), None)


@app.get(_CONFIRM)
@site.members
def show_confirm() -> Response[Any]:
    """Asks the user to confirm the address, and offers another mail."""
    if account_answers.show(site.user().id).account.email_verified:
        return site.see_other(site.checkout_or(site.HOME))
    return site.page("confirm.html", title=word("signup.confirm_heading"), problem="")


@app.post(_CONFIRM)
@site.members
def send_another_mail() -> Response[Any]:
    """Sends the link that confirms the address again."""
    try:
        account_answers.send_verification(app)
    except BillingError as error:
        if error.status >= 500:
            raise
        return site.page(
            "confirm.html",
            status=error.status,
            title=word("signup.confirm_heading"),
            problem=site.explained(error),
        )
    return site.see_other(_CONFIRM, done="mail_sent")


# --- links of mails -------------------------------------------------------------------------------


@app.get("/verify-email")
def show_verify() -> Response[Any]:
    """The form behind the link that confirms an address."""
    return _verify_form(site.query("token"))


@app.post("/app/verify")
def verify() -> Response[Any]:
    """Confirms the address. Redirects to the plan that was chosen."""
    token = site.form().get("token", "")
    try:
        account_answers.verify_email(app, forms.checked(VerifyEmail, site.form()))
    except BillingError as error:
        if error.status >= 500:
            raise
        if error.code in ("link_expired", "invalid_request"):
            return _expired(error)
        return _verify_form(token, error)
    then = site.checkout_or(site.HOME)
    if site.visitor() is None:
        then = f"{site.SIGN_IN}?{urlencode({'next': then})}"
    return site.see_other(then, done="verified")


def _verify_form(token: str, error: BillingError | None = None) -> Response[Any]:
    # A person with a session of another account has to type the password too.
    needs_password = site.visitor() is None or error is not None
    lines = [word("links.verify_text")]
    if needs_password:
        lines.append(word("links.verify_password_text"))
    return _step(
        "verify",
        lines=lines,
        action="/app/verify",
        token=token,
        fields=[_password("password", "login.password", "current-password")]
        if needs_password
        else [],
        error=error,
    )


@app.get("/app/forgot")
def show_forgot() -> Response[Any]:
    """The form that asks for a link to set a new password."""
    return _forgot_form({})


@app.post("/app/forgot")
def forgot() -> Response[Any]:
    """Sends the link. The page is the same if there is no such account."""
    try:
        account_answers.forgot_password(app, forms.checked(ForgotPassword, site.form()))
    except BillingError as error:
        if error.status >= 500:
            raise
        return _forgot_form(site.form(), error)
    return _step(
        "forgot",
        lines=[word("links.forgot_sent")],
        links=[(site.SIGN_IN, word("links.expired_sign_in"))],
    )


def _forgot_form(values: forms.Values, error: BillingError | None = None) -> Response[Any]:
    email = {
        "name": "email",
        "label": word("login.email"),
        "type": "email",
        "autocomplete": "username",
        "hint": "",
    }
    return _step(
        "forgot",
        lines=[word("links.forgot_text")],
        action="/app/forgot",
        fields=[email],
        links=[(site.SIGN_IN, word("links.expired_sign_in"))],
        values=values,
        error=error,
    )


@app.get("/reset-password")
def show_reset() -> Response[Any]:
    """The form behind the link that permits a new password."""
    return _reset_form(site.query("token"))


@app.post("/app/reset")
def reset() -> Response[Any]:
    """Sets the new password. All sessions end."""
    values = site.form()
    try:
        body = forms.checked(ResetPassword, values)
        account_answers.reset_password(app, body)
    except BillingError as error:
        if error.status >= 500:
            raise
        if error.code == "link_expired" or "token" in site.field_problems(error):
            return _expired(error, again="/app/forgot")
        return _reset_form(values.get("token", ""), error)
    return site.see_other(site.SIGN_IN, done="password_set", cookies=[sign_in.no_cookie()])


def _reset_form(token: str, error: BillingError | None = None) -> Response[Any]:
    return _step(
        "reset",
        lines=[word("links.reset_text")],
        action="/app/reset",
        token=token,
        fields=[
            _password("password", "links.reset_password", "new-password", "signup.password_hint")
        ],
        error=error,
    )


@app.get("/sign-in")
def show_sign_in_by_link() -> Response[Any]:
    """The form behind the link that signs in."""
    return site.page(
        "one_step.html",
        title=word("login.by_link_title"),
        heading=word("login.by_link_title"),
        lines=[word("login.by_link_text")],
        action="/app/login/link",
        submit=word("login.by_link_submit"),
        **_parts(token=site.query("token")),
    )


@app.post("/app/login/link")
def sign_in_by_link() -> Response[Any]:
    """Signs in with the link of a mail."""
    try:
        _, session = sign_in_answers.sign_in_by_link(app, site.form().get("token", ""))
    except BillingError as error:
        if error.status >= 500:
            raise
        return _expired(error, again=site.SIGN_IN)
    return site.see_other(site.HOME, cookies=[sign_in.session_cookie(session.token)])


def _expired(error: BillingError, again: str = _CONFIRM) -> Response[Any]:
    """Shows that a link is not valid any more, and where to get a new one."""
    text = word("links.expired_sign_in" if again == site.SIGN_IN else "links.expired_again")
    return site.page(
        "one_step.html",
        status=error.status,
        title=word("links.expired_title"),
        heading=word("links.expired_title"),
        lines=[word("links.expired_text")],
        action="",
        submit="",
        **_parts(links=[(again, text)]),
    )


def _step(
    name: str, *, error: BillingError | None = None, action: str = "", **parts: Any
) -> Response[Any]:
    return site.page(
        "one_step.html",
        status=error.status if error else 200,
        title=word(f"links.{name}_title"),
        heading=word(f"links.{name}_title"),
        action=action,
        submit=word(f"links.{name}_submit"),
        **_parts(
            problem=site.explained(error) if error else "",
            wrong=site.field_problems(error) if error else {},
            **parts,
        ),
    )


def _parts(**given: Any) -> dict[str, Any]:
    blank: dict[str, Any] = {
        "problem": "",
        "wrong": {},
        "values": {},
        "fields": [],
        "links": [],
        "token": "",
    }
    return blank | given


def _password(name: str, label: str, autocomplete: str, hint: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "label": word(label),
        "type": "password",
        "autocomplete": autocomplete,
        "hint": word(hint) if hint else "",
    }
