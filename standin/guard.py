"""Whom the stand-in answers: checked before every request, whatever the request asks for.

People browse the web on the machines on which the stand-in runs. Two rules keep foreign pages out:

- A request has to name a host that the stand-in goes by. A page can have its own domain name
  pointed at this machine after it was loaded (DNS rebinding), and would then read everything; but
  its requests still name that domain.
- A browser may change something only on behalf of a page of the stand-in itself. Browsers say
  where a change comes from in `Origin` and `Sec-Fetch-Site`. Other programs send neither header.
"""

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from standin import wire
from standin.errors import error_body
from standin.hosts import Origin, bare_host, host_and_port, is_loopback, origin_of
from standin.pages import view
from standin.world import World

_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
# `none`: the person at the browser asked for it, not a page. Another port is `same-site`.
_OWN_SITE = frozenset({"same-origin", "none"})


def guard(world: World) -> Middleware:
    """What the application calls before each of its handlers, and before a body is read."""
    door = _Door(world)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        return door.refusal(request) or await handler(request)

    return check


class _Door:
    """The hosts and origins that one running stand-in goes by."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._allowed = frozenset(bare_host(name) for name in world.settings.allow_hosts)

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that is to have no other; None for every other request."""
        # The origin of the public URL is known once the stand-in listens, so it is asked for here.
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
    """A page for a browser that wants one, Commet's error envelope for everything else."""
    if "text/html" in request.headers.get("Accept", ""):
        return view.gone(title, message, status=status)
    body = error_body("forbidden", "authentication_error", message)
    return web.Response(status=status, body=wire.dumps(body), content_type="application/json")
