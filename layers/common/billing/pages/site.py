"""The code that all pages share: the router, who is signed in, forms, answers and errors as pages.

A page is a function with a route of `app`. `members` marks pages that only signed-in users see. A
form is a POST whose `Origin` must be ours, also for sign-in and sign-up, so that no other site can
sign a person in. Pages call the same functions as the API.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.event_handler.middlewares import NextMiddleware
from aws_lambda_powertools.shared.cookies import Cookie, SameSite
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

from billing import metric, wiring
from billing.accounts.accounts import User
from billing.config import origin_of
from billing.database.connection import place_of
from billing.deadline import Deadline
from billing.errors import (
    BillingError,
    DatabaseUnavailable,
    Forbidden,
    NotFound,
    Unauthenticated,
)
from billing.http import api, events
from billing.metric import Metric
from billing.pages import forms
from billing.pages.banners import Badge, Banner
from billing.pages.rendering import Frame
from billing.pages.words import Words

SIGN_IN = "/app/login"
HOME = "/app"
# Failures of Commet that change nothing. A page that works without Commet's answer shows them in
# place.
COMMET_FAILED = frozenset(
    {"billing_provider_unavailable", "billing_provider_error", "usage_pending"}
)

_LONGEST_PATH = 2000
_OF_PAGES = re.compile(r"/(app|ops)(/|$)")
_PLAN_CODE = re.compile(r"[A-Za-z0-9_.-]{1,100}")

Page = TypeVar("Page", bound=Callable[..., Any])

logger = Logger(child=True)

app = APIGatewayHttpResolver()


class _Folder:
    """The folder of the pages' templates, words and files. The function names it at its start."""

    frame: Frame


def load(folder: Path) -> None:
    """Names the folder that has `templates`, `words` and `assets`."""
    _Folder.frame = Frame(folder)


def frame() -> Frame:
    """The templates, words and files."""
    return _Folder.frame


def members(route: Page) -> Page:
    """Marks a page that only signed-in users see. Others sign in first, and then come back."""
    route.members = True  # type: ignore[attr-defined]
    return route


def words() -> Words:
    """The texts of the pages in their language."""
    return frame().words(wiring.settings().pages_language)


def word(key: str, **values: object) -> str:
    """A text of the pages in their language, with the values in its places, escaped."""
    return words()(key, **values)


# --- the request ------------------------------------------------------------------------------


def deadline() -> Deadline:
    """The time by which this page must be answered."""
    return api.deadline(app)


def user() -> User:
    """The signed-in user of a page for members."""
    return api.user(app)


def visitor() -> User | None:
    """Returns who is signed in, or None."""
    found: User | None = app.context.get("caller")
    return found


def form() -> dict[str, str]:
    """The fields of the form that was sent."""
    found: dict[str, str] = app.context["form"]
    return found


def query(name: str) -> str:
    """A parameter of the address; "" where there is none."""
    return (app.current_event.query_string_parameters or {}).get(name, "")


def path() -> str:
    """The path of the page."""
    return str(app.current_event.path)


def origin() -> str:
    """Returns the address of the pages, to come back to from Commet.

    This is the origin of the form that was sent, which `_admit` has checked. The browser has the
    session at that origin, if the pages have several addresses.
    """
    return api.headers(app).get("origin") or own_address()


def own_address() -> str:
    """Returns the origin at which this request reached the pages."""
    if not api.cookie_is_secure():  # over plain http, on this machine
        return origin_of(wiring.settings().app_url)
    return api.own_origin(app) or origin_of(wiring.settings().app_url)


def local_path(text: str, otherwise: str = HOME) -> str:
    """Returns the text if it is a path of this site, else `otherwise`, so that nobody is sent
    to another site.
    """
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    fits = text.isascii() and text.isprintable() and len(text) <= _LONGEST_PATH
    return text if is_path and fits else otherwise


# --- the answer -------------------------------------------------------------------------------


