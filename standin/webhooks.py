"""Webhook endpoints: where events are sent."""

from standin.clock import iso
from standin.errors import ApiError
from standin.ids import new_id, new_secret
from standin.models import Endpoint, Event
from standin.schemas import CreateWebhook, UpdateWebhook
from standin.settings import API_VERSION
from standin.world import World


def create(world: World, request: CreateWebhook) -> Endpoint:
    """Create an active endpoint with a secret of its own.

    It gets the current version of the API, even if another was asked for, because the stand-in
    knows no other one.
    """
    return world.store.endpoints.put(
        Endpoint(
            id=new_id("whe"),
            url=request.url,
            events=request.events,
            description=request.description,
            secret=new_secret("whsec"),
            api_version=API_VERSION,
            created_at=world.now(),
        )
    )


def find(world: World, endpoint_id: str) -> Endpoint:
    """The endpoint with that id. Raises ApiError: webhook_not_found."""
    endpoint = world.store.endpoints.get(endpoint_id)
    if endpoint is None:
        raise ApiError("webhook_not_found", "Webhook not found", param="id")
    return endpoint


def update(world: World, endpoint: Endpoint, request: UpdateWebhook) -> Endpoint:
    """Change the fields that were sent. Enabling an endpoint resets its failures and sends
    nothing again.
    """
    changes = request.model_dump(exclude_unset=True)
    nullable = {"description", "api_version"}
    changes = {k: v for k, v in changes.items() if v is not None or k in nullable}
    if changes.get("api_version"):
        changes["api_version"] = API_VERSION
    if changes.get("is_active"):
        changes["exhausted_in_a_row"] = 0
    if changes.get("is_active") is False:
        abandon_pending(world, endpoint)
    return world.store.endpoints.put(endpoint.model_copy(update=changes))


def delete(world: World, endpoint: Endpoint) -> None:
    """Delete the endpoint. Its pending deliveries are not sent any more."""
    abandon_pending(world, endpoint)
    world.store.endpoints.delete("id = ?", endpoint.id)


def abandon_pending(world: World, endpoint: Endpoint) -> None:
    """Give up the pending deliveries of an endpoint."""
    pending = world.store.deliveries.find("status = 'pending' AND endpoint_id = ?", endpoint.id)
    for delivery in pending:
        delivery.status, delivery.next_at = "abandoned", None
        world.store.deliveries.put(delivery)


def test_event(world: World) -> Event:
    """Returns a recognisable event about nobody, in the form of `customer.updated`."""
    now = world.now()
    return world.store.events.put(
        Event(
            id=new_id("whev"),
            name="customer.updated",
            timestamp=now,
            customer_id=None,
            data={
                "id": "cus_test",
                "externalId": "webhook_test",
                "fullName": "Webhook Test",
                "email": "webhook-test@example.com",
                "taxDocument": None,
                "documentType": None,
                "timezone": "UTC",
                "metadata": None,
                "createdAt": iso(now),
                "updatedAt": iso(now),
            },
        )
    )
