"""An invoice as a page to read, print or keep."""

from aiohttp import web

from standin import links
from standin.pages import view
from standin.world import World


class InvoicePage:
    """GET /invoices/{token}."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def show(self, request: web.Request) -> web.Response:
        """The invoice with its lines, or a notice that the link has expired."""
        claims = links.read(self._world, "invoices", request.match_info["token"])
        invoice = self._world.store.invoices.get(claims["invoice"]) if claims else None
        if invoice is None:
            return view.gone(
                "This link is no longer valid",
                "Links to invoices work for seven days. Ask for a new one where you got it.",
                status=410,
            )
        customer = self._world.customer(invoice.customer_id)
        return view.page("invoice.html", invoice=invoice, customer=customer)


def add_routes(app: web.Application, world: World) -> None:
    """Mount the page."""
    app.router.add_get("/invoices/{token}", InvoicePage(world).show)
