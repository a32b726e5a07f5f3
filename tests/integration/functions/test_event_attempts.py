"""The log of deliveries has what came of each attempt."""

import pytest
from psycopg.types.json import Jsonb

from billing import wiring
from functions.send_events import app as send_events
from tests.http_server import Response, serving
from tests.integration.billing.conftest import NOW
from tests.integration.conftest import Context
from tests.integration.functions.calling import call, service_key, start

pytestmark = pytest.mark.handlers

KEY = "svc_backend_" + "a" * 64


def test_the_newest_ten_attempts_are_listed_the_newest_first(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [service_key("backend", KEY, "events:manage", "users:manage")]
    start(monkeypatch, database_url, keys, {"EVENT_RECEIVERS_ON_LOOPBACK": "true"})
    monkeypatch.setattr(send_events.metrics.provider, "namespace", "test")
    assert call("PUT", "/users/ana", {"email": "ana@example.com"}, token=KEY).status == 201
    db, status = wiring.database(), 503
    with serving(lambda _: Response(status=status)) as url:
        body = {"url": url, "types": ["debt.opened"]}
        path = f"/events/endpoints/{call('POST', '/events/endpoints', body, token=KEY).json['id']}"
        db.execute("select emit_event('ana', 'debt.opened', %s, %s)", [NOW, Jsonb({})])
        for _ in range(11):
            send_events.handler({}, Context(55))
            db.execute("update event_delivery set due_at = now()")
        status = 200
        send_events.handler({}, Context(55))
    (delivery,) = call("GET", f"{path}/deliveries", token=KEY).json["deliveries"]
    assert (delivery["state"], delivery["attempts"]) == ("sent", 12)
    assert [each["http_status"] for each in delivery["log"]] == [200] + [503] * 9
    assert [each["reason"] for each in delivery["log"]] == [None] + ["status"] * 9
    assert all(each["at"] and each["milliseconds"] >= 0 for each in delivery["log"])
    db.close()
