"""The routes for usage in this process: who may, what each verdict is answered with and told."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any, NoReturn

import pytest

from billing import wiring
from billing.accounts import accounts
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.errors import CommetUnavailable
from billing.http import api
from billing.subscriptions import mirror
from billing.usage.accepting import UsageEvent, accept
from functions.track_usage import app as track_usage
from tests.environments import forget
from tests.integration.billing.conftest import (
    NOW,
    RULES,
    Subscribe,
    after,
    booked,
    grant_feature,
)
from tests.integration.conftest import Context
from tests.integration.functions.calling import (
    SPELLINGS,
    Answer,
    Spell,
    event,
    service_key,
    start,
)
from tests.integration.functions.calling import call as call_any

pytestmark = pytest.mark.handlers

KEYS = {scope: f"svc_{scope[-4:]}_" + scope[0] * 64 for scope in ("usage:write", "usage:correct")}
KEYS["read"] = "svc_read_" + "e" * 64
KEYS["billing:manage"] = "svc_bill_" + "b" * 64
KEYS["users:manage"] = "svc_users_" + "d" * 64


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(autouse=True)
def clock(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A fresh environment of the functions, with a clock in our hands."""
    keys = [service_key(f"{scope}-key", key, scope) for scope, key in KEYS.items()]
    # The correcting one twice, while it rotates.
    keys.append(service_key("rotated", "svc_new_key", "usage:correct"))
    ours = Clock()
    monkeypatch.setattr(track_usage.metrics.provider, "namespace", "test")
    start(monkeypatch, database_url, keys, {"POWERTOOLS_SERVICE_NAME": "track_usage"})
    monkeypatch.setattr(wiring, "clock", lambda: ours)
    yield ours
    forget()


def call(
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str = KEYS["usage:write"],
    accept: str = "*/*",
    text: str | None = None,
    spell: Spell = str.lower,
) -> Answer:
    """One request of a backend's, with a service key."""
    return call_any(method, path, body, token=key, accept=accept, text=text, spell=spell)


def usage(quantity: str = "1", *, key: str = "k", **fields: Any) -> dict[str, Any]:
    return {
        "user_id": "usr_ana", "feature": "storage", "quantity": quantity, "idempotency_key": key,
    } | fields  # fmt: skip


def reserve(quantity: str = "10", **fields: Any) -> Answer:
    return call("POST", "/usage/reservations", usage(quantity, **fields))


def confirm(reservation: Answer, quantity: str | None = None) -> Answer:
    path = f"/usage/reservations/{reservation.json['id']}/confirm"
    return call("POST", path, {} if quantity is None else {"quantity": quantity})


def correct(quantity: str, *, key: str = KEYS["usage:correct"], **fields: Any) -> Answer:
    body = usage(quantity, **({"key": "fix"} | fields)) | {"reason": "sent twice"}
    return call("POST", "/usage/corrections", body, key=key)


class TestSessions:
    """A signed-in user reads their own usage and never writes any: a product's backend does."""

    @pytest.fixture
    def session(self, db: Database, subscribe: Subscribe) -> tuple[str, str]:
        """A subscribed user's id and token."""
        user, session = accounts.sign_up(
            db, email="bob@example.com", password_hash="no such hash", name=None, now=NOW
        )
        subscribe(user.id)
        return user.id, session.token

    @pytest.mark.parametrize(
        "path",
        [
            "/usage", "/usage/reservations", "/usage/corrections",
            "/usage/reservations/rsv_0/confirm", "/usage/reservations/rsv_0/release",
        ],
    )  # fmt: skip
    def test_no_session_writes(self, session: tuple[str, str], db: Database, path: str) -> None:
        """403 before the body is looked at, valid or not, and nothing is booked."""
        user_id, token = session
        for text in (json.dumps(usage(user_id=user_id)), "no json"):
            answer = call("POST", path, text=text, key=token)
            assert (answer.status, answer.code) == (403, "service_key_required")
        assert db.value("select count(*) from usage_event") == 0

    def test_who_is_nobody_is_told_that_first(self) -> None:
        """A session that has ended is 401, as everywhere."""
        answer = call("POST", "/usage", usage(), key=accounts.TOKEN_PREFIX + "x" * 43)
        assert (answer.status, answer.code) == (401, "unauthenticated")

    def test_a_session_checks_its_own_usage(self, session: tuple[str, str]) -> None:
        """With its id or without; not somebody else's."""
        user_id, token = session
        for named in ({}, {"user_id": user_id}):
            answer = call("POST", "/usage/check", {"feature": "storage", **named}, key=token)
            assert (answer.status, answer.json["allowed"]) == (200, True)
        other = call(
            "POST", "/usage/check", {"feature": "storage", "user_id": "usr_ana"}, key=token
        )
        assert (other.status, other.code) == (403, "forbidden")

    def test_a_service_key_names_the_user_to_check(self) -> None:
        answer = call("POST", "/usage/check", {"feature": "storage"})
        assert (answer.status, answer.json["errors"][0]["field"]) == (422, "user_id")


