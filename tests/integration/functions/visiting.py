"""Somebody at the pages: follows links, fills forms in, keeps cookies. No script runs."""

import base64
import gzip
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode, urlsplit

from functions.pages import app as pages
from functions.pages import ops
from tests.integration.conftest import Context
from tests.integration.functions.calling import ORIGIN, event


@dataclass
class Form:
    """A form of a page, with the values that its fields have."""

    action: str
    method: str
    values: dict[str, str] = field(default_factory=dict)
    passwords: set[str] = field(default_factory=set)


@dataclass
class Shown:
    """A page as it was answered, read."""

    status: int
    headers: dict[str, str]
    html: str
    cookies: list[str]
    forms: list[Form]
    links: list[str]
    text: str

    @property
    def location(self) -> str:
        return self.headers["location"]

    def form(self, action: str) -> Form:
        """The form with this address, of which there must be one at least."""
        return next(form for form in self.forms if form.action == action)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "input" and self.forms and "name" in given:
            form = self.forms[-1]
            form.values[given["name"]] = given.get("value", "")
            if given.get("type") == "password":
                form.passwords.add(given["name"])
        elif tag in ("script", "style"):
            self._silent += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._silent -= 1

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


class Visitor:
    """A browser without scripts. `origin` is what it says of the page that a form is on."""

    def __init__(self, origin: str = ORIGIN) -> None:
        self.origin = origin
        self.cookies: dict[str, str] = {}

    def get(self, path: str, **headers: str) -> Shown:
        return self._send("GET", path, None, headers)

    def post(self, path: str, values: dict[str, str] | None = None, **headers: str) -> Shown:
        """Sends a form, as a browser does: with the origin of the page that the form is on."""
        sent = {
            "content-type": "application/x-www-form-urlencoded",
            "origin": self.origin,
            "sec-fetch-site": "same-origin",
        }
        return self._send("POST", path, urlencode(values or {}), sent | headers)

    def follow(self, shown: Shown) -> Shown:
        """The page that an answer sends the browser on to."""
        assert shown.status == 303, shown.text
        return self.get(shown.location.removeprefix(ORIGIN))

    def _send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Shown:
        cookies = [f"{name}={value}" for name, value in self.cookies.items()]
        sent = {"host": urlsplit(ORIGIN).netloc, "user-agent": "Mozilla/5.0 Firefox/140.0"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value}
        request = event(method, path.partition("#")[0], body, sent, cookies)
        # They are two functions, with a database role each.
        is_operators = re.match(r"/ops\b", path) is not None
        answer = (ops if is_operators else pages).handler(request, Context(20))
        shown = _read(answer)
        self._keep(shown.cookies)
        return shown

    def _keep(self, cookies: list[str]) -> None:
        for cookie in cookies:
            pair, _, rules = cookie.partition(";")
            name, _, value = pair.partition("=")
            if value and "Max-Age=0" not in rules and "1970" not in rules:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)


def _read(answer: dict[str, Any]) -> Shown:
    headers = {name.lower(): value for name, value in (answer.get("headers") or {}).items()}
    body = answer.get("body") or ""
    if answer.get("isBase64Encoded"):
        raw = base64.b64decode(body)
        body = (gzip.decompress(raw) if headers.get("content-encoding") == "gzip" else raw).decode()
    reader = _Reader()
    if headers.get("content-type", "").startswith("text/html"):
        reader.feed(body)
    return Shown(
        answer["statusCode"],
        headers,
        body,
        answer.get("cookies") or [],
        reader.forms,
        reader.links,
        " ".join(" ".join(reader.parts).split()),
    )
