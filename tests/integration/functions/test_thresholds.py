"""Thresholds through the front door: who adds which, and what is told of refused usage."""

from collections.abc import Iterator
from typing import Any

import pytest

from billing import wiring
from billing.database.connection import Database
from billing.subscriptions.access import Access, Asked
from functions.track_usage import app as track_usage
from tests.integration.billing.conftest import Subscribe
from tests.integration.functions.calling import Answer, call, service_key, start
from tests.integration.functions.test_api import signed_up
from tests.integration.functions.test_track_usage import Clock, usage

pytestmark = pytest.mark.handlers

BACKEND = "svc_backend_" + "a" * 64
UNKNOWN = "thr_" + "0" * 32


@pytest.fixture(autouse=True)
def functions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scopes = ("events:manage", "usage:write", "usage:correct", "users:manage")
    start(monkeypatch, database_url, [service_key("backend", BACKEND, *scopes)], {})
    monkeypatch.setattr(track_usage.metrics.provider, "namespace", "test")
    clock = Clock()
    monkeypatch.setattr(wiring, "clock", lambda: clock)
    yield
    wiring.database().close()


def ask(method: str, path: str, body: Any = None) -> Answer:
    return call(method, path, body, token=BACKEND)


def told(db: Database) -> list[str]:
    """The types of the events about thresholds and limits, oldest first."""
    rows = db.all(
        "select type from outgoing_event where type like '%threshold_reached'"
        " or type like '%limit_reached' order by entry"
    )
    return [row["type"] for row in rows]


