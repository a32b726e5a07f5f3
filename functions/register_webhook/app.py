"""Registers our webhook endpoint at Commet. Each deployment invokes it; by hand, use {}."""

from typing import Any

from aws_lambda_powertools import Logger

from billing import wiring
from billing.clock import wall_clock
from billing.config import Misconfigured
from billing.deadline import Deadline, LambdaContext
from billing.deployment import custom_resource
from billing.deployment.custom_resource import Done, Request
from billing.deployment.webhook_registration import Registration
from billing.errors import CommetRefused, CommetUnavailable, Unavailable

logger = Logger()

# The resource's id if no endpoint was registered. Commet's own ids have another form.
_NONE = "not-registered"


def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
    """Registers the endpoint. Returns the endpoint's id, or the answer to CloudFormation.

    If a person invoked the function, raises the error. CloudFormation gets the error as the reason
    of a failure. An event of any other kind changes nothing.
    """
    deadline = Deadline.of_invocation(context, reserve=15)
    if not custom_resource.is_request(event):
        if (answer := custom_resource.refuse(event, logger)) is not None:
            return answer
        registration = _registration(wiring.settings().webhook_url, deadline)
        return {"endpoint_id": registration.ensure(request_id=context.aws_request_id)}
    return custom_resource.fulfil(
        event,
        context,
        lambda request: _fulfil(request, deadline),
        resource_id=_NONE,
        reason=_reason,
        log=logger,
    )


def _fulfil(request: Request, deadline: Deadline) -> Done:
    if request.kind == "Delete":
        return _remove(request, deadline)
    registration = _registration(request.properties["Url"], deadline)
    endpoint_id = registration.ensure(
        request_id=request.id, rotation=request.properties.get("Rotation", "")
    )
    logger.info("webhook_endpoint.registered", endpoint_id=endpoint_id)
    # The resource keeps its id even if the endpoint was replaced. If the id changed, CloudFormation
    # would send a Delete for the old id, and a Delete must only mean that the stack is deleted.
    return Done(request.resource_id or endpoint_id, data={"EndpointId": endpoint_id})


def _remove(request: Request, deadline: Deadline) -> Done:
    """Removes the endpoint. If it cannot be removed for a known reason, leaves it and names it.

    Raises CommetUnavailable if a later attempt may remove an endpoint that was registered.
    """
    resource_id = request.resource_id or _NONE
    try:
        registration = _registration(request.properties["Url"], deadline)
        registration.remove(None if resource_id == _NONE else resource_id)
    except (CommetRefused, Misconfigured) as error:
        # The stack must be deletable after its API key was revoked, and with a wrong setting.
        return _left(resource_id, error)
    except CommetUnavailable as error:
        # If the secret with the API key could not be read, Commet was not called. If no endpoint
        # was registered, the address of Commet may be the mistake because of which the stack is
        # deleted.
        if resource_id != _NONE and not isinstance(error.__cause__, Unavailable):
            raise
        return _left(resource_id, error)
    return Done(resource_id)


def _left(resource_id: str, error: Exception) -> Done:
    logger.warning("webhook_endpoint.left", endpoint_id=resource_id, exc_info=error)
    reason = str(error) if isinstance(error, CommetRefused) else custom_resource.explained(error)
    if resource_id == _NONE:
        text = f"No endpoint was registered. Commet may have an endpoint of this stack: {reason}"
    else:
        text = f"Remove the endpoint at Commet yourself: {reason}"
    return Done(resource_id, text[:500])


def _registration(url: str, deadline: Deadline) -> Registration:
    # Wall time, because the test clock must not change how long a secret remains valid.
    return Registration(wiring.commet(), wiring.webhook_vault(), url, wall_clock, deadline)


def _reason(error: Exception) -> str:
    if isinstance(error, CommetRefused):
        return f"Commet refused to register the webhook: {error}."
    return f"The webhook could not be registered: {custom_resource.explained(error)}"