class TestSingle:
    def test_accepted_repeated_changed(self, subscribe: Subscribe) -> None:
        """202, then 200, then 409; the first one stands."""
        subscribe()
        first, again = call("POST", "/usage", usage()), call("POST", "/usage", usage("1.0"))
        assert (first.status, first.json["results"][0]["status"]) == (202, "accepted")
        assert (again.status, again.json["results"][0]["status"]) == (200, "duplicate")
        changed = call("POST", "/usage", usage("2"))
        assert (changed.status, changed.code) == (409, "idempotency_conflict")

    @pytest.mark.parametrize(
        ("fields", "status", "code"),
        [
            ({"user_id": "usr_nobody"}, 404, "unknown_user"),
            ({"feature": "gone"}, 402, "feature_not_in_plan"),
            ({"feature": "sso"}, 422, "feature_not_metered"),
            ({"quantity": "101"}, 402, "limit_reached"),
            ({"occurred_at": "2026-01-01T00:00:00Z"}, 422, "too_old"),
            ({"occurred_at": "2026-09-10T12:06:00Z"}, 422, "in_future"),
        ],
    )
    def test_refused(
        self, subscribe: Subscribe, fields: dict[str, str], status: int, code: str
    ) -> None:
        """Each refusal has its status and its code."""
        subscribe(overage_enabled=False)
        subscribe(feature="sso", type="boolean", model=None)
        answer = call("POST", "/usage", usage() | fields)
        assert (answer.status, answer.code) == (status, code)

    def test_without_access(self, subscribe: Subscribe) -> None:
        """402 for want of a subscription, 503 while it is being confirmed: that may be retried."""
        subscribe(status="canceled")
        answer = call("POST", "/usage", usage())
        assert (answer.status, answer.code) == (402, "subscription_required")
        subscribe("usr_new", starts_at=None)
        answer = call("POST", "/usage", usage(user_id="usr_new"))
        assert (answer.status, answer.code) == (503, "access_unconfirmed")
        assert "retry-after" in answer.headers

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            ({"quantity": "1_0"}, ["quantity"]),
            ({"quantity": "-1", "feature": "A"}, ["feature", "quantity"]),
            ({"properties": {"a": 1}}, ["properties.a"]),
            ({"quantitty": "1"}, ["quantitty"]),
            ({"x" * 300: "1"}, ["x" * 50]),
            ({"user_id": None}, ["user_id"]),
            ({"occurred_at": "2026-09-10T12:00:00+16:00"}, ["occurred_at"]),
        ],
    )
    def test_what_is_wrong(self, changes: dict[str, Any], fields: list[str]) -> None:
        """Fields are named as the caller wrote them, and in a batch the same is told of each."""
        alone = call("POST", "/usage", usage() | changes)
        assert (alone.status, alone.code) == (422, "invalid_request")
        assert [error["field"] for error in alone.json["errors"]] == fields
        together = call("POST", "/usage", {"events": [usage() | changes]})
        assert together.json["results"][0]["errors"] == alone.json["errors"]

    @pytest.mark.parametrize(
        ("body", "fields"),
        [
            ({"events": 1}, ["events"]),
            ({"events": []}, ["events"]),
            ({"events": [usage()]} | usage(), [*usage()]),
        ],
    )
    def test_no_batch(self, body: Any, fields: list[str]) -> None:
        """The envelope's fields are named like any other."""
        answer = call("POST", "/usage", body)
        assert [error["field"] for error in answer.json["errors"]] == fields


METERS = ("egress", "storage", "tokens")


@pytest.fixture
def metered(db: Database, subscribe: Subscribe) -> None:
    """Ana's plan counts three features."""
    subscribe()
    for feature in METERS:
        grant_feature(db, "usr_ana", feature)


@pytest.mark.usefixtures("metered")
class TestOneKeyForSeveralFeatures:
    """A key is unique per user and feature: one unit of work may be counted by several."""

    def read(self, query: str) -> list[tuple[str, str]]:
        """Key and feature of each exported entry, with one entry a page."""
        found: list[tuple[str, str]] = []
        cursor = ""
        while True:
            path = f"/usage/events?limit=1{query}{cursor}"
            page = call("GET", path, key=KEYS["read"]).json
            found += [(e["idempotency_key"], e["feature"]) for e in page["events"]]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def test_a_batch(self, db: Database) -> None:
        """Each event is accepted, a repeated one is a duplicate, and a changed one a conflict."""
        batch = [usage(key="req-77", feature=feature) for feature in METERS]
        changed = usage("2", key="req-77", feature="tokens")
        answer = call("POST", "/usage", {"events": [*batch, batch[0], changed]})
        statuses = [result["status"] for result in answer.json["results"]]
        assert statuses == ["accepted"] * 3 + ["duplicate", "conflict"]
        assert [call("POST", "/usage", each).status for each in batch] == [200] * 3
        assert [booked(db, "usr_ana", feature)["total"] for feature in METERS] == [1, 1, 1]

    @pytest.mark.parametrize("query", ["", "&user_id=usr_ana"])
    def test_exported_entry_by_entry(self, query: str) -> None:
        """No entry is left out or repeated, although all were booked at the same moment."""
        for key in ("req-1", "req-2"):
            call("POST", "/usage", {"events": [usage(key=key, feature=f) for f in METERS]})
        assert self.read(query) == [(key, f) for key in ("req-1", "req-2") for f in METERS]

    def test_found_by_key_with_its_credit(self, clock: Clock) -> None:
        """The entries of one key, and which of them need a credit."""
        call("POST", "/usage", {"events": [usage("150", key="u", feature=f) for f in METERS]})
        wiring.database().execute("update usage_total set claimed = total")
        clock.now = datetime.fromisoformat("2026-10-01T00:00:00Z")
        assert correct("-10", corrects="u", feature="tokens").json["needs_credit"] is not None
        path = "/usage/events?user_id=usr_ana&idempotency_key=fix"
        (fix,) = call("GET", path, key=KEYS["read"]).json["events"]
        assert (fix["feature"], fix["needs_credit"]) == ("tokens", True)
        wiring.database().execute("update usage_credit set quantity = 0")
        (fix,) = call("GET", path, key=KEYS["read"]).json["events"]
        assert fix["needs_credit"] is False

    def test_reserved(self) -> None:
        """Each feature has a reservation of its own, and confirming one leaves the others."""
        held = [reserve(key="job", feature=feature) for feature in METERS]
        assert [answer.status for answer in held] == [201] * 3
        assert len({answer.json["id"] for answer in held}) == 3
        assert confirm(held[0], "3").json["booked"] == "3"
        assert call("POST", "/usage", usage("4", key="job", feature=METERS[1])).status == 202
        again = [reserve(key="job", feature=f).json["state"] for f in METERS]
        assert again == ["confirmed", "confirmed", "held"]

    def test_corrected(self, clock: Clock) -> None:
        """Each feature has its own correction under one key, and its own credit."""
        call("POST", "/usage", {"events": [usage("150", key="u", feature=f) for f in METERS]})
        wiring.database().execute("update usage_total set claimed = total")
        clock.now = datetime.fromisoformat("2026-10-01T00:00:00Z")
        for quantity, feature in zip(("-10", "-20", "-30"), METERS, strict=True):
            fix = {"corrects": "u", "feature": feature}
            fixed = correct(quantity, **fix)
            assert (fixed.status, correct(quantity, **fix).status) == (202, 200)
            assert fixed.json["needs_credit"]["quantity"] == quantity[1:]
            assert correct(quantity, **fix).json["needs_credit"] == fixed.json["needs_credit"]

    def test_all_at_once(self, db: Database, connect: Callable[[], Database]) -> None:
        """However many send the three events at one moment, each is counted once."""
        work = [UsageEvent("usr_ana", f, Decimal(2), "req-77") for f in METERS]
        barrier = Barrier(8)

        def send(n: int) -> list[str]:
            other = connect()
            barrier.wait()
            batch = work[n % 3 :] + work[: n % 3]
            return [v.status for v in accept(other, batch, rules=RULES, now=NOW)]

        with ThreadPoolExecutor(8) as pool:
            statuses = [status for sent in pool.map(send, range(8)) for status in sent]
        assert (statuses.count("accepted"), statuses.count("duplicate")) == (3, 21)
        assert [set(booked(db, "usr_ana", f).values()) for f in METERS] == [{Decimal(2)}] * 3


