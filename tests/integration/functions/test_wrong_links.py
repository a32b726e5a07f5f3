"""A wrong link at Commet, two tabs, and a subscription that Commet has forgotten."""

from typing import Any

import httpx
import pytest

from billing import wiring
from functions.deliver_usage import app as deliver_usage
from tests.integration.conftest import Context
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import environment  # noqa: F401
from tests.integration.functions.test_identity import (  # noqa: F401
    Person,
    Start,
    World,
    box,
    start,
    world,
)

pytestmark = pytest.mark.handlers


def test_usage_during_the_moment_of_a_wrong_link(start: Start) -> None:  # noqa: F811
    """Ben signs up with the address Ana has at Commet; Commet answers no PATCH for two minutes."""
    world = start(repeated_email="link")  # noqa: F811
    ana, ben = Person(world), Person(world)
    ana.buys()
    made = ana.customer
    httpx.patch(
        f"{world.remote.base_url}/customers/{made}",
        headers={"x-api-key": world.remote.api_key},
        json={"email": ben.email},
    ).raise_for_status()
    world.hear()
    assert ana.use(150, "k1").json["accepted"] == 1
    world.remote.control.fault(match={"method": "PATCH"}, action={"status": 500}, times=None)
    ben.checkout()
    deliver_usage.handler({}, Context(55))
    world.remote.control.clear_faults()
    world.hear()
    wiring.database().execute("update customers set due_at = now() where due_at is not null")
    world.runs()
    assert world.remote.control.customer(made)["customer"]["external_id"] == ana.id
    for _ in range(3):
        wiring.database().execute("update usage_total set claimed_at = claimed_at - interval '2 h'")
        wiring.database().execute("update usage_delivery set due_at = now()")
        deliver_usage.handler({}, Context(55))
        world.runs()
    rows = wiring.database().all("select state, reason from usage_delivery")
    assert [row["state"] for row in rows] == ["sent"], rows


def test_two_tabs_on_the_free_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """One tab pays for Pro in the instant in which the other asks for Max.

    Commet's call cannot be made conditional, so the user hears what it cost.
    """
    ana = Person(world)
    assert ana.checkout("free").status == 201
    world.hear()
    bought = ana.checkout("usage_pro")
    sub = bought.json["subscription"]["id"]
    from billing.commet.client import Commet

    real = Commet.subscription
    done: list[Any] = []

    def paid_after(self: Commet, *a: Any, **k: Any) -> Any:
        found = real(self, *a, **k)
        if not done:
            done.append(world.remote.control.pay(sub))
        return found

    monkeypatch.setattr(Commet, "subscription", paid_after)
    wiring.database().execute("update users set asked_at = now(), answered_at = now()")
    wiring.database().execute("update subscriptions set checked_at = now()")
    answer = ana.checkout("usage_max")
    assert done
    change = answer.json["change"]
    assert (change["state"], change["due_now"]) == ("completed", "70.00")
    assert answer.json["subscription"]["plan"]["name"] == "Usage Max"


def test_cancel_of_a_subscription_that_commet_does_not_know(world: World) -> None:  # noqa: F811
    ana = Person(world)
    ana.buys()
    world.remote.control.reset()
    answer = call("POST", "/subscription/cancel", {}, token=ana._token)
    assert answer.status < 500, answer.json