def page(
    template: str,
    *,
    status: int = 200,
    title: str,
    banner: Banner | None = None,
    badges: Sequence[Badge] = (),
    hosted: bool = False,
    cookies: list[Cookie] | None = None,
    retry_after: int | None = None,
    **values: Any,
) -> Response[str]:
    """Returns a page. `hosted`: a form on it leads to Commet's pages, which the browser has to
    permit.

    `banner` is the one notice of the page. The notice of a form that was sent (`done`) is a banner
    if there is no other, else one of the `badges`.

    `retry_after` is the number of seconds after which trying again is worthwhile.
    """
    settings = wiring.settings()
    done = query("done")
    is_done = bool(done) and words().has(f"done.{done}")
    html = frame().render(
        template,
        language=settings.pages_language,
        accent=settings.pages_accent,
        title=title,
        product=settings.product_name,
        support=settings.support_email,
        has_reference=settings.api_reference,
        visitor=visitor(),
        origin=own_address(),
        path=app.current_event.path,
        here=_here(),
        time_bar=bool(settings.clock_url),
        done=done if is_done and banner is None else "",
        banner=banner,
        badges=[*badges, Badge("done", "good")] if is_done and banner else badges,
        **values,
    )
    leaves = banner is not None and banner.target.startswith("POST ")
    headers = _headers(hosted=hosted or leaves)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Response(
        status,
        content_type="text/html; charset=utf-8",
        body=html,
        headers=headers,
        cookies=cookies,
        compress=True,
    )


def see_other(path: str, *, done: str = "", cookies: list[Cookie] | None = None) -> Response[None]:
    """Redirects the browser after a form. `done` names the notice that the next page shows."""
    if done:
        path += ("&" if "?" in path else "?") + urlencode({"done": done})
    headers = _headers(hosted=False) | {"Location": path}
    return Response(303, headers=headers, cookies=cookies)