class TestDays:
    """The days of the dashboard are the days on which the usage occurred."""

    @pytest.fixture(autouse=True)
    def _subscribed(self, subscribe: Subscribe) -> None:
        subscribe()

    def days(self) -> dict[str, str]:
        (storage,) = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"]
        return {day["date"]: day["quantity"] for day in storage["daily"]}

    def test_a_nightly_batch(self) -> None:
        """Three days reported at once are three days, and the export has both times."""
        batch = [
            usage(quantity, key=day, occurred_at=f"2026-09-{day}T{time}Z")
            for day, time, quantity in (
                ("07", "00:00:00", "1"), ("07", "23:59:59.999999", "2"), ("08", "12:00:00", "4"),
                ("09", "00:00:00", "8"),
            )
        ]  # fmt: skip
        batch[1]["idempotency_key"] = "07-late"
        assert call("POST", "/usage", {"events": batch}).json["accepted"] == 4
        assert self.days() == {"2026-09-07": "3", "2026-09-08": "4", "2026-09-09": "8"}
        found = call("GET", "/usage/events", key=KEYS["read"]).json["events"]
        assert {e["booked_at"] for e in found} == {"2026-09-10T12:00:00.000Z"}
        assert sorted(e["occurred_at"][:10] for e in found) == [
            "2026-09-07", "2026-09-07", "2026-09-08", "2026-09-09",
        ]  # fmt: skip

    def test_a_correction(self) -> None:
        """It lowers the day of the entry that it corrects."""
        call("POST", "/usage", usage("5", key="u", occurred_at="2026-09-03T10:00:00Z"))
        assert correct("-2", corrects="u").status == 202
        assert self.days() == {"2026-09-03": "3"}

    def test_of_work_that_was_reserved(self, clock: Clock) -> None:
        """It was done on the day it was confirmed."""
        clock.now = datetime.fromisoformat("2026-09-10T23:58:00Z")
        held = reserve("5")
        clock.now = datetime.fromisoformat("2026-09-11T00:01:00Z")
        confirm(held)
        assert self.days() == {"2026-09-11": "5"}


class TestNumbers:
    @pytest.mark.parametrize(
        "number",
        ["1.0000000000000000000000000000001", "999999999.99999999999999999999999999999999"],
    )
    def test_more_digits_than_are_kept(self, subscribe: Subscribe, number: str) -> None:
        """A number is refused that could not be booked as it came, wherever it is sent."""
        subscribe()
        held = reserve("5", key="hold")
        places = [
            ("/usage", usage(), "usage:write"),
            ("/usage/check", {"user_id": "usr_ana", "feature": "storage"}, "usage:write"),
            ("/usage/reservations", usage(key="other"), "usage:write"),
            (f"/usage/reservations/{held.json['id']}/confirm", {}, "usage:write"),
            ("/usage/corrections", usage() | {"reason": "x"}, "usage:correct"),
        ]
        for path, body, scope in places:
            text = json.dumps(body | {"quantity": 0}).replace(
                '"quantity": 0', f'"quantity": {number}'
            )
            answer = call("POST", path, key=KEYS[scope], text=text)
            assert answer.status == 422, path
            (wrong,) = answer.json["errors"]
            assert (wrong["field"], wrong["code"]) == ("quantity", "decimal_max_places")

    @pytest.mark.parametrize(
        "number", ["5000000000", "123456789.123456", "999999999999999", "99999999999999.9", "1e14"]
    )
    def test_fifteen_digits(self, subscribe: Subscribe, number: str) -> None:
        """A quantity is taken up to 15 significant digits, on each route that takes one."""
        subscribe(unlimited=True)
        assert call("POST", "/usage", usage(number, key="text")).status == 202
        undo = usage("-" + number, key="undo") | {"reason": "sent twice"}
        assert call("POST", "/usage/corrections", undo, key=KEYS["usage:correct"]).status == 202
        text = json.dumps(usage("0", key="number")).replace('"0"', number)
        assert call("POST", "/usage", text=text).status == 202
        undo["idempotency_key"] = "undo again"
        assert call("POST", "/usage/corrections", undo, key=KEYS["usage:correct"]).status == 202
        held = reserve(number, key="hold")
        assert (held.status, confirm(held).status) == (201, 200)
        check = {"user_id": "usr_ana", "feature": "storage", "quantity": number}
        assert call("POST", "/usage/check", check).status == 200
        (shown,) = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"]
        assert Decimal(shown["used"]) == Decimal(number)

    @pytest.mark.parametrize(
        ("number", "code"),
        [
            ("1000000000000000", "less_than_equal"),
            ("1000000000.000001", "decimal_max_digits"),
            ("0.0000001", "decimal_max_places"),
        ],
    )
    def test_more(self, subscribe: Subscribe, number: str, code: str) -> None:
        """Refused, and the error says what there is too much of."""
        subscribe(unlimited=True)
        (wrong,) = call("POST", "/usage", usage(number)).json["errors"]
        assert (wrong["field"], wrong["code"]) == ("quantity", code)


