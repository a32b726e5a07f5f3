"""The operators' page: who gets in, what it shows, and that it changes nothing but the trail."""

import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from billing import wiring
from billing.audit import trail
from billing.clock import wall_clock
from billing.config import from_env
from billing.credentials.service_keys import ServiceKeys
from billing.database import health
from billing.errors import DatabaseUnavailable
from billing.events import log
from billing.operations import waiting
from billing.pages import operators
from tests.environments import forget
from tests.integration.functions.calling import call, prove_address, service_key, start
from tests.integration.functions.test_api import PASSWORD
from tests.integration.functions.visiting import Shown, Visitor
from tests.unit.cloudformation import TEMPLATE, load

pytestmark = pytest.mark.handlers

NASTY = """<script>alert("x")</script>'"&<b>"""
ESCAPED = "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&#39;&#34;&amp;&lt;b&gt;"
KEY = "svc_shop_" + "b" * 64

Begin = Callable[..., None]


@pytest.fixture
def email() -> str:
    return f"operator-{uuid4().hex[:8]}@example.com"


@pytest.fixture(autouse=True)
def begin(migrated_url: str, monkeypatch: pytest.MonkeyPatch, email: str) -> Iterator[Begin]:
    """A fresh environment, in which `email` is an operator's; called again it is another one."""
    listed = [service_key("shop", KEY, "usage:write", "read")]

    def again(keys: list[dict[str, Any]] = listed, **changes: str) -> None:
        start(monkeypatch, migrated_url, keys, {"OPERATORS": f"a@b.example, {email}"} | changes)

    again()
    yield again
    forget()


def joined(email: str, *, verified: bool = True) -> tuple[str, Visitor]:
    """Somebody who has just signed up: the id, and the browser."""
    up = call("POST", "/signup", {"email": email, "password": PASSWORD})
    assert up.status == 201, up.text
    token = up.json["session"]["token"]
    if verified:
        prove_address(up.json["user"]["id"], token)
    browser = Visitor()
    browser.cookies["__Host-session"] = token
    return str(up.json["user"]["id"]), browser


@pytest.fixture
def operator(email: str) -> Visitor:
    return joined(email)[1]


@pytest.fixture
def customer() -> tuple[str, Visitor]:
    return joined(f"{uuid4().hex[:12]}@example.com")


def grow_old(minutes: float) -> None:
    """All sessions began so much earlier."""
    wiring.database().execute(
        "update sessions set created_at = created_at - %s", [timedelta(minutes=minutes)]
    )


def run(statement: str, *values: object) -> None:
    wiring.database().execute(statement, list(values))


def audited() -> list[dict[str, Any]]:
    return wiring.database().all(
        "select actor_kind, actor, user_id, outcome, details from audit"
        " where action = 'operator.command' order by at"
    )


def looked(operator: Visitor, who: str) -> Shown:
    """What the form of the page answers."""
    form = operator.get("/ops").form("/ops/user")
    return operator.post(form.action, form.values | {"who": who})


