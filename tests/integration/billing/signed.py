"""Webhook bodies as Commet sends them, for the tests that need some."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

START = datetime(2026, 9, 1, tzinfo=UTC)
SEPTEMBER = ("2026-09-01T00:00:00.000Z", "2026-10-01T00:00:00.000Z")


def moment(minutes: float) -> datetime:
    """So many minutes into the tale."""
    return START + timedelta(minutes=minutes)


def iso(at: datetime) -> str:
    """As Commet writes times."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def body(event: str, minutes: float | None, *, id: str | None = None, **data: Any) -> bytes:  # noqa: A002
    """An event; `mode` and keys of `data` as given."""
    envelope = {
        "id": id or f"whev_{uuid4().hex[:12]}",
        "event": event,
        "timestamp": None if minutes is None else iso(moment(minutes)),
        "organizationId": "2f0c6a52-7a0e-4a35-9c1f-0d3f8f3f1b77",
        "mode": data.pop("mode", "sandbox"),
        "apiVersion": "2026-08-27",
        "data": data,
    }
    return json.dumps(envelope).encode()


def metered(
    code: str = "storage", *, period: tuple[str, str] = SEPTEMBER, included: int = 100
) -> dict[str, Any]:
    """One entry of a state's features."""
    return {
        "code": code,
        "name": code.title(),
        "unitName": "GB",
        "allowed": True,
        "type": "usage",
        "consumption": {
            "model": "metered",
            "period": {"start": period[0], "end": period[1]},
            "unitsUsed": 0,
            "includedUnits": included,
            "remainingUnits": included,
            "unlimited": False,
            "overage": {
                "enabled": True,
                "units": 0,
                "unitPrice": {"amount": 1000, "currency": "usd", "scale": 10000},
            },
        },
    }


def state(
    user: str,
    subscription: str | None,
    minutes: float,
    status: str = "active",
    *,
    plan: str = "pln_pro",
    features: list[dict[str, Any]] | None = None,
    **extra: Any,
) -> bytes:
    """customer.state_changed; without a subscription it is the one that says `none`."""
    if subscription is None:
        data: dict[str, Any] = {"status": "none", "plan": None, "features": []}
    else:
        data = {
            "status": status,
            "plan": {"id": plan, "name": plan.removeprefix("pln_").title()},
            "billingInterval": "monthly",
            "consumptionModel": "metered",
            "features": [metered()] if features is None else features,
        }
    return body(
        "customer.state_changed",
        minutes,
        customerId=user,
        subscriptionId=subscription,
        **data,
        **extra,
    )
