"""Portal sessions: whoever has the address can manage one customer's billing."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from standin.errors import ApiError
from standin.ids import new_secret
from standin.models import PortalSession
from standin.schemas import CreatePortalSession
from standin.world import World

IDLE = timedelta(minutes=30)
LIFETIME = timedelta(hours=2)


def _wall_now(wall: Callable[[], float] = time.time) -> datetime:
    # Wall time, because moving the test clock must not log a person out.
    return datetime.fromtimestamp(wall(), UTC)


def open_session(world: World, request: CreatePortalSession) -> str:
    """A fresh portal address. Raises ApiError: customer_not_found."""
    if request.customer_id is not None:
        customer = world.customer(request.customer_id)
    else:
        found = world.store.customers.first("email = ?", request.email)
        if found is None:
            raise ApiError("customer_not_found", "Customer not found", param="email")
        customer = found
    now = _wall_now()
    session = world.store.portal_sessions.put(
        PortalSession(
            id=new_secret("ps"),
            customer_id=customer.id,
            return_url=request.return_url,
            created_at=now,
            used_at=now,
        )
    )
    return f"{world.public_url}/portal/{session.id}"


def use_session(world: World, token: str) -> PortalSession | None:
    """Returns the session of a token and resets its idle time; None if the session has expired."""
    session = world.store.portal_sessions.get(token)
    now = _wall_now()
    if session is None or now > session.used_at + IDLE or now > session.created_at + LIFETIME:
        return None
    session.used_at = now
    return world.store.portal_sessions.put(session)