class TestBatch:
    def test_each_has_its_verdict(self, subscribe: Subscribe) -> None:
        """202 once the envelope parses; a bad one stops nobody."""
        subscribe(overage_enabled=False)
        events = [
            usage("60", key="a"), {"feature": "storage"}, usage("60", key="b"),
            usage("60", key="a"), usage("1", key="a"), 7,
        ]  # fmt: skip
        answer = call("POST", "/usage", {"events": events})
        assert answer.status == 202
        assert {k: v for k, v in answer.json.items() if k != "results"} == {
            "accepted": 1, "duplicates": 1, "refused": 4,
        }  # fmt: skip
        assert [(r["status"], r["code"]) for r in answer.json["results"]] == [
            ("accepted", None),
            ("refused", "invalid_event"),
            ("refused", "limit_reached"),
            ("duplicate", None),
            ("conflict", None),
            ("refused", "invalid_event"),
        ]
        wrong = [[e["field"] for e in r.get("errors", [])] for r in answer.json["results"]]
        assert wrong == [[], ["user_id", "idempotency_key"], [], [], [], ["body"]]
        assert ["errors" in r for r in answer.json["results"]] == [bool(each) for each in wrong]

    def test_one_that_is_all_wrong(self) -> None:
        """The first few are told, and never what was sent: a thousand fit into Lambda's answer."""
        odd = {f"{m}{'🙂' * 49}": "secret" for m in range(5)} | {"idempotency_key": "🙂" * 200}
        text = json.dumps({"events": [odd] * 1000}, ensure_ascii=False)
        answer = call("POST", "/usage", text=text)
        assert answer.status == 202
        assert len(json.dumps(answer.text)) < 6_000_000
        assert "secret" not in answer.text

    @pytest.mark.parametrize("offset", ["+16:00", "-23:59"])
    def test_an_offset_that_cannot_be_stored(self, subscribe: Subscribe, offset: str) -> None:
        """One event of a batch is refused for it, and stops nobody."""
        subscribe()
        odd = usage(key="odd", occurred_at=f"2026-09-10T12:00:00{offset}")
        answer = call("POST", "/usage", {"events": [usage(key="a"), odd, usage(key="b")]})
        assert answer.status == 202
        assert [r["code"] for r in answer.json["results"]] == [None, "invalid_event", None]
        assert correct("1", occurred_at=odd["occurred_at"]).json["errors"][0]["field"] == (
            "occurred_at"
        )

    @pytest.mark.parametrize(
        ("occurred_at", "code"),
        [("0001-01-01T00:00:00+15:59", "too_old"), ("9999-12-31T23:59:59-15:59", "in_future")],
    )
    def test_edges_of_time(self, subscribe: Subscribe, occurred_at: str, code: str) -> None:
        """A moment that UTC has no year for is refused like any other that far off."""
        subscribe()
        odd = usage(key="odd", occurred_at=occurred_at)
        answer = call("POST", "/usage", {"events": [usage(key="a"), odd, usage(key="b")]})
        assert [r["code"] for r in answer.json["results"]] == [None, code, None]
        assert call("POST", "/usage", odd).json["code"] == code

    @pytest.mark.parametrize("events", [[], [usage()] * 1001])
    def test_how_many(self, events: list[Any]) -> None:
        """1 to 1,000."""
        assert call("POST", "/usage", {"events": events}).status == 422


