"""The local stack shows outgoing events, and who got them, and takes those for EventBridge."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from standardwebhooks.webhooks import Webhook

from local.stack import LocalStack
from tests.http_server import Request, Response, serving

MARKUP = "<script>alert(1)</script>"
AS_JSON = {"accept": "application/json"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack with two events of two users, whose schedule has run once."""
    place: Path = tmp_path_factory.mktemp("events")
    place.chmod(0o755)
    with LocalStack(schedule_minute_seconds=None, fast=True) as running:
        with psycopg.connect(running.database_url) as connection:
            for user in ("usr_ana", "customer-17"):
                connection.execute(
                    "insert into users (id, email, created_at) values (%s, 'x@example.com', now())",
                    [user],
                )
        running.invoke("SendEventsFunction")  # a bus that is new gets the events from now on
        with psycopg.connect(running.database_url) as connection:
            connection.execute(
                "select emit_event('usr_ana', 'access.granted', now(), %s)", ['{"plan": "pro"}']
            )
            connection.execute(
                "select emit_event('customer-17', 'access.ended', now(), %s)",
                [f'{{"plan": "{MARKUP}"}}'],
            )
        yield running


def shown(stack: LocalStack, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(stack.events + query, headers=AS_JSON).json()["events"]
    return found


@pytest.mark.timeout(400)
def test_events_and_their_ways_are_shown(stack: LocalStack) -> None:
    """First as they wait, then with their places and with what took them."""
    waiting = [e for e in shown(stack) if e["type"] in ("access.granted", "access.ended")]
    assert [each["user_id"] for each in waiting] == ["customer-17", "usr_ana"]
    assert [(each["place"], each["on_bus"]) for each in waiting] == [(None, False)] * 2
    stack.invoke("SendEventsFunction")
    (ana,) = [e for e in shown(stack, "?user_id=usr_ana") if e["type"] == "access.granted"]
    assert (ana["data"], ana["on_bus"], ana["deliveries"]) == ({"plan": "pro"}, True, [])
    entries = httpx.get(f"{stack.events}/bus").json()["entries"]
    put = [each for each in entries if each["detail"]["id"] == ana["id"]]
    assert [(each["source"], each["type"]) for each in put] == [("usage-billing", "access.granted")]
    assert put[0]["detail"]["sequence"] == str(ana["sequence"])


@pytest.mark.timeout(400)
def test_a_delivery_is_shown(stack: LocalStack) -> None:
    """The endpoint gets the signed event, and the page says who got it and what refused it."""
    took: list[Request] = []

    def answer(request: Request) -> Response:
        took.append(request)
        return Response(status=204)

    key = {"authorization": f"Bearer {stack.service_key}"}
    with (
        serving(answer) as takes,
        serving(lambda _: Response(status=500)) as refuses,
        httpx.Client(base_url=stack.api, headers=key, timeout=30) as product,
    ):
        made = [
            product.post("/events/endpoints", json={"url": f"{url}/hooks"}).json()
            for url in (takes, refuses)
        ]
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("select emit_event('usr_ana', 'debt.opened', now(), '{}')")
        stack.invoke("SendEventsFunction")
        (event,) = [e for e in shown(stack, "?user_id=usr_ana") if e["type"] == "debt.opened"]
        page = httpx.get(f"{stack.events}?user_id=usr_ana").text
        for endpoint in made:
            assert product.delete(f"/events/endpoints/{endpoint['id']}").status_code == 204
    assert [(each["url"], each["state"]) for each in event["deliveries"]] == [
        (f"{takes}/hooks", "sent"),
        (f"{refuses}/hooks", "pending"),
    ]
    assert f"sent (204), 1 attempts: {takes}/hooks" in page
    assert f"pending (status), 1 attempts: {refuses}/hooks" in page
    (request,) = took
    sent = Webhook(made[0]["secret"]).verify(request.body.decode(), request.headers)
    assert (sent["id"], sent["type"]) == (event["id"], "debt.opened")


@pytest.mark.timeout(400)
def test_the_page_refreshes_itself_and_has_no_markup_of_events(stack: LocalStack) -> None:
    page = httpx.get(stack.events)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert int(page.headers["refresh"]) > 0
    assert "access.granted" in page.text
    assert "customer-17" in page.text
    assert MARKUP not in page.text
    assert "alert(1)" in page.text


@pytest.mark.timeout(400)
def test_the_page_only_shows_and_only_to_this_machine(stack: LocalStack) -> None:
    assert httpx.post(stack.events).status_code == 405
    assert httpx.get(stack.events, headers={"host": "evil.example"}).status_code == 421
    assert httpx.get(f"{stack.events}/other").status_code == 404
