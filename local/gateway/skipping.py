"""Skips a day or a month: `POST /_time`, for the bar that pages show only on this machine.

The functions only read the clock, and the gateway moves it. So a deployed stack contains nothing of
this.
"""

import calendar
import ipaddress
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# Moves the stack's clock to the time that the argument returns for its present time. Raises
# SkipError.
Skip = Callable[[Callable[[datetime], datetime]], None]

_LARGEST = 10_000
_LONGEST_PATH = 2000


class SkipError(Exception):
    """The clock was not moved. The message is for people."""


def a_day_later(now: datetime) -> datetime:
    """The same time tomorrow."""
    return now + timedelta(days=1)


def a_month_later(now: datetime) -> datetime:
    """The same day of the next month, or the last day of a shorter one."""
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return now.replace(
        year=year, month=month, day=min(now.day, calendar.monthrange(year, month)[1])
    )


_STEPS = {"day": a_day_later, "month": a_month_later}


class TimeBar:
    """The WSGI application at `/_time`. It takes a form with `by` and `back`, and redirects to
    `back`.
    """

    def __init__(self, skip: Skip) -> None:
        self._skip = skip

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        request = Request(environ)
        request.max_form_memory_size = request.max_content_length = _LARGEST
        response = _refused(request) or self._answer(request)
        response.headers["Cache-Control"] = "no-store"
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        step, back = _STEPS.get(request.form.get("by", "")), request.form.get("back", "")
        if step is None:
            return _plain(400, "Say by=day or by=month.")
        if not _is_path(back):
            return _plain(400, "Say with back= which page to return to.")
        try:
            self._skip(step)
        except SkipError as error:
            return _plain(503, str(error))
        # The page's `back` may be encoded already, or may be text of any language.
        return Response("", 303, {"Location": quote(back, safe="/%?&=+,:;@!$'()*~[]")})


def _refused(request: Request) -> Response | None:
    """Returns the answer to a request that does not come from a page of this stack, else None.

    Another site could give one of its names the address of this machine, so only requests to names
    of this machine are answered.
    """
    if not _is_this_machine(request.host):
        return _plain(421, "Only names of this machine are answered.")
    if request.path not in ("", "/"):
        return _plain(404, "There is nothing here.")
    if request.method != "POST":
        refusal = _plain(405, "Time is skipped by the bar on the pages.")
        refusal.headers["Allow"] = "POST"
        return refusal
    # Programs send no Origin, browsers always do.
    if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
        return _plain(403, "The form is not on a page of this stack.")
    return None


def _is_path(text: str) -> bool:
    is_local = text.startswith("/") and not text.startswith(("//", "/\\"))
    return is_local and text.isprintable() and len(text) <= _LONGEST_PATH


def _is_this_machine(authority: str) -> bool:
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain(status: int, text: str) -> Response:
    return Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")
