"""The page about the account: name, address, password, sessions, mails, export and deletion.

Each part has its own form. If a form is refused, it shows what was typed again, except passwords.
"""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.errors import BillingError, FieldError, InvalidRequest
from billing.http import account_answers, api, export_answers, mail_answers, sign_in
from billing.http.shapes.accounts import AccountChange, ChangePassword, MailPreferences
from billing.pages import banners, forms, next_part, outlook, site
from billing.pages.banners import Banner
from billing.pages.site import app, word

ACCOUNT = "/app/account"
_UNVERIFIED = Banner("unverified", "warn", banners.CONFIRM)


@app.get(ACCOUNT)
@site.members
def show_account() -> Response[Any]:
    """Everything about the account, each part with its form."""
    return _account_page()


def _account_page(part: str = "", error: BillingError | None = None) -> Response[Any]:
    """The page. `part` is the form that was refused with `error`."""
    account = account_answers.show(site.user().id).account
    return site.page(
        "account.html",
        status=error.status if error else 200,
        title=word("account.title"),
        banner=outlook.trouble() or (None if account.email_verified else _UNVERIFIED),
        now=wiring.now(),
        account=account,
        sessions=account_answers.sessions(app).sessions,
        mails=mail_answers.show(site.user()),
        part_refused=part,
        values=site.shown(site.form()) if error else {},
        wrong=site.field_problems(error) if error else {},
        problem=site.explained(error) if error else "",
    )


@app.post("/app/account/name")
@site.members
def rename() -> Response[Any]:
    """Changes the name. An empty one removes it."""

    def change() -> None:
        checked = forms.checked(AccountChange, {"name": site.form().get("name", "")})
        account_answers.change(app, site.user(), AccountChange(name=checked.name))

    return _change("name", change)


@app.post("/app/account/email")
@site.members
def change_address() -> Response[Any]:
    """Sends a link to the new address. The old address remains until the link is confirmed."""

    def change() -> None:
        values = {name: site.form().get(name, "") for name in ("email", "current_password")}
        if not values["email"]:
            raise InvalidRequest(errors=[FieldError("email", "missing", "")])
        account_answers.change(app, site.user(), forms.checked(AccountChange, values))

    return _change("email", change, done="address_asked")


@app.post("/app/account/password")
@site.members
def change_password() -> Response[Any]:
    """Changes the password. All other sessions end."""

    def change() -> None:
        account_answers.change_password(app, forms.checked(ChangePassword, site.form()))

    return _change("password", change, done="password_changed")


@app.post("/app/account/sessions")
@site.members
def end_sessions() -> Response[Any]:
    """Ends the session that the form names, or all but this one."""
    session_id = site.form().get("session_id", "")
    if session_id == "others":
        return _change(
            "sessions", lambda: account_answers.end_other_sessions(app), done="sessions_ended"
        )
    return _change(
        "sessions", lambda: account_answers.end_session(app, session_id), done="session_ended"
    )


@app.post("/app/account/mails")
@site.members
def choose_mails() -> Response[Any]:
    """Switches mails about thresholds on or off."""
    wanted = MailPreferences(thresholds=site.form().get("thresholds") == "on")
    return _change("mails", lambda: mail_answers.change(app, site.user(), wanted))


@app.get("/app/account/export")
@site.members
def download_export() -> Response[Any]:
    """A part of everything recorded about the user, as a JSON file that names the next part."""
    found = export_answers.part(app, site.user().id, site.query("cursor") or None)
    headers = {
        "Content-Disposition": 'attachment; filename="account.json"',
        "Cache-Control": "no-store",
    }
    return api.json_response(found, headers=headers)


@app.get("/app/account/export/next")
@site.members
def show_next_part() -> Response[Any]:
    """Leads to the part of the export that follows the one at the cursor in the address."""
    address = f"{ACCOUNT}/export"
    return next_part.page(
        download=f"{address}?cursor=",
        after=f"{address}/next?cursor=",
        back=f"{ACCOUNT}#export",
        cursor=export_answers.next_cursor(site.user().id, site.query("cursor") or None),
    )


@app.get("/app/account/delete")
@site.members
def show_deletion() -> Response[Any]:
    """Explains the deletion, and shows its form."""
    return _deletion_page()


@app.post("/app/account/delete")
@site.members
def delete_account() -> Response[Any]:
    """Deletes the account, once its address is typed and the password is right."""
    try:
        if site.form().get("email", "").casefold() != (site.user().email or "").casefold():
            raise InvalidRequest(errors=[FieldError("email", "other_address", "")])
        account_answers.erase(app, site.user(), site.form().get("password") or None)
    except BillingError as error:
        if error.status >= 500:
            raise
        return _deletion_page(error)
    return site.see_other("/", done="deleted", cookies=[sign_in.no_cookie()])


def _deletion_page(error: BillingError | None = None) -> Response[Any]:
    return site.page(
        "delete.html",
        status=error.status if error else 200,
        title=word("account.delete_title"),
        banner=outlook.trouble(),
        values=site.shown(site.form()),
        wrong=site.field_problems(error) if error else {},
        problem=site.explained(error) if error else "",
    )


def _change(part: str, change: Callable[[], object], *, done: str = "saved") -> Response[Any]:
    try:
        change()
    except BillingError as error:
        if error.status >= 500:
            raise
        return _account_page(part, error)
    return site.see_other(ACCOUNT, done=done)
