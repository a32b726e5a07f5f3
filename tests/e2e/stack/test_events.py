"""Outgoing events on the whole stack: an endpoint on this machine gets what becomes true."""

import httpx
import psycopg

from local.stack import LocalStack
from tests.http_server import Request, Response, serving
from usage_billing import read_event


def test_a_product_hears_of_its_user(stack: LocalStack, backend: httpx.Client) -> None:
    """By a signed request to its endpoint, and by asking; both say the same."""
    came: list[Request] = []

    def take(request: Request) -> Response:
        came.append(request)
        return Response()

    others = backend.get("/events/endpoints").json()["endpoints"]  # of other tests
    gone = [backend.delete(f"/events/endpoints/{each['id']}").status_code for each in others]
    assert gone == [204] * len(others)
    backend.put("/users/heard-of", json={"email": "heard@example.com"}).raise_for_status()
    with serving(take) as url:
        made = backend.post("/events/endpoints", json={"url": f"{url}/hooks"})
        assert made.status_code == 201
        endpoint = made.json()
        with psycopg.connect(stack.database_url, autocommit=True) as database:
            database.execute("select emit_event('heard-of', 'debt.opened', now(), '{}')")
        stack.invoke("SendEventsFunction")
        assert backend.delete(f"/events/endpoints/{endpoint['id']}").status_code == 204
    heard = [read_event(each.body, each.headers, endpoint["secret"]) for each in came]
    asked = backend.get("/events?user_id=heard-of&types=debt.opened").json()["events"]
    assert len(asked) == 1
    assert asked[0]["id"] in {each.id for each in heard}
