"""Decides whom the stand-in answers. This is checked before every request.

People browse the web on the machines on which the stand-in runs. Two rules keep pages of other
sites out:

- A request has to name one of the stand-in's hosts. After a page was loaded, its owner can change
  its domain's address to this machine (DNS rebinding). The page could then read everything here,
  but its requests still name that domain.
- A browser may change something only for a page of the stand-in itself. Browsers name the origin
  of a change in `Origin` and `Sec-Fetch-Site`. Other programs send neither header.
"""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from standin import wire
from standin.errors import error_body
from standin.hosts import Origin, bare_host, host_and_port, is_loopback, origin_of
from standin.pages import view
from standin.world import World

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
# `none`: the person at the browser made the request, and not a page. Another port is `same-site`.
_OWN_SITE = frozenset({"same-origin", "none"})


def guard(world: World) -> Middleware:
    """Returns the middleware that runs before each handler, and before a body is read."""
    door = _Door(world)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        return door.refusal(request) or await handler(request)

    return check


class _Door:
    """The hosts and origins of one running stand-in."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._allowed = frozenset(bare_host(name) for name in world.settings.allow_hosts)

    def refusal(self, request: web.Request) -> web.Response | None:
        """Returns the answer to a request that is refused; None for every other request."""
        # The origin of the public URL is known only once the stand-in listens, so it is read here.
        public = origin_of(self._world.public_url)
        named = request.headers.get("Host", "")
        parts = host_and_port(named)
        if parts is None or not self._goes_by(parts[0], public):
            return _refused(
                request, 421, "This is not the host you asked for", _how_to_allow(named)
            )
        if request.method in _HARMLESS:
            return None
        own = {origin_of(f"http://{named}"), public} - {None}
        origins = {origin_of(text) for text in request.headers.getall("Origin", [])}
        if origins <= own and _OWN_SITE.issuperset(request.headers.getall("Sec-Fetch-Site", [])):
            return None
        return _refused(
            request, 403, "This came from another site",
            "Only pages of the stand-in itself may change something here from a browser.",
        )  # fmt: skip

    def _goes_by(self, host: str, public: Origin | None) -> bool:
        return (
            is_loopback(host)
            or host in self._allowed
            or (public is not None and host == public.host)
        )


def _how_to_allow(named: str) -> str:
    parts = host_and_port(named)
    if parts is None:
        return "The request names no host that the stand-in could go by."
    return (
        f"The stand-in does not go by the name {parts[0]}. If requests with this name are meant"
        f" for it, start it with --allow-host {parts[0].strip('[]')}."
    )


def _refused(request: web.Request, status: int, title: str, message: str) -> web.Response:
    """Returns a page for a browser that accepts one, else Commet's error envelope."""
    if "text/html" in request.headers.get("Accept", ""):
        return view.gone(title, message, status=status)
    body = error_body("forbidden", "authentication_error", message)
    return web.Response(status=status, body=wire.dumps(body), content_type="application/json")