class TestPastDue:
    """Whether a payment that failed costs access is the deployer's choice, on every route."""

    @pytest.fixture(params=[True, False], ids=["has access", "has none"])
    def has_access(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
        monkeypatch.setenv("PAST_DUE_HAS_ACCESS", str(request.param).lower())
        forget()
        return bool(request.param)

    def test_reporting(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        assert call("POST", "/usage", usage()).status == (202 if has_access else 402)

    def test_reporting_a_batch(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        (result,) = call("POST", "/usage", {"events": [usage()]}).json["results"]
        assert result["status"] == ("accepted" if has_access else "refused")

    def test_checking(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        body = {"user_id": "usr_ana", "feature": "storage", "quantity": "1"}
        assert call("POST", "/usage/check", body).json["allowed"] is has_access

    def test_reserving(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        assert reserve().status == (201 if has_access else 402)

    def test_confirming(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe()
        held = reserve()
        wiring.database().execute("update subscriptions set status = 'past_due'")
        assert confirm(held, "11").status == (200 if has_access else 402)
        assert confirm(held, "11" if has_access else "10").status == 200  # what is held is promised

    def test_adding_to_what_was_used(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        assert correct("1").status == (202 if has_access else 402)

    def test_looking(self, subscribe: Subscribe, *, has_access: bool) -> None:
        subscribe(status="past_due")
        seen = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json
        assert seen["access"] is has_access


class TestTime:
    def test_asking_commet_ends_before_the_request_does(
        self, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second of Lambda's twenty is kept for the answer."""
        seconds: list[float] = []

        def ask(_: str, deadline: Deadline) -> bool:
            seconds.append(deadline.remaining())
            return False

        monkeypatch.setattr(wiring.access(), "ask", ask)
        subscribe(status="canceled")
        monkeypatch.setattr("billing.subscriptions.access._SEVERAL_USERS_SECONDS", 60.0)
        monkeypatch.setattr(mirror, "askable", lambda _, users, __: list(users))
        for method, path, body in (
            ("POST", "/usage", usage()),
            ("GET", "/users/usr_ana/dashboard", None),
        ):
            call(method, path, body, key=KEYS["usage:write" if body else "read"])
        assert [15 < left <= 19 for left in seconds] == [True, True]


class TestCurrency:
    """That of the plan; where a plan names none, the one the stack is deployed with."""

    @pytest.fixture(autouse=True)
    def _in_yen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BILLING_CURRENCY", "jpy")
        monkeypatch.setenv("OVERAGE_CEILING", "jpy=50000")
        forget()

    def test_checking(self, subscribe: Subscribe) -> None:
        subscribe(currency=None)
        body = {"user_id": "usr_ana", "feature": "storage", "quantity": "130"}
        found = call("POST", "/usage/check", body).json
        assert (found["currency"], found["cost"]) == ("jpy", "3")

    def test_giving_back(self, db: Database, subscribe: Subscribe, clock: Clock) -> None:
        subscribe(currency=None)
        call("POST", "/usage", usage("130"))
        db.execute("update usage_total set claimed = total")
        clock.now = after(days=25)
        credit = correct("-30", occurred_at="2026-09-10T12:00:00Z").json["needs_credit"]
        assert credit["currency"] == "jpy"

    def test_looking(self, subscribe: Subscribe) -> None:
        subscribe(currency=None)
        call("POST", "/usage", usage("130"))
        (shown,) = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"]
        assert (shown["overage"]["currency"], shown["overage"]["cost"]) == ("jpy", "3")


class TestWhatIsKept:
    def test_all_that_was_reported(self, subscribe: Subscribe) -> None:
        """Of an event and of a reservation: when, how much and what the product notes on it."""
        subscribe()
        at = "2026-09-09T08:00:00.000Z"
        call("POST", "/usage", usage("5", key="a", occurred_at=at, properties={"job": "1"}))
        confirm(reserve("7", key="b", properties={"job": "2"}))
        kept = call("GET", "/usage/events", key=KEYS["read"]).json["events"]
        found = {e["idempotency_key"]: (e["quantity"], e["properties"]) for e in kept}
        assert found == {"a": ("5", {"job": "1"}), "b": ("7", {"job": "2"})}
        (event,) = (e for e in kept if e["idempotency_key"] == "a")
        assert event["occurred_at"] == at

    def test_a_batch_may_be_large(self, subscribe: Subscribe) -> None:
        """Four megabytes, where other routes take 64 kB."""
        subscribe()
        events = [usage("1", key=str(n), properties={"note": "x" * 200}) for n in range(400)]
        assert len(json.dumps({"events": events})) > 64 * 1024
        assert call("POST", "/usage", {"events": events}).json["accepted"] == 400


class TestCheck:
    def test_a_price_that_is_not_known(self, subscribe: Subscribe) -> None:
        """What is billed on top is told, and its price is null, here and on the dashboard."""
        subscribe()
        call("POST", "/usage", usage("130", key="priced"))
        wiring.database().execute("update entitlements set unit_price = null")
        found = call(
            "POST", "/usage/check", {"user_id": "usr_ana", "feature": "storage", "quantity": "130"}
        )
        assert (found.json["overage_quantity"], found.json["cost"]) == ("130", None)
        assert (found.json["allowed"], found.json["code"]) == (False, "price_unknown")
        assert call("POST", "/usage", usage("1")).code == "price_unknown"
        shown = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"][0]
        assert (shown["overage"]["quantity"], shown["overage"]["cost"]) == ("30", None)

    @pytest.mark.parametrize(
        ("unit_price", "quantity", "cost", "shown"),
        [
            (1, "49", "0.0049", "0.0001"),
            (1, "0.000001", "0.0000000001", "0.0001"),
            (1000, "30", "3.00", "0.10"),
            (1000, "30.000001", "3.0000001", "0.10"),
        ],
    )
    def test_a_price_below_a_cent(
        self, subscribe: Subscribe, unit_price: int, quantity: str, cost: str, shown: str
    ) -> None:
        """The cost is exact, and the price of one unit is there."""
        subscribe(included=0, unit_price=unit_price)
        body = {"user_id": "usr_ana", "feature": "storage", "quantity": quantity}
        found = call("POST", "/usage/check", body).json
        assert (found["cost"], found["unit_price"]) == (cost, shown)

    def test_a_feature_that_is_not_metered(self, subscribe: Subscribe) -> None:
        """Whether it is allowed is answered, and shown; usage of it stays refused."""
        subscribe()
        for feature, allowed in (("sso", True), ("audit_log", False)):
            subscribe(feature=feature, type="boolean", model=None, allowed=allowed, included=None)
        subscribe(feature="seats", type="seats", model=None)
        check = {"user_id": "usr_ana", "feature": "sso"}
        assert call("POST", "/usage/check", check).json == {
            "allowed": True, "remaining": None, "overage_quantity": "0", "unit_price": None,
            "cost": "0.00", "currency": "usd", "spending": None, "code": None,
        }  # fmt: skip
        for feature, code in (
            ("audit_log", "feature_not_in_plan"),
            ("nothing", "feature_not_in_plan"),
            ("seats", "feature_not_metered"),
        ):
            found = call("POST", "/usage/check", check | {"feature": feature}).json
            assert (found["allowed"], found["code"]) == (False, code)
        assert call("POST", "/usage", usage(feature="sso")).code == "feature_not_metered"
        assert reserve(feature="sso").code == "feature_not_metered"
        board = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"])
        assert board.json["features"] == [
            {"feature": "audit_log", "name": "Audit_Log", "allowed": False},
            {"feature": "sso", "name": "Sso", "allowed": True},
        ]
        wiring.database().execute("update subscriptions set status = 'canceled'")
        found = call("POST", "/usage/check", check).json
        assert (found["allowed"], found["code"]) == (False, "subscription_required")
        board = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"])
        assert [each["allowed"] for each in board.json["features"]] == [False, False]

    def test_news_come_in_while_nobody_answers(
        self, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is told as not yet confirmed is not allowed, nor priced."""
        subscribe(starts_at=None)

        def nobody_answers() -> NoReturn:
            subscribe()
            raise CommetUnavailable

        monkeypatch.setattr(wiring, "commet", nobody_answers)
        body = {"user_id": "usr_ana", "feature": "storage", "quantity": "130"}
        assert call("POST", "/usage/check", body).json == {
            "allowed": False, "remaining": None, "overage_quantity": "0", "cost": "0.00",
            "unit_price": None, "currency": "usd", "spending": None, "code": "access_unconfirmed",
        }  # fmt: skip
        assert call("POST", "/usage/check", body).json["allowed"]


class TestReservations:
    def test_the_story(self, subscribe: Subscribe, clock: Clock) -> None:
        """Held, refused to others, confirmed with less, told the same again."""
        subscribe(overage_enabled=False)
        held = reserve("80", key="job", expires_in=60)
        assert held.status == 201
        assert held.json == {
            "id": held.json["id"], "user_id": "usr_ana", "feature": "storage",
            "idempotency_key": "job", "quantity": "80", "expires_at": "2026-09-10T12:01:00.000Z",
            "state": "held", "booked": None,
        }  # fmt: skip
        again = reserve("80", key="job", expires_in=60)
        assert (again.status, again.json) == (200, held.json)
        assert reserve("81", key="job").code == "idempotency_conflict"
        refused = reserve("21", key="other")
        assert (refused.status, refused.code) == (402, "limit_reached")
        first, second = confirm(held, "70.5"), confirm(held, "70.5")
        assert (first.status, first.json["state"], first.json["booked"]) == (
            200,
            "confirmed",
            "70.5",
        )
        assert (second.status, second.json) == (200, first.json)
        assert confirm(held, "71").code == "idempotency_conflict"
        clock.now = after(minutes=2)
        board = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"][0]
        assert (board["used"], board["held"], board["remaining"]) == ("70.5", "0", "29.5")

    def test_what_was_held_is_the_default(self, subscribe: Subscribe) -> None:
        """Confirmed without a quantity it took what was held."""
        subscribe()
        assert confirm(reserve("12.5")).json["booked"] == "12.5"

    def test_too_late(self, subscribe: Subscribe, clock: Clock) -> None:
        """409 once it has expired and no longer fits; the state says so too."""
        subscribe(overage_enabled=False)
        held = reserve("80")
        clock.now = after(seconds=300)
        assert reserve("80", key="other").status == 201
        answer = confirm(held)
        assert (answer.status, answer.code) == (409, "reservation_expired")

    def test_released(self, subscribe: Subscribe) -> None:
        """200 however often; then it cannot be confirmed."""
        subscribe()
        held = reserve()
        path = f"/usage/reservations/{held.json['id']}/release"
        assert [call("POST", path, {}).json["state"] for _ in range(2)] == ["released"] * 2
        answer = confirm(held)
        assert (answer.status, answer.code) == (409, "reservation_released")
        again = reserve()
        assert (again.status, again.code) == (409, "reservation_released")

    def test_asked_for_again(self, subscribe: Subscribe, clock: Clock) -> None:
        """201 where it is held anew, 402 where it no longer fits, 409 where nothing is left."""
        subscribe(overage_enabled=False)
        held = reserve("80", key="job")
        clock.now = after(seconds=300)
        anew = reserve("80", key="job")
        assert (anew.status, anew.json) == (
            201, held.json | {"expires_at": "2026-09-10T12:10:00.000Z"},
        )  # fmt: skip
        clock.now = after(seconds=600)
        call("POST", "/usage", usage("21", key="direct"))
        assert (reserve("80", key="job").status, reserve("80", key="job").code) == (
            402,
            "limit_reached",
        )
        counted = reserve("21", key="direct")
        assert (counted.status, counted.code) == (409, "already_counted")
        assert "something else" not in counted.json["detail"]

    def test_unknown(self) -> None:
        """404, for one that never was."""
        answer = call("POST", "/usage/reservations/rsv_0/confirm", {})
        assert (answer.status, answer.code) == (404, "reservation_not_found")

    @pytest.mark.parametrize("seconds", [0, 3601, "5 minutes"])
    def test_for_how_long(self, seconds: object) -> None:
        """A second to an hour."""
        assert reserve(expires_in=seconds).status == 422

    def test_somebody_who_cannot_be_asked_about(self, subscribe: Subscribe) -> None:
        """Refusals are those of usage, whatever is confirmed."""
        subscribe()
        held = reserve()
        wiring.database().execute("update subscriptions set status = 'canceled'")
        answer = confirm(held, "11")
        assert (answer.status, answer.code) == (402, "subscription_required")


class TestCorrections:
    def test_the_story(self, subscribe: Subscribe, clock: Clock) -> None:
        """Booked, told the same again, shown as a day's own entry."""
        subscribe()
        call("POST", "/usage", usage("130"))
        clock.now = after(days=1)
        done = correct("-40")
        assert done.status == 202
        assert done.json == {
            "idempotency_key": "fix", "status": "accepted", "quantity": "-40", "used": "90",
            "period": {"start": "2026-09-01T00:00:00.000Z", "end": "2026-10-01T00:00:00.000Z"},
            "needs_credit": None,
        }  # fmt: skip
        again = correct("-40", key="svc_new_key")
        assert (again.status, again.json) == (200, done.json | {"status": "duplicate"})
        board = call("GET", "/users/usr_ana/dashboard", key=KEYS["read"]).json["usage"][0]
        assert (board["used"], board["overage"]["cost"]) == ("90", "0.00")
        assert board["daily"] == [
            {"date": "2026-09-10", "quantity": "130"},
            {"date": "2026-09-11", "quantity": "-40"},
        ]

    def test_the_author_is_the_key(self, subscribe: Subscribe) -> None:
        """Who corrected is in the ledger, by the name of the key."""
        subscribe()
        call("POST", "/usage", usage("5"))
        correct("-1", key="svc_new_key")
        found = call("GET", "/usage/events", key=KEYS["read"]).json["events"]
        assert [(e["kind"], e["author"], e["reason"]) for e in found] == [
            ("correction", "rotated", "sent twice"),
            ("event", None, None),
        ]

    def test_of_a_period_that_is_over(
        self, db: Database, subscribe: Subscribe, clock: Clock
    ) -> None:
        """202, and what has to be given back of what Commet was told."""
        subscribe()
        call("POST", "/usage", usage("130"))
        db.execute("update usage_total set claimed = total")
        clock.now = after(days=25)
        done = correct("-30.5", occurred_at="2026-09-10T12:00:00Z")
        assert (done.status, done.json["used"]) == (202, "99.5")
        assert done.json["needs_credit"] == {
            "quantity": "30.5", "amount": "3.00", "currency": "usd", "period": done.json["period"],
        }  # fmt: skip
        again = correct("-30.5", occurred_at="2026-09-10T12:00:00Z")
        assert (again.status, again.json) == (200, done.json | {"status": "duplicate"})

    def test_whose_price_is_not_known(
        self, db: Database, subscribe: Subscribe, clock: Clock
    ) -> None:
        """How much is to be given back is said, and that its worth is not known."""
        subscribe(currency=None)
        call("POST", "/usage", usage("130"))
        db.execute("update entitlements set unit_price = null")
        db.execute("update usage_total set claimed = total")
        clock.now = after(days=25)
        credit = correct("-30", occurred_at="2026-09-10T12:00:00Z").json["needs_credit"]
        assert (credit["quantity"], credit["amount"], credit["currency"]) == ("30", None, "usd")

    def test_of_one_entry(self, subscribe: Subscribe, clock: Clock) -> None:
        """Named by its key; one that was late lies in the period it was reported in."""
        subscribe()
        call("POST", "/usage", usage("5"))
        clock.now = after(days=25)
        call("POST", "/usage", usage("7", key="late", occurred_at="2026-09-25T12:00:00Z"))
        done = correct("-1", corrects="late")
        assert (done.status, done.json["used"]) == (202, "6")
        assert done.json["period"]["start"] == "2026-10-01T00:00:00.000Z"

    def test_of_an_entry_that_is_not_there(self, subscribe: Subscribe) -> None:
        """404, and both ways at once of saying which period is meant are one too many."""
        subscribe()
        missing = correct("-1", corrects="nothing")
        assert (missing.status, missing.code) == (404, "entry_not_found")
        both = correct("-1", corrects="k", occurred_at="2026-09-10T12:00:00Z")
        assert (both.status, both.code) == (422, "invalid_request")
        assert [(e["field"], e["code"]) for e in both.json["errors"]] == [
            ("corrects", "one_of_two")
        ]

    def test_while_no_period_runs(self, db: Database, subscribe: Subscribe) -> None:
        """Refused, and told what to say instead."""
        subscribe()
        call("POST", "/usage", usage("5"))
        db.execute("update usage_period set closed_at = %s", [NOW])
        db.execute("update subscriptions set status = 'canceled'")
        refused = correct("-1")
        assert (refused.status, refused.code) == (409, "no_period")
        assert "corrects" in refused.json["detail"]
        assert "occurred_at" in refused.json["detail"]
        assert correct("-1", corrects="k").status == 202

    @pytest.mark.parametrize(
        ("occurred_at", "code"),
        [("0001-01-01T00:00:00+15:59", "no_period"), ("9999-12-31T23:59:59-15:59", "in_future")],
    )
    def test_edges_of_time(self, subscribe: Subscribe, occurred_at: str, code: str) -> None:
        """A moment that UTC has no year for is no time of any usage."""
        subscribe()
        call("POST", "/usage", usage("5"))
        assert correct("-1", occurred_at=occurred_at).json["code"] == code

    @pytest.mark.parametrize(
        ("quantity", "status", "code"),
        [("-1", 409, "below_zero"), ("0", 422, "invalid_request"), ("101", 402, "limit_reached")],
    )
    def test_refused(self, subscribe: Subscribe, quantity: str, status: int, code: str) -> None:
        """Nothing was used yet, nothing is corrected, and limits hold."""
        subscribe(overage_enabled=False)
        answer = correct(quantity)
        assert (answer.status, answer.code) == (status, code)

    def test_before_there_was_anything(self, subscribe: Subscribe) -> None:
        subscribe()
        answer = correct("-1", occurred_at="2020-01-01T00:00:00Z")
        assert (answer.status, answer.code) == (409, "no_period")

    def test_a_reason_is_needed(self) -> None:
        """Nobody should have to guess later."""
        answer = call("POST", "/usage/corrections", usage("-1"), key=KEYS["usage:correct"])
        assert [e["field"] for e in answer.json["errors"]] == ["reason"]


class TestWhoMay:
    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [
            ("POST", "/usage", "usage:write"),
            ("POST", "/usage/check", "usage:write"),
            ("POST", "/usage/reservations", "usage:write"),
            ("POST", "/usage/reservations/rsv_0/confirm", "usage:write"),
            ("POST", "/usage/reservations/rsv_0/release", "usage:write"),
            ("POST", "/usage/corrections", "usage:correct"),
            ("GET", "/usage/events", "read"),
        ],
    )
    def test_scopes(self, method: str, path: str, scope: str) -> None:
        """Each route takes its own scope, and no other."""
        for name, key in KEYS.items():
            answer = call(method, path, None if method == "GET" else {}, key=key)
            if name == scope:
                assert answer.status in (200, 404, 422), answer
            else:
                assert (answer.status, answer.code) == (403, "missing_scope")
        assert call(method, path, key="svc_x").status == 401

    @pytest.mark.parametrize("path", ["/usage/corrections", "/usage/events"])
    def test_people_may_not(self, path: str) -> None:
        """Correcting, and reading everybody's ledger, is for backends."""
        method = "GET" if path.endswith("events") else "POST"
        assert call(method, path, key="ses_x").code == "unauthenticated"


@pytest.fixture
def filled(db: Database, subscribe: Subscribe) -> None:
    """Five events of Ana's, one of them with a key that a spreadsheet would run."""
    subscribe()
    for n, key in enumerate(["a", "b", "=c", "d", "e"]):
        event = UsageEvent("usr_ana", "storage", Decimal(n + 1), key)
        accept(db, [event], rules=RULES, now=NOW - timedelta(minutes=5 - n))


@pytest.mark.usefixtures("filled")
class TestEvents:
    def read(self, query: str = "", **options: Any) -> Answer:
        return call("GET", f"/usage/events{query}", key=KEYS["read"], **options)

    def test_all(self) -> None:
        """In the order of booking, with everything there is to say."""
        found = self.read()
        assert [e["idempotency_key"] for e in found.json["events"]] == ["a", "b", "=c", "d", "e"]
        assert found.json["next_cursor"] is None
        assert "link" not in found.headers
        assert found.json["events"][0] == {
            "booked_at": "2026-09-10T11:55:00.000Z", "occurred_at": "2026-09-10T11:55:00.000Z",
            "user_id": "usr_ana", "feature": "storage", "kind": "event", "quantity": "1",
            "idempotency_key": "a", "late": False, "reason": None, "author": None,
            "needs_credit": False, "properties": {},
            "period": {
                "id": found.json["events"][0]["period"]["id"], "subscription_id": "sub_usr_ana",
                "plan_id": None, "start": "2026-09-01T00:00:00.000Z",
                "end": "2026-10-01T00:00:00.000Z",
            },
        }  # fmt: skip

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_page_by_page(self, form: str) -> None:
        """Following the Link header brings everything once, with the filters kept."""
        keys: list[str] = []
        query = f"?user_id=usr_ana&limit=2&format={form}&from=2026-09-10T11:56:00Z"
        while query:
            found = self.read(query)
            assert found.status == 200
            if form == "json":
                keys += [e["idempotency_key"] for e in found.json["events"]]
            else:
                keys += [r["idempotency_key"] for r in csv.DictReader(io.StringIO(found.text))]
            link = found.headers.get("link", "")
            query = link[link.find("?") : link.find(">")] if link else ""
        assert [key.removeprefix("'") for key in keys] == ["b", "=c", "d", "e"]

    @pytest.mark.parametrize(
        ("query", "accept"),
        [("?format=csv", "*/*"), ("", "text/csv"), ("", "text/csv;q=0.9, */*;q=0.1")],
    )
    def test_as_csv(self, query: str, accept: str) -> None:
        """Asked for either way; a key that is a formula is shown as text."""
        found = self.read(query, accept=accept)
        assert found.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(found.text)))
        assert [row["idempotency_key"] for row in rows] == ["a", "b", "'=c", "d", "e"]
        assert [row["quantity"] for row in rows] == ["1", "2", "3", "4", "5"]

    @SPELLINGS
    def test_as_csv_however_the_header_is_written(self, spell: Spell) -> None:
        """Names of headers have no case."""
        found = self.read(accept="text/csv", spell=spell)
        assert found.headers["content-type"].startswith("text/csv")

    def test_json_wins_where_it_is_asked_for(self) -> None:
        """The parameter is stronger than the header."""
        found = self.read("?format=json", accept="text/csv")
        assert found.headers["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("query", "entries"),
        [
            ("?from=0001-01-01T00:00:00%2B15:59&to=9999-12-31T23:59:59-15:59", 5),
            ("?from=9999-12-31T23:59:59-15:59", 0),
            ("?to=0001-01-01T00:00:00%2B15:59", 0),
        ],
    )
    def test_edges_of_time(self, query: str, entries: int) -> None:
        """A moment that UTC has no year for is before or after everything."""
        assert len(self.read(query).json["events"]) == entries

    @pytest.mark.parametrize(
        "query",
        ["?limit=0", "?limit=1001", "?limit=x", "?format=xml", "?from=yesterday", "?to=1",
         "?from=2026-09-10T12:00:00", "?from=2026-09-10T12:00:00%2B16:00",
         "?to=2026-09-10T12:00:00-23:59", "?user_id=a%20b", "?feature=A", "?cursor=nonsense",
         "?userid=usr_ana", "?limits=5", "?=1", "?idempotency_key=a%00", "?idempotency_key=",
         "?limit=5&limit=5", "?feature=storage&feature=storage"],
    )  # fmt: skip
    def test_what_cannot_be_read(self, query: str) -> None:
        """422, naming the parameter."""
        answer = self.read(query)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert answer.json["errors"][0]["field"].split(".")[-1] == query[1:].partition("=")[0]


class TestEventsOfAPeriod:
    """The export says of each entry which period it was booked in, and what that belongs to."""

    def read(self, query: str = "", **options: Any) -> Answer:
        return call("GET", f"/usage/events{query}", key=KEYS["read"], **options)

    def test_a_plan_change_on_one_day(self, db: Database, subscribe: Subscribe) -> None:
        """Two periods that begin on the same day are told apart, in both forms."""
        subscribe()
        call("POST", "/usage", usage("130", key="before"))
        db.execute("update usage_period set closed_at = %s, plan_id = 'pln_small'", [NOW])
        db.execute(
            "insert into usage_period (user_id, subscription_id, plan_id, starts_at, ends_at)"
            " select user_id, subscription_id, 'pln_large', starts_at, ends_at from usage_period"
        )
        call("POST", "/usage", usage("20", key="afterwards"))
        first, second = (e["period"] for e in self.read("?user_id=usr_ana").json["events"])
        assert (first["plan_id"], second["plan_id"]) == ("pln_large", "pln_small")
        assert first["id"] != second["id"]
        assert {**first, "id": 0, "plan_id": 0} == {**second, "id": 0, "plan_id": 0}
        rows = list(csv.DictReader(io.StringIO(self.read("?format=csv").text)))
        assert {row["idempotency_key"]: row["plan_id"] for row in rows} == {
            "before": "pln_small", "afterwards": "pln_large",
        }  # fmt: skip
        assert [row["subscription_id"] for row in rows] == ["sub_usr_ana"] * 2
        assert len({row["period_id"] for row in rows}) == 2

    @pytest.mark.parametrize("form", ["json", "csv"])
    def test_large_pages(self, subscribe: Subscribe, form: str) -> None:
        """A page ends before 6 MB of the encoded answer, and the next goes on exactly there."""
        subscribe(unlimited=True)
        keys = [f"{n:03}{'🙂' * 197}" for n in range(300)]
        for some in (keys[:75], keys[75:150], keys[150:225], keys[225:]):
            events = [
                usage(key=key, properties={f"{m:02}": '"\\🙂' * 66 for m in range(20)})
                for key in some
            ]
            text = json.dumps({"events": events}, ensure_ascii=False)
            assert call("POST", "/usage", text=text).json["accepted"] == len(some)
        found: list[str] = []
        query = f"?limit=1000&format={form}"
        pages = 0
        while query:
            request = event("GET", f"/usage/events{query}", None, {}, [])
            request["headers"]["authorization"] = f"Bearer {KEYS['read']}"
            answer = track_usage.handler(request, Context(20))
            assert answer["statusCode"] == 200
            assert len(json.dumps(answer)) < 6_291_456
            if form == "json":
                found += [e["idempotency_key"] for e in json.loads(answer["body"])["events"]]
            else:
                rows = csv.DictReader(io.StringIO(answer["body"], newline=""))
                found += [row["idempotency_key"] for row in rows]
            link = {k.lower(): v for k, v in answer["headers"].items()}.get("link", "")
            query = link[link.find("?") : link.find(">")] if link else ""
            pages += 1
        assert found == keys
        assert 1 < pages < 5

    def test_of_a_key(self, subscribe: Subscribe) -> None:
        """Of one user; a comma is part of a key. What there is not is an empty page."""
        subscribe()
        subscribe("usr_bob")
        for user in ("usr_ana", "usr_bob"):
            for key in ("a,b", "a"):
                call("POST", "/usage", usage(user_id=user, key=key))
        query = "?user_id=usr_ana&idempotency_key="
        (entry,) = self.read(f"{query}a%2Cb").json["events"]
        assert (entry["user_id"], entry["idempotency_key"]) == ("usr_ana", "a,b")
        assert self.read(f"{query}a&feature=storage").json["events"][0]["idempotency_key"] == "a"
        assert self.read(f"{query}a&from=2026-09-10T12:00:00Z").json["events"]
        for nothing in ("b", "a&feature=other", "a&to=2026-09-10T12:00:00Z"):
            assert self.read(query + nothing).json == {"events": [], "next_cursor": None}
        assert len(self.read(f"{query}a&format=csv").text.splitlines()) == 2

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("?idempotency_key=a", "user_id"),
            ("?idempotency_key=a&user_id=u&limit=1", "idempotency_key"),
            ("?idempotency_key=a&user_id=u&cursor=x", "idempotency_key"),
        ],
    )
    def test_a_key_and_what_does_not_go_with_it(self, query: str, field: str) -> None:
        answer = self.read(query)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert [e["field"] for e in answer.json["errors"]] == [field]

    def test_a_long_key_at_the_end_of_a_page(self, subscribe: Subscribe) -> None:
        """Its cursor is taken like any other."""
        subscribe()
        for n in range(3):
            call("POST", "/usage", usage(key=f"{n}" + "🙂" * 199))
        cursor = self.read("?limit=1").json["next_cursor"]
        answer = self.read(f"?limit=1&cursor={cursor}")
        assert (answer.status, len(answer.json["events"])) == (200, 1)


class TestWhatIsTold:
    def emitted(self, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
        """The metrics of the last invocation."""
        lines = [
            json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line
        ]
        (metrics,) = lines
        return {k: v[0] for k, v in metrics.items() if isinstance(v, list)}

    def test_metrics(self, subscribe: Subscribe, capsys: pytest.CaptureFixture[str]) -> None:
        """How many requests, and what became of the events in them. Zeros are left out."""
        subscribe(overage_enabled=False)
        events = [usage("60", key="a"), usage("60", key="b"), usage("60", key="a"), 7]
        call("POST", "/usage", {"events": events})
        assert self.emitted(capsys) == {
            "UsageRequests": 1, "UsageEventsAccepted": 1, "UsageEventsDuplicate": 1,
            "UsageEventsRefused": 2,
        }  # fmt: skip
        call("POST", "/usage", usage("60", key="c"))
        assert self.emitted(capsys) == {"UsageRequests": 1, "UsageEventsRefused": 1}

    def test_refusals_are_logged_without_whose(
        self, subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Codes and counts; no user, no key, no email."""
        stream = io.StringIO()
        monkeypatch.setattr(api.logger.registered_handler, "stream", stream)
        subscribe(overage_enabled=False)
        call("POST", "/usage", {"events": [usage("101", key="secret-key"), 7, 8]})
        (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
        assert line["message"] == "usage.refused"
        assert line["codes"] == {"limit_reached": 1, "invalid_event": 2}
        assert "secret-key" not in stream.getvalue()
        assert "usr_ana" not in stream.getvalue()
