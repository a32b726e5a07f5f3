"""Outgoing events over HTTP: reading them, and the endpoints that they are sent to."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from standardwebhooks.webhooks import Webhook

from billing import wiring
from billing.database.connection import Database
from billing.operations.inspection import of_user
from functions.send_events import app as send_events
from tests.http_server import Request, Response, serving
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user
from tests.integration.billing.racing import Race
from tests.integration.conftest import Context
from tests.integration.functions.calling import Answer, call, service_key, start

pytestmark = pytest.mark.handlers

KEY = "svc_backend_" + "a" * 64
READER = "svc_reader_" + "b" * 64
URL = "https://app.example.com/hooks"
UNKNOWN = "ep_000000000000000000000000"


@pytest.fixture(autouse=True)
def db(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    keys = [service_key("backend", KEY, "events:manage"), service_key("reader", READER, "read")]
    start(monkeypatch, database_url, keys, {"EVENT_RECEIVERS_ON_LOOPBACK": "true"})
    monkeypatch.setattr(send_events.metrics.provider, "namespace", "test")
    add_user(wiring.database(), "usr_ana")
    add_user(wiring.database(), "usr_bob")
    yield wiring.database()
    wiring.database().close()


def emit(db: Database, user: str = "usr_ana", kind: str = "access.granted", **data: Any) -> None:
    db.execute("select emit_event(%s, %s, %s, %s)", [user, kind, NOW, Jsonb(data)])


def ask(method: str, path: str = "", body: Any = None) -> Answer:
    return call(method, f"/events/endpoints{path}", body, token=KEY)


def made(**fields: Any) -> dict[str, Any]:
    answer = ask("POST", "", {"url": URL} | fields)
    assert answer.status == 201
    found: dict[str, Any] = answer.json
    return found


def run() -> dict[str, Any]:
    summary: dict[str, Any] = send_events.handler({}, Context(55))
    return summary


class TestReading:
    def test_events_come_in_their_order_from_a_place_on(self, db: Database) -> None:
        emit(db, plan="pro")
        emit(db, "usr_bob")
        first = call("GET", "/events?limit=1", token=READER).json
        (event,) = first["events"]
        assert event["subject"] == "usr_ana"
        assert (event["type"], event["sequence"]) == ("access.granted", "1")
        assert (event["specversion"], event["source"]) == ("1.0", "https://app.example")
        assert event["time"] == "2026-09-10T12:00:00.000Z"
        assert event["data"] == {"plan": "pro"}
        second = call("GET", f"/events?after={first['next_after']}", token=READER).json
        assert [each["subject"] for each in second["events"]] == ["usr_bob"]
        emit(db)
        third = call("GET", f"/events?after={second['next_after']}", token=READER).json
        assert [each["sequence"] for each in third["events"]] == ["2"]
        nothing = call("GET", f"/events?after={third['next_after']}", token=READER).json
        assert nothing == {"events": [], "next_after": third["next_after"]}

    def test_an_open_transactions_event_comes_after_the_cursor(
        self, db: Database, race: Race
    ) -> None:
        """It was written first, and is committed once a later one has been read."""
        race.first(emit)
        emit(db, "usr_bob")
        first = call("GET", "/events?after=0", token=READER).json
        assert [each["subject"] for each in first["events"]] == ["usr_bob"]
        race.commit()
        second = call("GET", f"/events?after={first['next_after']}", token=READER).json
        assert [each["subject"] for each in second["events"]] == ["usr_ana"]
        assert second["next_after"] > first["next_after"]

    def test_one_user_and_some_types(self, db: Database) -> None:
        for user in ("usr_ana", "usr_bob"):
            for kind in ("access.granted", "access.ended", "debt.opened"):
                emit(db, user, kind)
        path = "/events?user_id=usr_bob&types=access.ended,debt.opened"
        found = call("GET", path, token=READER).json["events"]
        assert [(each["subject"], each["type"]) for each in found] == [
            ("usr_bob", "access.ended"),
            ("usr_bob", "debt.opened"),
        ]

    def test_an_operator_sees_a_users_newest_and_who_waits_for_them(self, db: Database) -> None:
        made()
        emit(db)
        emit(db, kind="access.ended", reason="canceled")
        emit(db, "usr_bob")
        call("GET", "/events", token=READER)
        shown = of_user(db, "usr_ana", now=NOW)["outgoing_events"]
        assert [(each["type"], each["sequence"], each["waiting"]) for each in shown] == [
            ("access.ended", 2, 1),
            ("access.granted", 1, 1),
        ]
        assert shown[0]["data"] == {"reason": "canceled"}

    @pytest.mark.parametrize(
        "query",
        [
            *("limit=0", "limit=1001", "after=-1", "after=x", "types=", "types=access"),
            *("types=access.begun", "types=access.ended,access.begun"),
            *("since=1", "after=1&after=2", "user_id=a%20b", f"after={2**63}"),
        ],
    )
    def test_a_wrong_query_is_refused(self, query: str) -> None:
        assert call("GET", f"/events?{query}", token=READER).code == "invalid_request"

    def test_reading_takes_the_scope_read(self) -> None:
        assert call("GET", "/events", token=KEY).code == "missing_scope"
        assert call("GET", "/events").code == "unauthenticated"


class TestEndpoints:
    def test_a_new_endpoint_has_its_secret_this_once(self) -> None:
        answer = made(types=["access.granted"], description="Ours")
        assert answer["secret"].startswith("whsec_")
        shown = ask("GET", f"/{answer['id']}").json
        assert shown == {name: answer[name] for name in answer if name != "secret"}
        assert (shown["url"], shown["types"], shown["enabled"]) == (URL, ["access.granted"], True)
        assert ask("GET").json == {"endpoints": [shown]}

    def test_the_database_has_no_secret(self, db: Database) -> None:
        secret = made()["secret"]
        assert secret not in str(db.all("select * from event_endpoint"))

    def test_only_what_is_named_changes(self) -> None:
        path = f"/{made(types=['access.granted'])['id']}"
        assert ask("PATCH", path, {"description": "Theirs"}).json["types"] == ["access.granted"]
        assert ask("PATCH", path, {"types": None}).json["types"] is None
        off = ask("PATCH", path, {"enabled": False}).json
        assert (off["enabled"], off["disabled_by"]) == (False, "request")
        assert ask("PATCH", path, {"enabled": True}).json["disabled_at"] is None

    def test_a_deleted_endpoint_is_gone(self) -> None:
        path = f"/{made()['id']}"
        assert ask("DELETE", path).status == 204
        assert ask("DELETE", path).code == "endpoint_not_found"

    @pytest.mark.parametrize(
        "url",
        [
            *("http://app.example.com/", "https://10.0.0.1/", "https://ana:b@app.example.com/"),
            *("https://169.254.169.254/latest", "https://2130706433/", "https://localhost/"),
            *("https://[::ffff:127.0.0.1]/", "not a url", ""),
        ],
    )
    def test_an_address_that_is_not_public_is_refused(self, url: str) -> None:
        answer = ask("POST", "", {"url": url})
        assert answer.code == "invalid_request"
        assert [each["field"] for each in answer.json["errors"]] == ["url"]
        assert ask("PATCH", f"/{made()['id']}", {"url": url}).code == "invalid_request"

    def test_this_machine_is_refused_but_on_the_local_stack(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = {"url": "http://127.0.0.1:8080/"}
        assert ask("POST", "", body).status == 201
        start(monkeypatch, database_url, [service_key("backend", KEY, "events:manage")], {})
        monkeypatch.delenv("EVENT_RECEIVERS_ON_LOOPBACK")
        assert ask("POST", "", body).code == "invalid_request"

    @pytest.mark.parametrize("types", [["access.begun"], ["access"], [], "access.ended", [1]])
    def test_a_type_that_there_is_not_is_refused(self, types: Any) -> None:
        assert ask("POST", "", {"url": URL, "types": types}).code == "invalid_request"
        assert ask("PATCH", f"/{made()['id']}", {"types": types}).code == "invalid_request"

    def test_there_are_ten_at_most(self) -> None:
        for _ in range(10):
            made()
        assert ask("POST", "", {"url": URL}).code == "too_many_endpoints"

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "", None),
            ("PATCH", "", {}),
            ("DELETE", "", None),
            ("POST", "/rotate", None),
            ("GET", "/deliveries", None),
            ("POST", "/redeliver", {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}),
        ],
    )
    def test_an_unknown_endpoint_is_named(self, method: str, path: str, body: Any) -> None:
        assert ask(method, f"/{UNKNOWN}{path}", body).code == "endpoint_not_found"
        assert call(method, f"/events/endpoints/{UNKNOWN}{path}", body, token=READER).code == (
            "missing_scope"
        )

    def test_acts_are_in_the_audit_trail_with_the_key(self, db: Database) -> None:
        endpoint = made()["id"]
        ask("POST", f"/{endpoint}/rotate")
        rows = db.all(
            "select action, details->>'endpoint' as endpoint from audit"
            " where actor = 'backend' and action like 'event_endpoint.%' order by at"
        )
        assert [(row["action"], row["endpoint"]) for row in rows] == [
            ("event_endpoint.added", endpoint),
            ("event_endpoint.secret_rotated", endpoint),
        ]


class TestDelivering:
    def test_an_event_arrives_signed_and_is_in_the_log_of_deliveries(self, db: Database) -> None:
        came: list[Request] = []

        def take(request: Request) -> Response:
            came.append(request)
            return Response()

        with serving(take) as url:
            endpoint = made(url=f"{url}/hooks")
            rotated = ask("POST", f"/{endpoint['id']}/rotate").json
            emit(db)
            summary = run()
        assert (summary["sent"], summary["postponed"], summary["age_seconds"]) == (1, 0, 0)
        (request,) = came
        assert rotated["previous_secret_until"] is not None
        assert rotated["secret"] != endpoint["secret"]
        for secret in (endpoint["secret"], rotated["secret"]):
            event = Webhook(secret).verify(request.body.decode(), request.headers)
        assert event == call("GET", "/events", token=READER).json["events"][0]
        (delivery,) = ask("GET", f"/{endpoint['id']}/deliveries").json["deliveries"]
        assert (delivery["event"], delivery["state"]) == (event["id"], "sent")
        assert (delivery["attempts"], delivery["http_status"]) == (1, 200)
        assert delivery["reason"] is None

    def test_what_failed_is_found_and_sent_again(self, db: Database) -> None:
        status = 500
        with serving(lambda _: Response(status=status)) as url:
            path = f"/{made(url=url)['id']}"
            emit(db)
            emit(db, "usr_bob")
            assert run()["postponed"] == 2
            listed = ask("GET", f"{path}/deliveries?state=pending").json["deliveries"]
            assert [(each["reason"], each["http_status"]) for each in listed] == [
                ("status", 500)
            ] * 2
            assert ask("GET", path).json["failing_since"] is not None
            assert ask("GET", f"{path}/deliveries?state=failed").json["deliveries"] == []
            status = 200
            db.execute("update event_delivery set due_at = now()")
            assert run()["sent"] == 2
            again = {"event": listed[0]["event"]}
            assert ask("POST", f"{path}/redeliver", again).json == {"queued": 1}
            times = {"from": NOW.isoformat(), "to": (NOW + timedelta(seconds=1)).isoformat()}
            assert ask("POST", f"{path}/redeliver", times).json == {"queued": 1}
            assert run()["sent"] == 2

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"from": "2026-01-01T00:00:00Z"},
            {"to": "2026-01-01T00:00:00Z"},
            {"event": "0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11", "from": "2026-01-01T00:00:00Z"},
            {"event": "1"},
            {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
        ],
    )
    def test_what_is_neither_one_event_nor_a_range_is_refused(self, body: Any) -> None:
        path = f"/{made()['id']}/redeliver"
        assert ask("POST", path, body).code == "invalid_request"

    def test_an_unknown_event_is_named(self) -> None:
        body = {"event": "0d3f6f0a-5f0c-4d3c-9a57-2f1e7c1b9d11"}
        assert ask("POST", f"/{made()['id']}/redeliver", body).code == "event_not_found"

    def test_a_long_log_is_paged(self, db: Database) -> None:
        path = f"/{made()['id']}/deliveries"
        for _ in range(101):
            emit(db)
        call("GET", "/events", token=READER)
        first = ask("GET", path).json
        second = ask("GET", f"{path}?cursor={first['next_cursor']}").json
        sequences = [each["sequence"] for page in (first, second) for each in page["deliveries"]]
        assert sequences == [str(number) for number in range(101, 0, -1)]
        assert second["next_cursor"] is None
        assert ask("GET", f"{path}?cursor=x").code == "invalid_request"

    def test_the_metrics_say_how_it_is(
        self, db: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serving(lambda _: Response(status=410)) as url:
            made(url=url)
            emit(db)
            db.execute("update outgoing_event set inserted_at = now() - interval '2 hours'")
            run()
        written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        (metrics,) = [line for line in written if "_aws" in line]
        assert metrics["EventsPostponed"] == [1.0]
        assert metrics["EventEndpointsOff"] == [1.0]
        assert metrics["EventsAgeSeconds"] == [0.0]

    def test_an_event_given_up_counts_until_it_is_sent_again(
        self, db: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def given_up() -> list[float]:
            run()
            written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            (metrics,) = [line for line in written if "_aws" in line]
            return list(metrics["EventsFailed"])

        status = 500
        with serving(lambda _: Response(status=status)) as url:
            path = f"/{made(url=url)['id']}"
            emit(db)
            assert given_up() == [0.0]
            db.execute(
                "update event_delivery set due_at = now(),"
                " first_failed_at = now() - interval '3 days'"
            )
            db.execute("update event_endpoint set failing_since = null")
            assert given_up() == [1.0]
            assert given_up() == [1.0]
            (failed,) = ask("GET", f"{path}/deliveries?state=failed").json["deliveries"]
            status = 200
            assert ask("POST", f"{path}/redeliver", {"event": failed["event"]}).status == 202
            assert given_up() == [0.0]


class TestBus:
    def test_a_run_puts_events_on_the_bus_that_the_stack_has(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entries: list[dict[str, Any]] = []

        def take(request: Request) -> Response:
            came = json.loads(request.body)["Entries"]
            entries.extend(came)
            answer = {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}] * len(came)}
            return Response(json.dumps(answer).encode(), 200, "application/x-amz-json-1.1")

        bus = "arn:aws:events:eu-central-1:123456789012:event-bus/acme"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        with serving(take) as url:
            monkeypatch.setenv("EVENT_BUS", bus)
            monkeypatch.setenv("EVENTS_ENDPOINT_URL", url)
            wiring.settings.cache_clear()
            assert run()["bus"] == {"put": 0, "passed_over": 0}
            emit(db, plan="pro")
            assert run()["bus"] == {"put": 1, "passed_over": 0}
        (entry,) = entries
        assert (entry["EventBusName"], entry["Source"]) == (bus, "usage-billing")
        assert entry["DetailType"] == "access.granted"
        detail = json.loads(entry["Detail"])
        assert detail == call("GET", "/events", token=READER).json["events"][0]
        monkeypatch.delenv("EVENT_BUS")
        wiring.settings.cache_clear()
        run()
        assert db.value("select count(*) from event_bus") == 0
