"""People choose which mails they get: signed in, with a page, or with one click in the mail."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from psycopg.types.json import Jsonb

from billing import wiring
from billing.events import log
from billing.mail import unsubscribing
from tests.environments import forget
from tests.integration.functions.calling import (
    APP_SECRET,
    ORIGIN,
    call,
    prove_address,
    service_key,
    start,
)
from tests.integration.functions.test_api import PASSWORD, address

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64


@pytest.fixture(autouse=True)
def environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    keys = [service_key("app", KEY, "users:manage")]
    start(monkeypatch, migrated_url, keys, {"PRODUCT_NAME": "North & beam"})
    yield
    forget()


@pytest.fixture
def ana() -> tuple[str, str]:
    """A user with a proven address: the id and a session."""
    answer = call("POST", "/signup", {"email": address(), "password": PASSWORD}).json
    user, session = answer["user"]["id"], answer["session"]["token"]
    prove_address(user, session)
    return user, session


def emit(user: str, type_: str) -> list[str]:
    """Has an event placed; the kinds of mails about events that the user was queued."""
    data = Jsonb({"feature": "storage", "used": "4", "included": "5", "threshold": {"percent": 80}})
    db = wiring.database()
    db.execute("select emit_event(%s, %s, %s, %s)", [user, type_, datetime.now(UTC), data])
    while log.place(db):
        pass
    query = "select kind from mails where user_id = %s and event is not null order by id"
    return [row["kind"] for row in db.all(query, [user])]


class TestAccountMails:
    def test_everything_is_on_at_first(self, ana: tuple[str, str]) -> None:
        answer = call("GET", "/account/mails", token=ana[1])
        assert (answer.status, answer.json) == (200, {"thresholds": True})

    def test_what_is_switched_off_does_not_come(self, ana: tuple[str, str]) -> None:
        user, session = ana
        off = call("PUT", "/account/mails", {"thresholds": False}, token=session)
        assert (off.status, off.json) == (200, {"thresholds": False})
        assert call("GET", "/account/mails", token=session).json == {"thresholds": False}
        assert emit(user, "usage.threshold_reached") == []
        assert emit(user, "payment.failed") == ["payment_failed"]
        call("PUT", "/account/mails", {"thresholds": True}, token=session)
        assert emit(user, "usage.threshold_reached") == ["payment_failed", "usage_threshold"]

    @pytest.mark.parametrize("body", [{}, {"thresholds": "no"}, {"thresholds": True, "all": False}])
    def test_a_wrong_choice_changes_nothing(
        self, ana: tuple[str, str], body: dict[str, object]
    ) -> None:
        assert call("PUT", "/account/mails", body, token=ana[1]).code == "invalid_request"
        assert call("GET", "/account/mails", token=ana[1]).json == {"thresholds": True}

    def test_only_for_people(self) -> None:
        assert call("GET", "/account/mails").code == "unauthenticated"
        assert call("GET", "/account/mails", token=KEY).code == "unauthenticated"


class TestUnsubscribe:
    def test_one_click_of_a_mail_program(self, ana: tuple[str, str]) -> None:
        """As RFC 8058 has it: a form, no cookie, no Origin."""
        user, session = ana
        path = f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, user)}"
        answer = call(
            "POST",
            path,
            text="List-Unsubscribe=One-Click",
            content_type="application/x-www-form-urlencoded",
        )
        assert answer.status == 200
        assert call("GET", "/account/mails", token=session).json == {"thresholds": False}
        assert emit(user, "usage.threshold_reached") == []

    @pytest.mark.parametrize("origin", [None, ORIGIN, "https://mail.example", "null"])
    def test_the_button_of_the_page_works_from_everywhere(
        self, ana: tuple[str, str], origin: str | None
    ) -> None:
        user, session = ana
        path = f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, user)}"
        page = call("GET", path)
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert '<form method="post">' in page.text
        assert "North &amp; beam" in page.text
        assert call("GET", "/account/mails", token=session).json == {"thresholds": True}
        assert call("POST", path, origin=origin).status == 200
        assert call("GET", "/account/mails", token=session).json == {"thresholds": False}

    @pytest.mark.parametrize("body", ["\ud800", "{", "x" * 100_000, ""])
    def test_the_body_is_not_read(self, ana: tuple[str, str], body: str) -> None:
        path = f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, ana[0])}"
        assert call("POST", path, text=body, content_type="multipart/form-data").status == 200

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("token", ["", "usr_1", "usr_1.ab", "a.b"])
    def test_another_text_switches_nothing_off(self, method: str, token: str) -> None:
        assert call(method, f"/unsubscribe?token={token}").code == "not_found"

    def test_it_never_switches_on(self, ana: tuple[str, str]) -> None:
        user, session = ana
        path = f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, user)}"
        for _ in range(3):
            assert call("POST", path).status == 200
        assert call("GET", "/account/mails", token=session).json == {"thresholds": False}

    def test_a_user_who_has_left(self) -> None:
        """The answer tells nothing of who is there."""
        path = f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, 'usr_gone')}"
        assert call("POST", path).status == 200

    def test_the_audit_trail_names_who_it_was_for(self, ana: tuple[str, str]) -> None:
        user, session = ana
        call("POST", f"/unsubscribe?token={unsubscribing.token_of(APP_SECRET, user)}")
        entries = call("GET", "/account/audit", token=session).json["entries"]
        (entry,) = [each for each in entries if each["action"] == "account.mails_changed"]
        assert (entry["actor"], entry["outcome"]) == (user, "done")
        assert json.dumps(entry).count("token") == 0