def explained(error: BillingError) -> str:
    """Returns an error's text for the person who sent a form: the words of its code, else its
    own.
    """
    key = f"problems.{error.code}"
    if not words().has(key):
        return error.detail
    minutes = max(1, -(-(error.retry_after or 60) // 60))
    return word(key, count=minutes)


def field_problems(error: BillingError) -> dict[str, str]:
    """Returns the error of each field, by the field's name, in words for people."""
    return {
        name: word(key) if words().has(key := f"fields.{each.code}") else each.message
        for name, each in forms.wrong_fields(error).items()
    }


def plan_cookie(code: str, interval: str = "") -> Cookie:
    """Returns a cookie with the plan and interval that a visitor chose before signing up; ""
    deletes it.

    A text that cannot be a code of a plan is not written into the header. The same holds for the
    interval.
    """
    code = code if _PLAN_CODE.fullmatch(code) else ""
    interval = interval if _PLAN_CODE.fullmatch(interval) else ""
    return Cookie(
        name=_plan_cookie_name(),
        value=f"{code}:{interval}" if code and interval else code,
        path="/",
        secure=api.cookie_is_secure(),
        http_only=True,
        max_age=24 * 3600 if code else 0,
        same_site=SameSite.LAX_MODE,
    )


def _plan_cookie_name() -> str:
    """The name of the cookie with the plan that a visitor chose before signing up.

    With `__Host-`, no other host can set it. Browsers refuse that name over plain http.
    """
    return "__Host-plan" if api.cookie_is_secure() else "plan"


def chosen_plan() -> tuple[str, str]:
    """Returns the code of the plan in the address or in the cookie, and the interval chosen with
    it.

    Each is "" if none is chosen.
    """
    if plan := query("plan"):
        return plan, query("interval")
    kept = app.current_event.resolved_cookies_field.get(_plan_cookie_name(), "")
    plan, _, interval = kept.partition(":")
    return plan, interval


def checkout_or(otherwise: str) -> str:
    """Returns the path of the checkout of the chosen plan; `otherwise` if no plan is chosen."""
    plan, interval = chosen_plan()
    if not plan:
        return otherwise
    asked = {"plan": plan} | ({"interval": interval} if interval else {})
    return f"/app/checkout?{urlencode(asked)}"


# --- admission and errors -----------------------------------------------------------------------


def _admit(app: APIGatewayHttpResolver, call_next: NextMiddleware) -> Response[Any]:
    route = app.context["_route"]
    is_form = app.current_event.http_method == "POST"
    if is_form:
        _refuse_other_sites(app)
    app.append_context(form=forms.read(app.current_event) if is_form else {})
    if api.is_page(route.func):
        return call_next(app)
    found = api.user_if_signed_in(app)
    if found is not None:
        app.append_context(caller=found)
        logger.append_keys(caller=found.id)
    elif getattr(route.func, "members", False):
        return _sign_in_first()
    return call_next(app)


def _refuse_other_sites(app: APIGatewayHttpResolver) -> None:
    """Raises Forbidden `origin_not_allowed` for a form that is not on a page of ours."""
    headers = api.headers(app)
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    ours = origin is not None and (api.is_ours(origin) or origin == api.own_origin(app))
    if not ours or site != "same-origin":
        raise Forbidden("The form is not on a page of this site.", code="origin_not_allowed")


def _sign_in_first() -> Response[Any]:
    """Asks to sign in. The typed fields of a form are kept, and are sent after signing in."""
    if app.current_event.http_method != "POST":
        return see_other(f"{SIGN_IN}?{urlencode({'next': _here()})}")
    kept = {name: value for name, value in form().items() if not forms.is_secret(name)}
    return page(
        "login.html",
        status=401,
        title=word("login.title"),
        values={"again": app.current_event.path, "typed": urlencode(kept)},
        problem=word("login.expired"),
        wrong={},
    )


def _here() -> str:
    event = app.current_event
    asked = str(event.raw_event.get("rawQueryString") or "")
    return f"{event.path}?{asked}" if asked else event.path


def _headers(*, hosted: bool) -> dict[str, str | list[str]]:
    """Returns the headers of every page. Scripts, styles and frames may come only from our own
    files.
    """
    targets = ["'self'", *sorted(wiring.settings().hosted_origins)] if hosted else ["'self'"]
    return {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self';"
            f" connect-src 'self'; form-action {' '.join(targets)};"
            " frame-ancestors 'none'; base-uri 'none'"
        ),
        # With `no-referrer`, browsers would send `Origin: null` with our own forms.
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
        "Cache-Control": "no-store",
        "Vary": "Accept-Encoding",
    }


def failed(error: BillingError, cause: Exception | None = None) -> Response[Any]:
    """Returns the page of an error that no form shows."""
    if error.status >= 500:
        metric.count(Metric.SERVER_ERRORS, service="api")
        metric.count_for_watched_build(Metric.NEW_BUILD_ERRORS)
        raised = cause or error
        logger.error(error.code, exc_info=raised, extra=place_of(raised))
    else:
        logger.info(error.code)
    app.append_context(form=app.context.get("form", {}))
    return page(
        "error.html",
        status=error.status,
        title=word(_title_of(error)),
        code=error.code,
        explained=explained(error),
        request_id=events.request_id(app.current_event.raw_event),
        retry_after=error.retry_after,
    )


def _title_of(error: BillingError) -> str:
    """The key of the heading of an error's page."""
    if error.status >= 500:
        return "error.title"
    return "error.title_missing" if error.code == NotFound().code else "error.title_refused"


app.use(middlewares=[_admit])


@app.exception_handler(BillingError)
def _ours(error: BillingError) -> Response[Any]:
    if isinstance(error, Unauthenticated):
        return see_other(f"{SIGN_IN}?{urlencode({'next': _here()})}")
    return failed(error)


@app.exception_handler(NotFoundError)
def _unknown_page(_: NotFoundError) -> Response[Any]:
    """Answers a path that no page has: as a page to browsers, and as the API to its clients.

    API Gateway sends every `GET` here that has no route of its own.
    """
    is_of_pages = _OF_PAGES.match(app.current_event.path) is not None
    if is_of_pages or "text/html" in api.headers(app).get("accept", ""):
        return failed(NotFound())
    return api.problem(app, NotFound())


@app.exception_handler([QueryCanceled, LockNotAvailable, DeadlockDetected])
def _held_up(error: Exception) -> Response[Any]:
    return failed(DatabaseUnavailable(), cause=error)


@app.exception_handler(Exception)
def _unexpected(error: Exception) -> Response[Any]:
    return failed(BillingError(), cause=error)


def shown(values: Mapping[str, str]) -> dict[str, str]:
    """Returns the values that a form shows again: all but secrets."""
    return {name: value for name, value in values.items() if not forms.is_secret(name)}
