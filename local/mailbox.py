"""The mailbox: takes mails by SES's own protocol, and shows them on pages at `/_mail`.

`make run` serves it beside the API. `python -m local.mailbox` serves it alone, for SAM CLI's
containers (docs/sam-local.md); it needs nothing but Python.

Mails are kept in memory, the newest 500. Nothing is ever sent. The pages change nothing, and
answer only names of this machine: a page of a foreign site could otherwise have its own name
pointed here and read the links.
"""

import argparse
import ipaddress
import json
import re
import secrets
import sys
import threading
import urllib.parse
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from socketserver import ThreadingMixIn
from string import Template
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import shift_path_info

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SEND_EMAIL = "/v2/email/outbound-emails"
_KEPT = 500
_LARGEST = 10 * 1024 * 1024
_LINK = re.compile(r"https?://[^\s<>\"]+")
_HTML, _JSON, _PLAIN = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
# The policy of our own pages: no scripts, nothing from elsewhere. They may show a mail in a frame.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; frame-ancestors 'none'"
# The policy of a mail: no scripts, no forms, nothing from elsewhere. Its links open in a new tab.
_MAILS_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none';"
    " style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)


@dataclass(frozen=True, slots=True)
class Mail:
    id: str
    received_at: str
    sender: str
    to: list[str]
    subject: str
    text: str
    html: str
    headers: dict[str, str]


Answer = tuple[int, str, str, Mapping[str, str]]