class TestAdmission:
    def test_an_operator_gets_in(self, operator: Visitor) -> None:
        shown = operator.get("/ops")
        assert shown.status == 200
        assert "Operations" in shown.text
        assert shown.headers["cache-control"] == "no-store"
        assert "script-src 'self'" in shown.headers["content-security-policy"]

    def test_a_stranger_is_asked_to_sign_in_and_comes_back(self, email: str) -> None:
        joined(email)
        stranger = Visitor()
        asked = stranger.get("/ops")
        assert asked.location == "/app/login?next=%2Fops"
        form = stranger.follow(asked).form("/app/login")
        back = stranger.post(form.action, form.values | {"email": email, "password": PASSWORD})
        assert back.location == "/ops"
        assert stranger.follow(back).status == 200

    def test_a_customer_finds_a_page_that_does_not_exist(
        self, customer: tuple[str, Visitor]
    ) -> None:
        _, browser = customer
        found = browser.get("/ops")
        unknown = browser.get("/ops/nothing")
        assert (found.status, found.html) == (404, unknown.html)
        assert found.html == browser.get("/app/nothing").html
        assert found.headers == unknown.headers
        posted = browser.post("/ops/user", {"who": "usr_x"})
        assert (posted.status, posted.html) == (404, unknown.html)
        assert audited() == []

    def test_an_address_that_is_not_confirmed_is_nobodys(self, email: str) -> None:
        _, browser = joined(email, verified=False)
        assert browser.get("/ops").status == 404

    def test_a_user_of_a_product_with_the_address_has_no_way_in(
        self, operator: Visitor, email: str
    ) -> None:
        run("update users set own_account = false, verified_at = null where email = %s", email)
        assert operator.get("/ops", authorization="Bearer svc_" + "x" * 20).status != 200
        operator.cookies.clear()
        assert operator.get("/ops").status == 303

    @pytest.mark.parametrize(
        ("listed", "typed"),
        [
            ("ANA.MÜLLER@Example.com", "ana.müller@example.com"),
            ("ana.müller@example.com", "Ana.MÜLLER@EXAMPLE.com"),
            (unicodedata.normalize("NFD", "ana.müller@example.com"), "ana.müller@example.com"),
        ],
        ids=["listed-in-capitals", "typed-in-capitals", "listed-in-nfd"],
    )
    def test_an_address_counts_however_it_is_written(
        self, begin: Begin, listed: str, typed: str
    ) -> None:
        begin(OPERATORS=listed)
        _, browser = joined(typed)
        assert browser.get("/ops").status == 200

    def test_without_a_list_nobody_gets_in(self, begin: Begin, operator: Visitor) -> None:
        begin(OPERATORS="")
        assert operator.get("/ops").status == 404

    def test_the_password_is_asked_for_again_after_a_quarter_of_an_hour(
        self, operator: Visitor
    ) -> None:
        grow_old(minutes=14)
        assert operator.get("/ops").status == 200
        grow_old(minutes=1.1)
        asked = operator.get("/ops")
        assert asked.status == 401
        assert "Type your password again" in asked.text
        assert "Parked" not in asked.text
        form = asked.form("/app/login")
        wrong = operator.post(form.action, form.values | {"password": "wrong password"})
        assert wrong.status == 401
        assert operator.get("/ops").status == 401
        before = operator.cookies["__Host-session"]
        again = wrong.form("/app/login")
        back = operator.post(again.action, again.values | {"password": PASSWORD})
        assert back.location == "/ops"
        assert operator.follow(back).status == 200
        assert operator.cookies["__Host-session"] != before

    def test_a_search_that_came_too_late_is_not_lost(
        self, operator: Visitor, customer: tuple[str, Visitor]
    ) -> None:
        user, _ = customer
        grow_old(minutes=16)
        asked = operator.post("/ops/user", {"who": user})
        assert asked.status == 401
        assert audited() == []
        form = asked.form("/app/login")
        offered = operator.post(form.action, form.values | {"password": PASSWORD})
        sent = offered.form("/ops/user")
        assert user in operator.post(sent.action, sent.values).text

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", ""])
    def test_a_form_of_another_site_is_refused(
        self, operator: Visitor, customer: tuple[str, Visitor], origin: str
    ) -> None:
        operator.origin = origin
        refused = operator.post("/ops/user", {"who": customer[0]})
        assert (refused.status, "origin_not_allowed" in refused.html) == (403, True)
        assert audited() == []

    def test_it_does_nothing(self, operator: Visitor) -> None:
        """The only form, beside that to sign out, is the search."""
        shown = operator.get("/ops")
        assert {form.action for form in shown.forms} == {"/app/logout", "/ops/user"}
        assert operator.get("/ops/user").status == 404


def parked(user: str, seq: int, **fields: object) -> None:
    row: dict[str, object] = {
        "period": 1, "feature": "storage", "seq": seq, "user_id": user, "quantity": "1234.5",
        "event_id": f"ev_{seq}", "body": "{}", "state": "parked", "reason": "feature_disabled",
    } | fields  # fmt: skip
    names, places = ", ".join(row), ", ".join(["%s"] * len(row))
    run(f"insert into usage_delivery ({names}) values ({places})", *row.values())  # noqa: S608


