"""Customers, who can be billed."""

from typing import Any

from pydantic import ValidationError

from standin import events
from standin.errors import ApiError
from standin.ids import new_id
from standin.models import Customer
from standin.schemas import CreateCustomer, UpdateCustomer
from standin.world import World


def create(world: World, request: CreateCustomer) -> tuple[Customer, bool]:
    """Returns the customer, and whether it is new. The caller's own id makes creation idempotent.

    An existing customer is returned unchanged, whatever else the request says. If emails are set to
    link, so is the customer who has the email; only the caller's id of that customer is replaced.
    Raises ApiError: duplicate, if emails are set to be unique.
    """
    own_id = request.own_id
    known = own_id and world.store.customers.first("external_id = ?", own_id)
    if known:
        return known, False
    same_email = world.store.customers.first("email = ?", request.email, newest=False)
    if same_email and world.settings.repeated_email == "conflict":
        raise ApiError("duplicate", "Another customer has this email", param="email")
    if same_email and world.settings.repeated_email == "link":
        return _linked(world, same_email, own_id), False
    now = world.now()
    customer = Customer(
        id=new_id("cus"),
        external_id=own_id,
        email=request.email,
        full_name=request.full_name,
        tax_document=request.tax_document,
        timezone=request.timezone or "UTC",
        metadata=request.metadata,
        address=request.address.model_dump(by_alias=True) if request.address else None,
        created_at=now,
        updated_at=now,
    )
    world.store.customers.put(customer)
    events.customer_event(world, "customer.created", customer)
    return customer, True


def _linked(world: World, customer: Customer, own_id: str | None) -> Customer:
    """Give the customer the caller's new id. Without a new id, the customer does not change."""
    if own_id is None:
        return customer
    linked = customer.model_copy(update={"external_id": own_id, "updated_at": world.now()})
    world.store.customers.put(linked)
    events.customer_event(world, "customer.updated", linked)
    return linked


def create_many(world: World, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A CustomerBatch: each entry succeeds or fails by itself."""
    successful: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for index, entry in enumerate(entries):
        try:
            customer, _ = create(world, CreateCustomer.model_validate(entry))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            message = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            failed.append({"index": index, "error": message, "data": entry})
        except ApiError as error:
            failed.append({"index": index, "error": error.message, "data": entry})
        else:
            successful.append(
                {"id": customer.id, "externalId": customer.external_id, "email": customer.email}
            )
    return {
        "successful": successful,
        "failed": failed,
        "object": "customer_batch",
        "livemode": False,
    }


def find(world: World, public_id: str) -> Customer:
    """The customer by Commet's own id; the caller's id is not accepted here.

    Raises ApiError: customer_not_found.
    """
    customer = world.store.customers.get(public_id)
    if customer is None:
        raise ApiError("customer_not_found", "Customer not found", param="id")
    return customer


def update(world: World, customer: Customer, request: UpdateCustomer) -> Customer:
    """Change the fields that were sent.

    Raises ApiError: duplicate, if another customer has the id, or if another has the email and
    emails are set to be unique or to link.
    """
    changes = request.model_dump(exclude_unset=True, exclude={"address"})
    if request.address is not None:
        changes["address"] = request.address.model_dump(by_alias=True)
    own_id = changes.get("external_id")
    other = own_id and world.store.customers.first("external_id = ?", own_id)
    if other and other.id != customer.id:
        raise ApiError("duplicate", "Another customer has this externalId", param="externalId")
    if "email" in changes and changes["email"] is None:
        del changes["email"]
    if "email" in changes and world.settings.repeated_email != "create":
        same = world.store.customers.first("email = ?", changes["email"], newest=False)
        if same and same.id != customer.id:
            raise ApiError("duplicate", "Another customer has this email", param="email")
    changed = customer.model_copy(update=changes | {"updated_at": world.now()})
    world.store.customers.put(changed)
    events.customer_event(world, "customer.updated", changed)
    return changed