class Mailbox:
    """Mails, the newest first. May be used by several threads."""

    def __init__(self) -> None:
        self._mails: deque[Mail] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def send_email(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Takes a mail like SES's SendEmail with simple content. Returns status and JSON."""
        try:
            mail = _read(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return 400, {"__type": "BadRequestException", "message": f"Not understood: {error!r}"}
        with self._lock:
            self._mails.appendleft(mail)
        return 200, {"MessageId": mail.id}

    def mails(self, to: str | None = None) -> list[Mail]:
        """Returns all mails, or those to one address, the newest first."""
        with self._lock:
            return [mail for mail in self._mails if to is None or to in mail.to]

    def pages(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """The WSGI application of the pages."""
        status, kind, text, more = self._answer(environ)
        headers = {
            "Content-Type": kind,
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Cross-Origin-Resource-Policy": "same-origin",
        } | dict(more)
        body = text.encode()
        start_response(
            f"{status} {_REASONS[status]}",
            [*headers.items(), ("Content-Length", str(len(body)))],
        )
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: "WSGIEnvironment") -> Answer:
        """Returns the answer to a request. `PATH_INFO` is the part of the path after `/_mail`."""
        if not is_this_machine(str(environ.get("HTTP_HOST", ""))):
            return 421, _PLAIN, "The mailbox answers only names of this machine.\n", {}
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return 405, _PLAIN, "The mailbox can only be read.\n", {"Allow": "GET, HEAD"}
        query = urllib.parse.parse_qs(str(environ.get("QUERY_STRING", "")))
        mails = self.mails(query.get("to", [None])[0])
        as_json = _JSON in str(environ.get("HTTP_ACCEPT", ""))
        mail_id, _, part = str(environ.get("PATH_INFO", "")).strip("/").partition("/")
        if mail_id:
            found = next((mail for mail in mails if mail.id == mail_id), None)
            return _one(found, part, as_json=as_json)
        if as_json:
            return 200, _JSON, json.dumps({"mails": [asdict(mail) for mail in mails]}), {}
        return 200, _HTML, _list_page(mails), {}


def _one(mail: Mail | None, part: str, *, as_json: bool) -> Answer:
    """Returns the page of a mail, or only its part `html`."""
    if mail is None or part not in {"", "html"}:
        return 404, _PLAIN, "There is no such mail. The mailbox forgets when it ends.\n", {}
    if part == "html":
        # Links open in a new tab, because in the frame they would show a page of the product.
        html = f'<base target="_blank">{mail.html}'
        return 200, _HTML, html, {"Content-Security-Policy": _MAILS_POLICY}
    if as_json:
        return 200, _JSON, json.dumps(asdict(mail)), {}
    return 200, _HTML, _mail_page(mail), {}


_REASONS = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
}


def _read(asked: Any) -> Mail:
    content = asked["Content"]["Simple"]
    return Mail(
        id=secrets.token_hex(16),
        received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        sender=str(asked["FromEmailAddress"]),
        to=[str(each) for each in asked["Destination"]["ToAddresses"]],
        subject=str(content["Subject"]["Data"]),
        text=str(content["Body"].get("Text", {}).get("Data", "")),
        html=str(content["Body"].get("Html", {}).get("Data", "")),
        headers={str(h["Name"]): str(h["Value"]) for h in content.get("Headers", [])},
    )


def is_this_machine(authority: str) -> bool:
    """Returns whether a `Host` header names this machine."""
    try:
        host = urllib.parse.urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#d1d9e0, #30363d);
  --quiet: light-dark(#57606a, #9198a1); --link: light-dark(#1d4ed8, #79b8ff); }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem; line-height: 1.5;
  font-family: system-ui, sans-serif; background: light-dark(#fff, #0d1117);
  color: light-dark(#1f2328, #e6edf3); }
h1 { font-size: 1.4rem; } a { color: var(--link); }
ul { list-style: none; padding: 0; }
li { border-top: 1px solid var(--line); padding: .6rem 0; }
.quiet { color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line);
  border-radius: 6px; padding: 1rem; font-size: .9rem; }
iframe { width: 100%; height: 32rem; border: 1px solid var(--line); border-radius: 6px; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def _list_page(mails: Sequence[Mail]) -> str:
    rows = "".join(
        f'<li><a href="/_mail/{mail.id}">{escape(mail.subject)}</a>'
        f'<div class="quiet">to {escape(", ".join(mail.to))}, {escape(mail.received_at)}</div></li>'
        for mail in mails
    )
    body = (
        '<h1>Mailbox</h1>\n<p class="quiet">Mails that this stack has sent to its users, the'
        " newest first. Nothing leaves this machine.</p>\n"
        + (f"<ul>{rows}</ul>" if rows else "<p>No mail was sent yet.</p>")
    )
    return PAGE.substitute(title="Mailbox", body=body)


def _mail_page(mail: Mail) -> str:
    facts = {"From": mail.sender, "To": ", ".join(mail.to), "At": mail.received_at} | mail.headers
    lines = "<br>".join(f"{escape(name)}: {escape(value)}" for name, value in facts.items())
    body = (
        f'<p><a href="/_mail">Mailbox</a></p>\n<h1>{escape(mail.subject)}</h1>\n'
        f'<p class="quiet">{lines}</p>\n'
        f'<iframe title="The mail" src="/_mail/{mail.id}/html"'
        ' sandbox="allow-popups allow-popups-to-escape-sandbox"></iframe>\n'
        f"<h2>As text</h2>\n<pre>{_linked(mail.text)}</pre>"
    )
    return PAGE.substitute(title=escape(mail.subject), body=body)


def _linked(text: str) -> str:
    """Returns the text as HTML, with links."""
    parts, at = [], 0
    for found in _LINK.finditer(text):
        link = escape(found[0])
        parts += [escape(text[at : found.start()]), f'<a href="{link}" rel="noreferrer">{link}</a>']
        at = found.end()
    return "".join([*parts, escape(text[at:])])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Logs nothing, because the pages have links with tokens."""


def _application(mailbox: Mailbox) -> Any:
    """Returns an application with SES's protocol and the pages, for the mailbox that runs alone."""

    def serve(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] != SEND_EMAIL:
            if environ["PATH_INFO"].split("/")[1:2] == ["_mail"]:
                shift_path_info(environ)
            return mailbox.pages(environ, start_response)
        length = int(str(environ.get("CONTENT_LENGTH") or 0))
        # Browsers send no mails, so a page of another site must not be able to fill the mailbox.
        is_program = environ["REQUEST_METHOD"] == "POST" and "HTTP_ORIGIN" not in environ
        status, answer = 403, {"message": "Forbidden"}
        if is_program and length <= _LARGEST:
            status, answer = mailbox.send_email(environ["wsgi.input"].read(length))
        body = json.dumps(answer).encode()
        reason = {200: "OK", 400: "Bad Request", 403: "Forbidden"}[status]
        start_response(
            f"{status} {reason}",
            [("Content-Type", _JSON), ("Content-Length", str(len(body)))],
        )
        return [body]

    return serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves a mailbox alone, until it is stopped. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m local.mailbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=3004, help="port to listen on (3004)")
    asked = parser.parse_args(arguments)
    with make_server(asked.host, asked.port, _application(Mailbox()), _Server, _Quiet) as server:
        print(f"Mailbox: http://127.0.0.1:{server.server_port}/_mail", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
