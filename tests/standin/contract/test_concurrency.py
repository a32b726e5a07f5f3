"""Many conflicting requests at once: each effect happens once, and everybody gets an answer."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from standin.testing import StandIn, standin

TOGETHER = 20


@pytest.fixture(params=["memory", "file"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StandIn]:
    data = ":memory:" if request.param == "memory" else str(tmp_path / "commet.sqlite")
    with standin(data=data) as running:
        # Every request waits inside the pipeline, so that all are under way before one acts.
        running.control.fault(action={"latency_ms": 100}, times=None)
        yield running


def at_once(
    server: StandIn,
    path: str,
    *bodies: dict[str, Any],
    base: str | None = None,
    headers: dict[str, str] | None = None,
) -> list[httpx.Response]:
    """Post all bodies at the same time, each over its own connection."""

    async def post_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            base_url=base or server.base_url,
            headers={"x-api-key": server.api_key} | (headers or {}),
            limits=httpx.Limits(max_connections=len(bodies)),
            timeout=30,
            trust_env=False,
        ) as http:
            return await asyncio.gather(*(http.post(path, json=body) for body in bodies))

    return asyncio.run(post_all())


def outcomes(answers: list[httpx.Response]) -> Counter[tuple[int, str | None]]:
    """How many answers of which status, with the code of errors."""
    return Counter(
        (a.status_code, a.json()["error"]["code"] if a.is_error else None) for a in answers
    )


def ids(answers: list[httpx.Response]) -> set[str]:
    return {a.json()["id"] for a in answers if a.is_success}


def create_customer(server: StandIn) -> None:
    assert at_once(server, "/customers", {"id": "usr_1", "email": "a@example.com"})[0].is_success


def subscribe(server: StandIn, plan: str) -> str:
    create_customer(server)
    body = {"customerId": "usr_1", "planCode": plan}
    created: str = at_once(server, "/subscriptions", body)[0].json()["id"]
    if plan != "free":
        server.control.pay(created)
    return created


def used(server: StandIn) -> float:
    answer = httpx.get(
        f"{server.base_url}/feature-access/storage",
        params={"customerId": "usr_1"},
        headers={"x-api-key": server.api_key},
    )
    return float(answer.json()["consumption"]["unitsUsed"])


def event(name: str | None = None) -> dict[str, Any]:
    body = {"customerId": "usr_1", "featureCode": "storage", "value": 1}
    return body | {"eventId": name} if name else body


def test_one_key_has_one_effect(server: StandIn) -> None:
    """One is answered, the others are asked to come back; then the answer is replayed."""
    subscribe(server, "usage_pro")
    key = {"Idempotency-Key": "k1"}
    answers = at_once(server, "/usage/events", *[event()] * TOGETHER, headers=key)
    assert outcomes(answers) == {
        (201, None): 1,
        (409, "idempotency_in_progress"): TOGETHER - 1,
    }
    replays = at_once(server, "/usage/events", *[event()] * TOGETHER, headers=key)
    assert outcomes(replays) == {(201, None): TOGETHER}
    assert ids(replays) == ids(answers)
    assert used(server) == 1


def test_one_event_id_counts_once(server: StandIn) -> None:
    """Without any key: the later ones are duplicates."""
    subscribe(server, "usage_pro")
    answers = at_once(server, "/usage/events", *[event("e1")] * TOGETHER)
    assert outcomes(answers) == {(201, None): 1, (409, "duplicate"): TOGETHER - 1}
    assert used(server) == 1


def test_a_limit_holds(server: StandIn) -> None:
    """Exactly what fits is accepted."""
    subscribe(server, "free")
    answers = at_once(server, "/usage/events", *[event()] * TOGETHER)
    assert outcomes(answers) == {(201, None): 5, (402, "included_limit_reached"): TOGETHER - 5}
    assert used(server) == 5


def test_one_customer_is_created(server: StandIn) -> None:
    """The others get the one that is there."""
    body = {"id": "usr_1", "email": "a@example.com"}
    answers = at_once(server, "/customers", *[body] * TOGETHER)
    assert outcomes(answers) == {(201, None): 1, (200, None): TOGETHER - 1}
    assert len(ids(answers)) == 1
    assert len(server.control.events("customer.created")) == 1


def test_one_checkout_is_opened(server: StandIn) -> None:
    """For the same plan all get the same pending subscription."""
    create_customer(server)
    body = {"customerId": "usr_1", "planCode": "usage_pro"}
    answers = at_once(server, "/subscriptions", *[body] * TOGETHER)
    assert outcomes(answers) == {(201, None): 1, (200, None): TOGETHER - 1}
    assert len(ids(answers)) == 1


def test_one_of_two_plans_stays_pending(server: StandIn) -> None:
    """The last one wins; the others have been replaced."""
    create_customer(server)
    plans = ("usage_pro", "usage_max") * (TOGETHER // 2)
    bodies = [{"customerId": "usr_1", "planCode": plan} for plan in plans]
    answers = at_once(server, "/subscriptions", *bodies)
    assert len(answers) == TOGETHER
    assert all(a.is_success for a in answers)
    statuses = Counter(s["status"] for s in server.control.state()["subscriptions"])
    assert statuses["pending_payment"] == 1
    assert set(statuses) == {"pending_payment", "canceled"}


def test_one_free_plan_is_activated(server: StandIn) -> None:
    """The others are told that there is one."""
    create_customer(server)
    body = {"customerId": "usr_1", "planCode": "free"}
    answers = at_once(server, "/subscriptions", *[body] * TOGETHER)
    assert outcomes(answers) == {
        (201, None): 1,
        (409, "already_has_active_subscription"): TOGETHER - 1,
    }
    assert len(server.control.events("subscription.created")) == 1


def test_one_checkout_is_paid_once(server: StandIn) -> None:
    """However often its form is sent."""
    create_customer(server)
    body = {"customerId": "usr_1", "planCode": "usage_pro"}
    order = at_once(server, "/subscriptions", body)[0].json()
    paid = {"subscription_id": order["id"]}
    answers = at_once(server, "/_standin/pay", *[paid] * TOGETHER, base=server.public_url)
    assert Counter(a.status_code for a in answers) == {200: 1, 409: TOGETHER - 1}
    assert len(server.control.events("payment.received")) == 1


def test_money_moves_once(server: StandIn) -> None:
    """A link is paid once and a payment refunded once, however many ask at the same moment."""
    link = {"amount": 5000, "currency": "usd", "description": "Onboarding"}
    made = at_once(server, "/payments", link)[0].json()
    path = f"/_standin/payments/{made['id']}/pay"
    paid = at_once(server, path, *[{}] * TOGETHER, base=server.public_url)
    assert Counter(a.status_code for a in paid) == {200: 1, 409: TOGETHER - 1}
    transaction = server.control.state()["transactions"][0]["id"]
    path = f"/transactions/{transaction}/refund"
    assert outcomes(at_once(server, path, *[{}] * TOGETHER)) == {
        (201, None): 1,
        (402, "payment_failed"): TOGETHER - 1,
    }
    assert len(server.control.events("payment.refunded")) == 1


def test_three_retries_a_day_are_three(server: StandIn) -> None:
    """Also when all ask at the same moment."""
    create_customer(server)
    body = {"customerId": "usr_1", "planCode": "usage_pro"}
    order = at_once(server, "/subscriptions", body)[0].json()
    server.control.pay(order["id"])
    server.control.set_card("usr_1", charge_failure="card_declined")
    server.control.advance(days=31)
    path = f"/subscriptions/{order['id']}/reactivate"
    assert outcomes(at_once(server, path, *[{}] * TOGETHER)) == {
        (402, "charge_failed"): 3,
        (429, "rate_limited"): TOGETHER - 3,
    }