OFF_AT = "2026-11-20T12:34:00+00:00"
DAY_BEFORE = "2026-11-19T12:34:00+00:00"


def endpoint(url: str = "https://app.example.com/hooks?token=1", **fields: object) -> str:
    """A new endpoint of events. Returns its id."""
    row = {"id": f"ep_{uuid4().hex[:24]}", "url": url, "description": "Ours"} | fields
    names, places = ", ".join(row), ", ".join(["%s"] * len(row))
    slot = "(select count(*) + 1 from event_endpoint)"
    run(
        f"insert into event_endpoint ({names}, slot) values ({places}, {slot})",  # noqa: S608
        *row.values(),
    )
    return str(row["id"])


class TestState:
    def test_where_nothing_waits_the_page_says_so(self, operator: Visitor, begin: Begin) -> None:
        begin(keys=[])
        text = operator.get("/ops").text
        for said in (
            "Works", "Nothing is late", "No delivery waits for a person.", "No webhook is dead.",
            "No total differs from Commet's.", "There are no service keys.", "None yet",
            "The alarm rings after 15 minutes.", "The alarm rings after 60 minutes.",
            "Endpoints switched off 0", "Every endpoint is switched on, and none is failing.",
        ):  # fmt: skip
            assert said in text

    def test_the_outbox(self, operator: Visitor) -> None:
        due = datetime.now(UTC) - timedelta(minutes=14)
        parked("usr_a", 1, state="pending", reason=None, due_at=due)
        parked("usr_a", 2, state="pending", reason=None, due_at=due + timedelta(days=1))
        text = operator.get("/ops").text
        assert "Oldest delivery waits 14 min The alarm rings after 15 minutes." in text
        assert "Deliveries to be sent 2 " in text
        run("update usage_delivery set due_at = due_at - interval '2 minutes'")
        assert "16 min Longer than the alarm allows" in operator.get("/ops").text

    def test_more_deliveries_than_are_counted(
        self, operator: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "MOST_COUNTED", 1)
        for seq in (1, 2, 3):
            parked("usr_a", seq, state="pending", reason=None)
        assert "Deliveries to be sent more than 1 " in operator.get("/ops").text

    def test_parked_deliveries(self, operator: Visitor, email: str) -> None:
        parked("usr_a", 1)
        parked("usr_b", 2, reason="needs_credit")
        parked("usr_c", 3, reason="unconfirmed")
        parked("usr_dealt_with", 4, resolved_at=datetime.now(UTC))
        parked("usr_undecided", 5, compare_at=datetime.now(UTC), uncertain_since=datetime.now(UTC))
        shown = operator.get("/ops")
        assert "Parked deliveries 3 " in shown.text
        assert "feature_disabled" in shown.text
        assert "1,234.5" in shown.text
        assert "usr_dealt_with" not in shown.text
        assert "usr_undecided" not in shown.text
        me = wiring.database().value("select id from users where email = %s", [email])
        signed = f'"author": "{me}", "note": "..."'
        for command in (
            f'{{"command": "redrive", "what": "deliveries", "id": "ev_1", {signed}}}',
            f'{{"command": "resolve", "user": "usr_b", "id": "ev_2", {signed}}}',
            f'{{"command": "resolve", "user": "usr_c", "id": "ev_3", "delivered": true, {signed}}}',
            f'{{"command": "redrive", "what": "deliveries", "id": "ev_3", {signed}}}',
        ):
            assert f"ask '{command}'" in shown.text
        assert '"id": "ev_2", "what"' not in shown.text

    def test_an_endpoint_that_is_switched_off(self, operator: Visitor, email: str) -> None:
        """With the commands that switch it on and send what came since; others are left out."""
        endpoint("https://good.example.com/hooks")
        off = endpoint(disabled_by="failures", disabled_at=OFF_AT, failing_since=OFF_AT)
        endpoint(disabled_by="gone", disabled_at=OFF_AT)
        by_the_product = endpoint(disabled_by="request", disabled_at=OFF_AT)
        shown = operator.get("/ops")
        assert "Endpoints switched off 2 " in shown.text  # as the alarm counts them
        row = f"{off} app.example.com Ours Off: it took nothing for three days 20 November 12:34"
        assert row in shown.text.replace(",", "").replace("\u00a0", " ")
        assert "Off: it answered 410" in shown.text
        assert "Off: somebody asked for it" in shown.text
        assert "good.example.com" not in shown.text
        assert "token" not in shown.html
        me = wiring.database().value("select id from users where email = %s", [email])
        signed = f'"author": "{me}", "note": "..."'
        for command in (
            f'{{"command": "enable_endpoint", "endpoint": "{off}", {signed}}}',
            f'{{"command": "redeliver", "endpoint": "{off}", "from": "{DAY_BEFORE}", {signed}}}',
        ):
            assert f"ask '{command}'" in shown.text
        assert f'"endpoint": "{by_the_product}"' not in shown.text

    def test_an_endpoint_that_is_failing(self, operator: Visitor) -> None:
        """Its events are sent again by themselves: there is nothing to switch on."""
        failing = endpoint(failing_since=OFF_AT)
        text = operator.get("/ops").text
        assert "Endpoints switched off 0 " in text
        assert f"{failing} app.example.com Ours Failing: events are sent again 20 Nov" in text
        assert "enable_endpoint" not in text

    def test_the_oldest_event(self, operator: Visitor, customer: tuple[str, Visitor]) -> None:
        """One for an endpoint that is on makes the alarm ring; it is in the row of one that is
        off.
        """
        run("delete from outgoing_event")
        endpoint(failing_since=OFF_AT)
        run("select emit_event(%s, 'access.granted', now(), '{}')", customer[0])
        log.place(wiring.database())
        for minutes, said in ((59, "The alarm rings after 60"), (62, "Longer than the alarm")):
            run(
                "update event_delivery set waits_since = now() - make_interval(mins => %s)", minutes
            )
            assert f"Oldest event waits {minutes} min {said}" in operator.get("/ops").text
        run("update event_delivery set waits_since = '2026-11-19 07:08+00'")
        run("update event_endpoint set disabled_at = now(), disabled_by = 'request'")
        text = operator.get("/ops").text
        assert "Oldest event waits Nothing is late" in text
        assert "19 November, 07:08" in text

    def test_the_oldest_event_for_the_bus(
        self, operator: Visitor, customer: tuple[str, Visitor]
    ) -> None:
        """It counts as in the metric."""
        run("select emit_event(%s, 'access.granted', now(), '{}')", customer[0])
        log.place(wiring.database())
        run("insert into event_bus (id, bus, place) values (1, 'own', 0)")
        run("update outgoing_event set inserted_at = now() - interval '3 hours'")
        assert "Oldest event waits 3 h Longer than the alarm" in operator.get("/ops").text

    def test_on_the_local_stack_the_commands_are_those_of_make(
        self, operator: Visitor, begin: Begin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parked("usr_a", 1)
        off = endpoint(disabled_by="gone", disabled_at=OFF_AT)
        begin(CLOCK_URL="http://127.0.0.1:1")
        monkeypatch.setattr(wiring, "clock", lambda: wall_clock)
        text = operator.get("/ops").text
        assert "make redrive what=deliveries id=ev_1 author=usr_" in text
        assert f"make enable-endpoint endpoint={off} author=usr_" in text
        assert f"make redeliver endpoint={off} from={DAY_BEFORE} author=usr_" in text

    def test_dead_webhooks(self, operator: Visitor) -> None:
        run(
            "insert into webhooks (id, type, mode, user_id, status, error) values"
            " ('whev_1', 'subscription.updated', 'sandbox', 'usr_a', 'dead', 'KeyError'),"
            " ('whev_2', 'subscription.updated', 'sandbox', 'usr_a', 'applied', null)"
        )
        run(
            "insert into webhooks (id, type, status, due_at)"
            " values ('whev_3', 'invoice.paid', 'failed', now())"
        )
        text = operator.get("/ops").text
        assert "Dead webhooks 1 1 more are tried again" in text
        assert "whev_1 subscription.updated usr_a" in text
        assert "KeyError" in text
        assert '"what": "webhooks", "id": "whev_1"' in text
        assert "whev_2" not in text
        assert "whev_3" not in text

    def test_drift(self, operator: Visitor, customer: tuple[str, Visitor]) -> None:
        user, _ = customer
        drifted(user, "storage")
        text = operator.get("/ops").text
        assert "Totals that differ 1 " in text
        assert f"{user} storage 10.5 13" in text
        assert f'{{"command": "repair_drift", "user": "{user}"' in text

    def test_the_sweep(self, operator: Visitor) -> None:
        run(
            "insert into rounds (name, position, requested, begun_at)"
            " values ('sweep', '{}', '{}', '2026-11-29 12:34+00')"
        )
        text = operator.get("/ops").text
        assert "29 November" in text
        assert "12:34" in text
        assert "under way another one is requested" in text
        run("update rounds set position = null, requested = null, finished_at = now()")
        text = operator.get("/ops").text
        assert "finished" in text
        assert "requested" not in text

    def test_a_database_that_only_reads(
        self, operator: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise DatabaseUnavailable

        monkeypatch.setattr(health, "check", refuse)
        assert "Takes no writes" in operator.get("/ops").text

    def test_service_keys_by_name_scopes_and_last_use(
        self, operator: Visitor, begin: Begin
    ) -> None:
        other = service_key("backoffice", "svc_backoffice_" + "c" * 64, "read")
        shop = service_key("shop", KEY, "usage:write", "read")
        begin(keys=[shop, other])
        assert call("GET", "/users/usr_nobody/audit", token=KEY).status == 404
        shown = operator.get("/ops")
        today = datetime.now(UTC).date().isoformat()
        assert "backoffice read Not in the last 90 days" in shown.text
        assert f'<td>read, usage:write</td><td><time datetime="{today}' in shown.html
        for secret in (shop["sha256"], other["sha256"], KEY):
            assert secret not in shown.html

    def test_a_secret_that_cannot_be_read_hides_nothing_else(
        self, operator: Visitor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: object) -> None:
            raise DatabaseUnavailable

        monkeypatch.setattr(ServiceKeys, "listed", refuse)
        text = operator.get("/ops").text
        assert "The secret with the service keys cannot be read just now." in text
        assert "No delivery waits for a person." in text

    def test_names_and_reasons_are_escaped(
        self, operator: Visitor, customer: tuple[str, Visitor]
    ) -> None:
        parked(NASTY, 1, feature=NASTY, event_id=NASTY, reason=NASTY)
        run(
            "insert into webhooks (id, type, user_id, status, error)"
            " values (%(n)s, %(n)s, %(n)s, 'dead', %(n)s)".replace("%(n)s", "%s"),
            *[NASTY] * 4,
        )
        drifted(customer[0], NASTY)
        html = operator.get("/ops").html
        assert html.count(ESCAPED) >= 8
        assert "<script>" not in html

    @pytest.mark.parametrize("url", [f"https://{NASTY}", f"https://[{NASTY}", NASTY])
    def test_an_endpoints_url_and_description_are_escaped(
        self, operator: Visitor, url: str
    ) -> None:
        endpoint(url, description=NASTY, disabled_by="gone", disabled_at=OFF_AT)
        html = operator.get("/ops").html
        assert ESCAPED in html
        assert "<script>" not in html
        assert "<b>" not in html

    def test_it_has_one_heading_and_every_table_a_caption(
        self, operator: Visitor, customer: tuple[str, Visitor]
    ) -> None:
        parked("usr_a", 1)
        endpoint(disabled_by="gone", disabled_at=OFF_AT)
        for shown in (operator.get("/ops"), looked(operator, customer[0])):
            assert shown.html.count("<h1") == 1
            assert shown.html.count("<table") == shown.html.count("<caption>") > 0
            assert "style=" not in shown.html


def drifted(user: str, feature: str) -> None:
    period = wiring.database().value(
        "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
        " values (%s, 'sub_1', now(), now() + interval '30 days') returning id",
        [user],
    )
    run(
        "insert into usage_drift (period, feature, user_id, ours, theirs, found_at, checked_at)"
        " values (%s, %s, %s, 10.5, 13, now(), now())",
        period,
        feature,
        user,
    )


class TestUser:
    @pytest.mark.parametrize("by", ["id", "email"])
    def test_everything_about_one_user(
        self, operator: Visitor, customer: tuple[str, Visitor], by: str
    ) -> None:
        user, browser = customer
        parked(user, 1)
        drifted(user, "storage")
        email = wiring.database().value("select email from users where id = %s", [user])
        shown = looked(operator, user if by == "id" else email.upper())
        assert shown.status == 200
        assert f"User {user}" in shown.text
        assert email in shown.text
        nothing = "Nothing is recorded of: subscriptions"
        for said in ("feature_disabled", "10.5", nothing, "nothing: no row is in"):
            assert said in shown.text
        for command in ("redrive", "repair_drift", "end_sessions"):
            assert f'{{"command": "{command}"' in shown.text
        assert '"forgive"' not in shown.text
        token = browser.cookies["__Host-session"]
        hashed = wiring.database().value("select hash from passwords where user_id = %s", [user])
        digests = wiring.database().all("select encode(token_sha256, 'hex') as t from sessions")
        assert digests
        for secret in (token, hashed, *(row["t"] for row in digests)):
            assert secret not in shown.html

    def test_each_look_is_written_into_the_trail(
        self, operator: Visitor, customer: tuple[str, Visitor], email: str
    ) -> None:
        user, _ = customer
        me = wiring.database().value("select id from users where email = %s", [email])
        looked(operator, user)
        looked(operator, "nobody@example.com")
        written = {"actor_kind": "operator", "actor": me, "details": {"command": "show"}}
        assert audited() == [
            written | {"user_id": user, "outcome": "done"},
            written | {"user_id": None, "outcome": "unknown_user"},
        ]

    def test_what_cannot_be_written_down_is_not_shown(
        self,
        operator: Visitor,
        customer: tuple[str, Visitor],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise DatabaseUnavailable

        monkeypatch.setattr(trail, "write", refuse)
        shown = looked(operator, customer[0])
        assert shown.status == 503
        assert customer[0] not in shown.html

    def test_nobody_is_found(self, operator: Visitor) -> None:
        shown = looked(operator, NASTY)
        assert shown.status == 422
        assert "There is no user with this id or e-mail address." in shown.text
        assert ESCAPED in shown.html
        assert "<script>" not in shown.html

    @pytest.mark.parametrize("who", ["", "   ", "x" * 321, "a\x00b"])
    def test_what_can_be_nobody_is_not_looked_for(self, operator: Visitor, who: str) -> None:
        shown = looked(operator, who)
        assert (shown.status, audited()) == (422, [])
        assert "Type an id or an e-mail address." in shown.text

    def test_a_name_with_markup_is_escaped(
        self, operator: Visitor, customer: tuple[str, Visitor]
    ) -> None:
        user, _ = customer
        parked(user, 1, reason=NASTY, event_id=NASTY)
        shown = looked(operator, user)
        assert shown.html.count(ESCAPED) >= 2
        assert "<script>" not in shown.html


@pytest.mark.parametrize(
    ("alarm", "threshold"),
    [
        ("OutboxAgeAlarm", operators.RINGS_AFTER),
        ("UndeliveredEventsAlarm", operators.EVENTS_RING_AFTER),
    ],
)
def test_the_page_names_the_threshold_of_the_alarm(alarm: str, threshold: timedelta) -> None:
    properties = load(TEMPLATE)["Resources"][alarm]["Properties"]
    assert properties["Threshold"] == threshold.total_seconds()


def test_addresses_are_compared_by_their_keys() -> None:
    assert from_env({"OPERATORS": " Ana@Example.com ,,"}).operators == {"ana@example.com"}