class TestOwn:
    @pytest.fixture
    def token(self) -> str:
        return str(signed_up().json["session"]["token"])

    def test_one_changes_own_thresholds_and_the_limit_sixty_times_an_hour(
        self, token: str, db: Database
    ) -> None:
        level = {"measure": "usage", "feature": "api_calls", "amount": "1"}
        for _ in range(20):
            added = call("POST", "/thresholds", level, token=token)
            gone = call("DELETE", f"/thresholds/{added.json['id']}", token=token)
            limited = call("PUT", "/spend-limit", {"amount": "5"}, token=token)
            assert (added.status, gone.status, limited.status) == (201, 204, 200)
        for refused in (
            call("POST", "/thresholds", level, token=token),
            call("DELETE", f"/thresholds/{UNKNOWN}", token=token),
            call("PATCH", f"/thresholds/{UNKNOWN}", {"percent": 50}, token=token),
            call("PUT", "/spend-limit", {"amount": None}, token=token),
        ):
            assert (refused.status, refused.json["code"]) == (429, "too_many_requests")
            assert int(refused.headers["retry-after"]) > 0
        assert db.value("select count(*) from threshold") == 0

    def test_the_story(self, token: str) -> None:
        """What applies, one's own beside it, and gone again."""
        first = call("GET", "/thresholds", token=token).json["thresholds"]
        assert [(t["measure"], t["percent"], t["set_by"], t["id"]) for t in first] == [
            ("usage", 80, "default", None),
            ("usage", 100, "default", None),
            ("spend", 80, "default", None),
            ("spend", 100, "default", None),
        ]
        body = {"feature": "storage", "amount": "42.50"}
        added = call("POST", "/thresholds", body, token=token)
        assert added.status == 201
        mine = added.json
        assert mine == {
            "id": mine["id"], "user_id": mine["user_id"], "set_by": "user", "measure": "usage",
            "feature": "storage", "percent": None, "amount": "42.5",
            "created_at": "2026-09-10T12:00:00.000Z", "reached": [],
        }  # fmt: skip
        again = call("POST", "/thresholds", body, token=token)
        assert (again.status, again.json) == (200, mine)
        assert mine in call("GET", "/thresholds", token=token).json["thresholds"]
        assert call("DELETE", f"/thresholds/{mine['id']}", token=token).status == 204
        assert call("GET", "/thresholds", token=token).json["thresholds"] == first
        gone = call("DELETE", f"/thresholds/{mine['id']}", token=token)
        assert (gone.status, gone.code) == (404, "threshold_not_found")

    def test_one_is_read_and_changed(self, token: str) -> None:
        """Its id, feature and time stay. The same change again is answered the same."""
        body = {"feature": "storage", "percent": 90}
        added = call("POST", "/thresholds", body, token=token).json
        address = f"/thresholds/{added['id']}"
        assert call("GET", address, token=token).json == added
        for _ in range(2):
            changed = call("PATCH", address, {"amount": "7.50"}, token=token)
            assert (changed.status, changed.json) == (
                200,
                added | {"percent": None, "amount": "7.5"},
            )
        assert call("GET", address, token=token).json == changed.json
        listed = call("GET", "/thresholds", token=token).json["thresholds"]
        assert changed.json in listed
        assert added not in listed

    def test_a_change_to_an_equal_one(self, token: str) -> None:
        call("POST", "/thresholds", {"percent": 50}, token=token)
        added = call("POST", "/thresholds", {"percent": 60}, token=token).json
        refused = call("PATCH", f"/thresholds/{added['id']}", {"percent": 50}, token=token)
        assert (refused.status, refused.code) == (409, "threshold_exists")
        assert call("GET", f"/thresholds/{added['id']}", token=token).json == added

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "percent"),
            ({"percent": None}, "percent"),
            ({"percent": 50, "amount": "1"}, "percent"),
            ({"percent": 0}, "percent"),
            ({"percent": 1001}, "percent"),
            ({"percent": "50"}, "percent"),
            ({"amount": "1"}, "feature"),
            ({"amount": "0"}, "amount"),
            ({"percent": 50, "feature": "storage"}, "feature"),
        ],
    )
    def test_what_is_wrong_with_a_change(
        self, token: str, body: dict[str, Any], field: str
    ) -> None:
        added = call("POST", "/thresholds", {"percent": 70}, token=token).json
        refused = call("PATCH", f"/thresholds/{added['id']}", body, token=token)
        assert (refused.status, refused.code) == (422, "invalid_request")
        assert [each["field"] for each in refused.json["errors"]] == [field]
        assert call("GET", f"/thresholds/{added['id']}", token=token).json == added

    def test_one_set_for_the_user(self, token: str) -> None:
        """The user reads the product's thresholds, and changes none of them."""
        every = ask("POST", "/events/thresholds", {"percent": 30}).json
        assert every["reached"] is None  # one of all users
        of_one = every | {"reached": []}
        assert call("GET", f"/thresholds/{every['id']}", token=token).json == of_one
        refused = call("PATCH", f"/thresholds/{every['id']}", {"percent": 31}, token=token)
        assert (refused.status, refused.code) == (404, "threshold_not_found")
        assert ask("GET", f"/events/thresholds/{every['id']}").json == every

    def test_of_somebody_else(self, token: str) -> None:
        other = str(signed_up().json["session"]["token"])
        mine = call("POST", "/thresholds", {"percent": 50}, token=token).json
        address = f"/thresholds/{mine['id']}"
        assert call("GET", address, token=other).code == "threshold_not_found"
        assert call("PATCH", address, {"percent": 51}, token=other).code == "threshold_not_found"
        assert call("DELETE", f"/thresholds/{mine['id']}", token=other).status == 404
        shown = call("GET", "/thresholds", token=other).json["thresholds"]
        assert mine not in shown
        assert mine in call("GET", "/thresholds", token=token).json["thresholds"]

    def test_too_many(self, token: str) -> None:
        for percent in range(1, 21):
            assert call("POST", "/thresholds", {"percent": percent}, token=token).status == 201
        refused = call("POST", "/thresholds", {"percent": 21}, token=token)
        assert (refused.status, refused.code) == (409, "too_many_thresholds")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "percent"),
            ({"percent": 50, "amount": "1", "feature": "storage"}, "percent"),
            ({"percent": 0}, "percent"),
            ({"percent": 1001}, "percent"),
            ({"percent": "50"}, "percent"),
            ({"amount": "1"}, "feature"),
            ({"amount": "0", "feature": "storage"}, "amount"),
            ({"percent": 50, "feature": "storage", "measure": "spend"}, "feature"),
            ({"percent": 50, "user_id": "usr_ana"}, "user_id"),
            ({"percent": 50, "measure": "use"}, "measure"),
        ],
    )
    def test_what_is_wrong(self, token: str, body: dict[str, Any], field: str) -> None:
        refused = call("POST", "/thresholds", body, token=token)
        assert (refused.status, refused.code) == (422, "invalid_request")
        assert [each["field"] for each in refused.json["errors"]] == [field]

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_without_a_session(self, method: str) -> None:
        body = {"percent": 50} if method == "POST" else None
        assert call(method, "/thresholds", body).status == 401

    @pytest.mark.parametrize("method", ["GET", "PATCH"])
    def test_one_without_a_session(self, method: str) -> None:
        body = {"percent": 50} if method == "PATCH" else None
        assert call(method, f"/thresholds/{UNKNOWN}", body).status == 401


