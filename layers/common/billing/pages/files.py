"""The files that pages load, and the file for search engines."""

from typing import Any

from aws_lambda_powertools.event_handler import Response

from billing import wiring
from billing.http import api
from billing.pages import site
from billing.pages.site import app

# Search engines list the prices and the form to sign up. All other pages say `noindex`. They may
# read the form to sign in, because they would list the address of a page that they may not read.
# They may read an estimate, which names the prices as its canonical address.
_READABLE = ("/$", "/?", "/assets/", "/app/login", "/app/signup")
_ROBOTS = "\n".join(["User-agent: *", *(f"Allow: {path}" for path in _READABLE), "Disallow: /", ""])


@app.get("/assets/<name>")
@api.page
def send_file(name: str) -> Response[Any]:
    """A file that pages load, compressed where the browser takes that."""
    found, kept = site.frame().assets(wiring.settings().pages_accent).served(name)
    headers = {
        "Cache-Control": kept,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Vary": "Accept-Encoding",
    }
    body = found.body
    if "gzip" in api.headers(app).get("accept-encoding", ""):
        body = found.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(200, content_type=found.kind, body=body, headers=headers)


@app.get("/robots.txt")
@api.page
def send_robots() -> Response[Any]:
    """What search engines may read."""
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(200, content_type="text/plain; charset=utf-8", body=_ROBOTS, headers=headers)
