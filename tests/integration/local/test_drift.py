"""The runbook of `usage-drift`, practised on a laptop whose clock is moved."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from local.stack import LocalStack
from standin.testing import Control


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with LocalStack(fast=True, schedule_minute_seconds=None) as running:
        yield running


def test_found_shown_repaired(stack: LocalStack) -> None:
    """Six hours pass on the stack's clock only; the runs are those of the schedules."""

    def run() -> None:
        """The schedules, a minute later. Nothing was sent in the minute before."""
        with psycopg.connect(stack.database_url, autocommit=True) as connection:
            connection.execute("update usage_delivery set sent_at = sent_at - interval '2 minutes'")
        control.advance(seconds=60)
        stack.invoke("DeliverUsageFunction")
        stack.invoke("ReconcileFunction")

    def drift() -> list[dict[str, Any]]:
        return list(stack.invoke("ReconcileFunction", {"command": "show", "user": "ana"})["drift"])

    keys = {"authorization": f"Bearer {stack.service_key}"}
    with (
        contextlib.closing(Control(stack.commet.removesuffix("/api/v1"))) as control,
        httpx.Client(base_url=stack.api, headers=keys, timeout=40) as backend,
    ):
        backend.put("/users/ana", json={"email": "ana@example.com"}).raise_for_status()
        wish = {"user_id": "ana", "plan_code": "usage_pro"}
        made = backend.post("/checkout", json=wish).raise_for_status().json()
        control.pay(made["subscription"]["id"])
        control.settle()
        usage = {"user_id": "ana", "feature": "storage", "quantity": "10", "idempotency_key": "1"}
        assert backend.post("/usage", json=usage).json()["accepted"] == 1
        run()
        run()
        assert drift() == []

        # Somebody changes the usage in Commet's dashboard.
        httpx.put(
            f"{stack.commet}/usage",
            headers={"x-api-key": stack.commet_api_key, "idempotency-key": "by-hand"},
            json={"customerId": "ana", "featureCode": "storage", "value": 13},
            timeout=30,
        ).raise_for_status()
        run()
        assert drift() == []  # the last round is not six hours ago
        control.advance(days=0.25)
        run()
        [found] = drift()
        assert (found["ours"], found["theirs"], found["repair"]) == ("10", "13", None)

        assert stack.invoke("ReconcileFunction", {"command": "repair_drift"}) == {"repairing": 1}
        run()
        run()
        assert stack.invoke("ReconcileFunction", {"command": "compare"}) == {"requested": "compare"}
        run()
        assert drift() == []
        access = httpx.get(
            f"{stack.commet}/feature-access/storage",
            headers={"x-api-key": stack.commet_api_key},
            params={"customerId": "ana"},
            timeout=30,
        )
        assert access.json()["consumption"]["unitsUsed"] == 10