class TestOfTheProduct:
    def test_for_a_user(self, db: Database, subscribe: Subscribe) -> None:
        """It is told from then on; only the product removes it."""
        subscribe()
        added = ask("POST", "/events/thresholds", {"user_id": "usr_ana", "percent": 30}).json
        assert added["set_by"] == "product"
        assert ask("POST", "/usage", usage("90")).status == 202
        assert told(db) == ["usage.threshold_reached"]
        listed = ask("GET", "/events/thresholds?user_id=usr_ana").json["thresholds"]
        (reached,) = listed[0]["reached"]
        assert reached["feature"] == "storage"
        assert listed == [added | {"reached": [reached]}]
        assert ask("GET", "/events/thresholds").json["thresholds"] == []
        assert ask("DELETE", f"/events/thresholds/{added['id']}").status == 204
        assert ask("DELETE", f"/events/thresholds/{added['id']}").code == "threshold_not_found"

    def test_for_all_users(self) -> None:
        added = ask("POST", "/events/thresholds", {"feature": "storage", "percent": 30})
        assert added.status == 201
        assert (added.json["set_by"], added.json["user_id"]) == ("operator", None)
        assert ask("GET", "/events/thresholds").json["thresholds"] == [added.json]
        assert ask("DELETE", f"/events/thresholds/{added.json['id']}").status == 204

    def test_a_change_that_is_reached(self, db: Database, subscribe: Subscribe) -> None:
        """It is told at once, and once."""
        subscribe()
        assert ask("POST", "/usage", usage("50")).status == 202
        added = ask("POST", "/events/thresholds", {"user_id": "usr_ana", "percent": 90}).json
        assert told(db) == []
        address = f"/events/thresholds/{added['id']}"
        assert ask("GET", address).json == added
        reached = [{"feature": "storage", "reached_at": "2026-09-10T12:00:00.000Z"}]
        for _ in range(2):
            changed = ask("PATCH", address, {"percent": 40})
            assert (changed.status, changed.json) == (
                200,
                added | {"percent": 40, "reached": reached},
            )
        assert told(db) == ["usage.threshold_reached"]

    def test_a_change_for_all_users(self) -> None:
        added = ask("POST", "/events/thresholds", {"feature": "storage", "percent": 30}).json
        address = f"/events/thresholds/{added['id']}"
        changed = ask("PATCH", address, {"amount": "4"})
        assert (changed.status, changed.json) == (200, added | {"percent": None, "amount": "4"})
        assert ask("GET", "/events/thresholds").json["thresholds"] == [changed.json]

    def test_for_an_unknown_user(self) -> None:
        refused = ask("POST", "/events/thresholds", {"user_id": "usr_none", "percent": 30})
        assert (refused.status, refused.code) == (404, "unknown_user")

    def test_a_users_own(self) -> None:
        """A product sees it and leaves it."""
        user = signed_up().json
        mine = call("POST", "/thresholds", {"percent": 50}, token=user["session"]["token"]).json
        listed = ask("GET", f"/events/thresholds?user_id={user['user']['id']}")
        assert listed.json["thresholds"] == [mine]
        assert ask("GET", f"/events/thresholds/{mine['id']}").json == mine
        assert ask("PATCH", f"/events/thresholds/{mine['id']}", {"percent": 51}).status == 404
        assert ask("GET", f"/events/thresholds/{UNKNOWN}").code == "threshold_not_found"
        assert ask("DELETE", f"/events/thresholds/{mine['id']}").status == 404
        assert ask("DELETE", f"/events/thresholds/{UNKNOWN}").status == 404


class TestRefused:
    """Each way to use tells, once per period, that the limit refused it."""

    @pytest.fixture(autouse=True)
    def at_70(self, subscribe: Subscribe) -> None:
        subscribe(overage_enabled=False)
        assert ask("POST", "/usage", usage("70", key="first")).status == 202

    def refused(self, way: str) -> Answer:
        match way:
            case "batch":
                return ask("POST", "/usage", {"events": [usage("31"), usage("32", key="other")]})
            case "reservation":
                return ask("POST", "/usage/reservations", usage("31"))
            case "confirm":
                held = ask("POST", "/usage/reservations", usage("10", key="job")).json["id"]
                return ask("POST", f"/usage/reservations/{held}/confirm", {"quantity": "31"})
            case "correction":
                return ask("POST", "/usage/corrections", usage("31") | {"reason": "missed"})
        return ask("POST", "/usage", usage("31"))

    @pytest.mark.parametrize("way", ["single", "batch", "reservation", "confirm", "correction"])
    def test_it_is_told_once(self, db: Database, way: str) -> None:
        assert "limit_reached" in self.refused(way).text
        assert told(db) == ["usage.limit_reached"]
        self.refused("single")
        assert told(db) == ["usage.limit_reached"]

    def test_the_spend_limit(self, db: Database) -> None:
        db.execute("update entitlements set overage_enabled = true")
        assert ask("POST", "/usage", usage("6000")).code == "spend_limit_reached"
        assert told(db) == ["spend.limit_reached"]

    def test_a_check(self, db: Database) -> None:
        body = {"user_id": "usr_ana", "feature": "storage", "quantity": "31"}
        assert ask("POST", "/usage/check", body).json["code"] == "limit_reached"
        assert told(db) == []

    @pytest.mark.parametrize("way", ["single", "batch", "reservation"])
    def test_accepted_after_commet_was_asked(
        self, db: Database, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        """The first verdict was a refusal, and nobody was refused."""

        def ask_about(*_: object) -> Asked:
            db.execute("update entitlements set included = 1000")
            return Asked({"usr_ana"}, {})

        monkeypatch.setattr(Access, "ask_about", ask_about)
        assert "limit_reached" not in self.refused(way).text
        assert told(db) == []

    def test_commet_does_not_answer(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        """The user may have paid: that is no refusal."""
        as_of = wiring.now()
        monkeypatch.setattr(Access, "ask_about", lambda *_: Asked((), {"usr_ana": as_of}))
        assert self.refused("single").code == "access_unconfirmed"
        assert "access_unconfirmed" in self.refused("batch").text
        assert told(db) == []
