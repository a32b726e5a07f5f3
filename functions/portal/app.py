"""GET and POST /portal: the address of Commet's customer portal."""

from typing import Annotated, Any

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.openapi.params import Body

from billing import metric, wiring
from billing.deadline import LambdaContext
from billing.http import api, redirects
from billing.http.shapes import Portal, PortalReply
from billing.metric import Metric
from billing.subscriptions.portal import portal_url

app = api.resolver()


@app.get(
    "/portal",
    status_code=303,
    security=api.BY_USER,
    responses=api.answers(None, 303, 409, 502),
)
def visit_portal() -> Response[None]:
    """Redirect to the billing portal. A link in a page can point here."""
    return Response(303, headers={"Location": _portal_url(None)})


@app.post(
    "/portal",
    status_code=201,
    security=api.BY_USER,
    responses=api.answers(PortalReply, 201, 403, 409, 502),
)
def create_portal_session(
    body: Annotated[Portal | None, Body()] = None,
) -> Response[PortalReply]:
    """Get the address of a new portal session."""
    return api.json_response(PortalReply(portal_url=_portal_url(body)), 201)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return api.handle(app, event, context)


def _portal_url(body: Portal | None) -> str:
    url = portal_url(
        wiring.database(),
        wiring.commet(),
        api.user(app),
        return_url=redirects.allowed_target(
            wiring.settings(), body.return_url if body else None, "return_url"
        ),
        deadline=api.deadline(app),
    )
    metric.count(Metric.PORTAL_VISITS)
    return url
