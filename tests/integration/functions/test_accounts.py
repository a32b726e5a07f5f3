"""Own accounts through the functions: the address, the password, the sessions, guessing."""

import json
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from argon2 import PasswordHasher

from billing import wiring
from billing.accounts import passwords, sign_in_limits
from billing.accounts.limits import Limit
from billing.http import account_answers
from billing.operations import housekeeping
from functions.account import app as account
from functions.session import app as session
from tests.environments import forget
from tests.integration.functions.calling import (
    ORIGIN,
    Answer,
    ask,
    call,
    event,
    mailed,
    prove_address,
    service_key,
    start,
)
from tests.integration.functions.test_api import PASSWORD, address, counted

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64
NEW_PASSWORD = "another long walk home"


@pytest.fixture(autouse=True)
def environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    keys = [service_key("app", KEY, "usage:write", "users:manage", "billing:manage")]
    start(monkeypatch, migrated_url, keys, {"PRODUCT_NAME": "Northbeam"})
    yield
    forget()


@dataclass
class Person:
    email: str
    id: str
    token: str

    def asks(self, method: str, path: str, body: Any = None) -> Answer:
        return call(method, path, body, token=self.token)

    @property
    def account(self) -> dict[str, Any]:
        found: dict[str, Any] = self.asks("GET", "/account").json["account"]
        return found

    def is_in(self) -> bool:
        return self.asks("GET", "/dashboard").status == 200


def sign_up(email: str | None = None, *, verified: bool = False, **fields: Any) -> Person:
    email = email or address()
    answer = call("POST", "/signup", {"email": email, "password": PASSWORD} | fields)
    assert answer.status == 201, answer.text
    person = Person(email, answer.json["user"]["id"], answer.json["session"]["token"])
    if verified:
        prove_address(person.id, person.token)
    return person


def sign_in(email: str, password: str = PASSWORD, source: str = "") -> Answer:
    body = json.dumps({"email": email, "password": password})
    request = event("POST", "/login", body, {"content-type": "application/json"}, [])
    if source:
        request["requestContext"]["http"]["sourceIp"] = source
    return ask(session, request)


def verify(token: str, *, by: Person | None = None, password: str | None = None) -> Answer:
    body = {"token": token} | ({} if password is None else {"password": password})
    return call("POST", "/email/verify", body, token=by.token if by else None)


def written(person: Person) -> list[tuple[str, str]]:
    """What the audit trail has about a person, newest first."""
    entries = person.asks("GET", "/account/audit").json["entries"]
    return [(each["action"], each["outcome"]) for each in entries]


def mails(user_id: str, kind: str) -> int:
    count: int = wiring.database().value(
        "select count(*) from mails where user_id = %s and kind = %s", [user_id, kind]
    )
    return count


class TestUnverified:
    """An unverified account has no claim on its address."""

    def test_is_known_to_its_session_alone(self) -> None:
        ana = sign_up()
        assert ana.account["email_verified"] is False
        assert sign_in(ana.email).code == "invalid_credentials"

    def test_stands_in_nobodys_way_to_sign_in(self) -> None:
        """Two strangers had signed up with Ana's address, before and after her."""
        before = sign_up(password="a stranger of before")
        ana = sign_up(before.email)
        sign_up(ana.email, password="a stranger of after")
        prove_address(ana.id, ana.token)
        assert sign_in(ana.email).json["user"]["id"] == ana.id
        for stranger in ("before", "after"):
            refused = sign_in(ana.email, f"a stranger of {stranger}")
            assert refused.code == "invalid_credentials"

    def test_blocks_no_later_sign_up(self) -> None:
        """Several may have the same address, and each keeps its session."""
        ana = sign_up()
        others = [sign_up(ana.email.upper()) for _ in range(2)]
        assert all(each.is_in() for each in (ana, *others))

    def test_blocks_no_user_of_a_product(self) -> None:
        ana = sign_up()
        put = call("PUT", f"/users/{uuid4().hex}", {"email": ana.email}, token=KEY)
        assert put.status == 201

    @pytest.mark.parametrize("by", ["session", "service key"])
    def test_cannot_check_out(self, by: str) -> None:
        ana = sign_up()
        if by == "session":
            refused = ana.asks("POST", "/checkout", {"plan_code": "pro"})
        else:
            body = {"plan_code": "pro", "user_id": ana.id}
            refused = call("POST", "/checkout", body, token=KEY)
        assert (refused.status, refused.code) == (403, "email_unverified")

    def test_goes_after_a_day(self) -> None:
        ana, ben = sign_up(), sign_up(verified=True)
        now = wiring.now()
        housekeeping.delete_unverified(wiring.database(), now + timedelta(hours=23))
        assert ana.is_in()
        housekeeping.delete_unverified(wiring.database(), now + timedelta(hours=25))
        assert not ana.is_in()
        assert ben.is_in()

    def test_an_erased_one_is_left_to_the_erasure(self) -> None:
        """It stops nobody else's deletion, not even where there are many of them."""
        ana = sign_up()
        assert ana.asks("DELETE", "/account", {"password": PASSWORD}).status == 202
        ben = sign_up()
        late = wiring.now() + timedelta(hours=1)
        assert wiring.database().value("select delete_unverified(%s, 1)", [late]) == 1
        assert not ben.is_in()
        assert wiring.database().value("select count(*) from users where id = %s", [ana.id]) == 1

    def test_whatever_refers_to_it_keeps_it(self) -> None:
        """A row that does not go with the account would stop the deletion of all accounts."""
        tables = wiring.database().all(
            "select conrelid::regclass::text as name from pg_constraint"
            " where contype = 'f' and confrelid = 'users'::regclass and confdeltype = 'a'"
        )
        kept = "select prosrc from pg_proc where proname = 'delete_unverified'"
        text = wiring.database().value(kept)
        # Both are of erased users alone, whom the routine passes over.
        referring = {row["name"] for row in tables} - {"erasure", "remembered"}
        assert referring
        for table in referring:
            assert f"not exists (select from {table} where user_id = u.id)" in text

    def test_stays_with_a_customer_at_commet(self) -> None:
        """It counts as verified once it has one."""
        ana = sign_up()
        customer = f"cus_{uuid4().hex[:12]}"
        news = {"id": customer, "external_id": ana.id, "at": "2026-09-01T00:00:00Z"}
        wiring.database().execute("select record_customer(%s, now())", [json.dumps(news)])
        assert ana.account["email_verified"] is True
        assert sign_in(ana.email).status == 200


class TestVerify:
    def test_with_the_session(self) -> None:
        ana = sign_up()
        answer = verify(mailed(ana.id, "verify_email"), by=ana)
        assert (answer.status, answer.json["account"]["email_verified"]) == (200, True)
        assert sign_in(ana.email).status == 200

    def test_with_the_password(self) -> None:
        """On the telephone, where nobody is signed in."""
        ana = sign_up()
        token = mailed(ana.id, "verify_email")
        assert verify(token, password="no such password").code == "invalid_credentials"
        assert verify(token, password=PASSWORD).status == 200

    def test_the_link_alone_proves_nothing(self) -> None:
        """Else the owner of an address would confirm the account of a stranger who typed it."""
        ana, ben = sign_up(), sign_up()
        token = mailed(ana.id, "verify_email")
        assert verify(token).code == "unauthenticated"
        assert verify(token, by=ben).code == "unauthenticated"
        assert ana.account["email_verified"] is False

    def test_by_cookie_from_another_site(self) -> None:
        ana = sign_up()
        body = {"token": mailed(ana.id, "verify_email")}
        cookie = f"__Host-session={ana.token}"
        refused = call("POST", "/email/verify", body, cookie=cookie)
        assert (refused.status, refused.code) == (403, "origin_not_allowed")
        assert call("POST", "/email/verify", body, cookie=cookie, origin=ORIGIN).status == 200

    def test_with_an_ended_session_and_the_password(self) -> None:
        """A cookie of long ago does not stand in the way."""
        ana = sign_up()
        body = {"token": mailed(ana.id, "verify_email"), "password": PASSWORD}
        assert call("POST", "/email/verify", body, token="ses_" + "0" * 64).status == 200

    def test_once(self) -> None:
        ana = sign_up()
        token = mailed(ana.id, "verify_email")
        assert verify(token, by=ana).status == 200
        again = verify(token, by=ana)
        assert (again.status, again.code) == (409, "link_expired")

    def test_for_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ana = sign_up()
        token = mailed(ana.id, "verify_email")
        now = wiring.now()
        monkeypatch.setattr(wiring, "now", lambda: now + timedelta(hours=24, seconds=1))
        assert verify(token, by=ana).code == "link_expired"

    @pytest.mark.parametrize("token", ["", "act_" + "0" * 24, "x" * 200, "act_.", "ü"])
    def test_other_texts(self, token: str) -> None:
        assert verify(token, by=sign_up()).code == "link_expired"

    def test_a_link_of_another_kind(self) -> None:
        ana = sign_up(verified=True)
        call("POST", "/password/forgot", {"email": ana.email})
        assert verify(mailed(ana.id, "reset_password"), by=ana).code == "link_expired"

    def test_the_first_gets_the_address(self) -> None:
        ana = sign_up()
        eve = sign_up(ana.email)
        assert verify(mailed(eve.id, "verify_email"), by=eve).status == 200
        for _ in range(2):
            late = verify(mailed(ana.id, "verify_email"), by=ana)
            assert (late.status, late.code) == (409, "email_taken")
        assert call("POST", "/signup", {"email": ana.email, "password": PASSWORD}).code == (
            "email_taken"
        )

    def test_sent_again(self) -> None:
        """The newer link replaces the older one; three mails an hour and no more."""
        ana = sign_up()
        first = mailed(ana.id, "verify_email")
        for _ in range(4):
            assert ana.asks("POST", "/email/verification").status == 202
        assert mails(ana.id, "verify_email") == 3
        assert verify(first, by=ana).code == "link_expired"
        assert verify(mailed(ana.id, "verify_email"), by=ana).status == 200
        assert ana.asks("POST", "/email/verification").status == 202
        assert mails(ana.id, "verify_email") == 3


class TestAccount:
    def test_is_shown(self) -> None:
        ana = sign_up(name="Ana")
        shown = ana.account
        assert shown == {
            "id": ana.id,
            "email": ana.email,
            "email_verified": False,
            "next_email": None,
            "name": "Ana",
            "own_account": True,
            "created_at": shown["created_at"],
        }

    def test_a_name(self) -> None:
        ana = sign_up(name="Ana")
        assert ana.asks("PATCH", "/account", {}).json["account"]["name"] == "Ana"
        assert ana.asks("PATCH", "/account", {"name": "A."}).json["account"]["name"] == "A."
        assert ana.asks("PATCH", "/account", {"name": None}).json["account"]["name"] is None

    def test_another_address_counts_once_it_is_confirmed(self) -> None:
        """The old one stays until then, and is told."""
        ana = sign_up(verified=True)
        old, new = ana.email, address()
        changed = ana.asks("PATCH", "/account", {"email": new, "current_password": PASSWORD})
        assert changed.status == 200
        shown = changed.json["account"]
        assert (shown["email"], shown["next_email"]) == (old, new)
        assert (sign_in(old).status, sign_in(new).status) == (200, 401)
        assert mails(ana.id, "email_changed_notice") == 0
        confirmed = verify(mailed(ana.id, "email_changing"), by=ana).json["account"]
        assert (confirmed["email"], confirmed["next_email"]) == (new, None)
        assert (sign_in(old).status, sign_in(new).status) == (401, 200)
        told = wiring.database().one(
            "select address from mails where user_id = %s and kind = 'email_changed_notice'",
            [ana.id],
        )
        assert told == {"address": old}

    def test_needs_the_password(self) -> None:
        """A stolen session cannot move the account to another address."""
        ana = sign_up(verified=True)
        missing = ana.asks("PATCH", "/account", {"email": address()})
        assert (missing.status, missing.json["errors"][0]["field"]) == (422, "current_password")
        wrong = {"email": address(), "current_password": "no such password"}
        assert ana.asks("PATCH", "/account", wrong).code == "invalid_credentials"
        assert mails(ana.id, "email_changing") == 0

    def test_the_link_alone_moves_no_account(self) -> None:
        """Else a stranger's account would take the address of whoever opens its mail."""
        eve, victim = sign_up(verified=True), address()
        eve.asks("PATCH", "/account", {"email": victim, "current_password": PASSWORD})
        assert verify(mailed(eve.id, "email_changing")).code == "unauthenticated"

    def test_an_address_that_is_taken(self) -> None:
        """The answer to the request does not tell; the link does, to the owner of the mailbox."""
        ana, ben = sign_up(verified=True), sign_up(verified=True)
        asked = ana.asks("PATCH", "/account", {"email": ben.email, "current_password": PASSWORD})
        assert asked.status == 200
        assert verify(mailed(ana.id, "email_changing"), by=ana).code == "email_taken"
        assert ana.account["email"] == ana.email

    def test_the_audit_trail_has_it(self) -> None:
        """What was asked for, and that it came true."""
        ana = sign_up(verified=True)
        ana.asks("PATCH", "/account", {"email": address(), "current_password": PASSWORD})
        verify(mailed(ana.id, "email_changing"), by=ana)
        assert written(ana)[:2] == [("email.changed", "done"), ("email.change_asked", "done")]

    def test_a_typing_error_at_sign_up(self) -> None:
        """An unverified account moves as well; the address it never had is told nothing."""
        ana = sign_up()
        new = address()
        ana.asks("PATCH", "/account", {"email": new, "current_password": PASSWORD})
        assert verify(mailed(ana.id, "email_changing"), by=ana).status == 200
        assert verify(mailed(ana.id, "verify_email"), by=ana).code == "link_expired"
        assert (ana.account["email"], ana.account["email_verified"]) == (new, True)
        assert mails(ana.id, "email_changed_notice") == 0

    def test_the_service_is_not_its_user(self) -> None:
        assert call("GET", "/account", token=KEY).code == "unauthenticated"


class TestPassword:
    def change(self, person: Person, old: str = PASSWORD, new: str = NEW_PASSWORD) -> Answer:
        return person.asks("POST", "/password", {"current_password": old, "password": new})

    def test_ends_all_other_sessions(self) -> None:
        ana = sign_up(verified=True)
        other = Person(ana.email, ana.id, sign_in(ana.email).json["session"]["token"])
        assert self.change(ana).status == 204
        assert (ana.is_in(), other.is_in()) == (True, False)
        assert sign_in(ana.email).code == "invalid_credentials"
        assert sign_in(ana.email, NEW_PASSWORD).status == 200
        assert mails(ana.id, "password_changed") == 1

    def test_needs_the_current_one(self) -> None:
        ana = sign_up(verified=True)
        assert self.change(ana, old="no such password").code == "invalid_credentials"
        assert sign_in(ana.email).status == 200

    def test_is_no_way_to_guess(self) -> None:
        """A stolen session tries no more passwords than a stranger."""
        ana = sign_up(verified=True)
        sends = json.dumps({"current_password": "wrong", "password": NEW_PASSWORD})
        headers = {"content-type": "application/json", "authorization": f"Bearer {ana.token}"}
        request = event("POST", "/password", sends, headers, [])
        limit = sign_in_limits.BY_ADDRESS_AND_ACCOUNT.count
        statuses = [ask(account, request).status for _ in range(2 * limit + 1)]
        assert statuses[:limit] == [401] * limit
        assert statuses[-1] == 429

    @pytest.mark.parametrize(
        ("weak", "code"),
        [
            ("Northbeam2026!", "too_easy_to_guess"),
            ("12northbeam34", "too_easy_to_guess"),
            ("maria.kowalska1", "too_easy_to_guess"),
            ("Maria_Kowalska", "too_easy_to_guess"),
            ("mail-of-maria.example", "too_easy_to_guess"),
            ("password", "too_common"),
            ("ﬁﬁ" + "e\u0301" * 3, "string_too_short"),
        ],
    )
    def test_context_words(self, weak: str, code: str) -> None:
        email = "maria.kowalska@mail-of-maria.example"
        answer = call("POST", "/signup", {"email": email, "password": weak})
        assert (answer.status, answer.json["errors"][0]["code"]) == (422, code)

    def test_longer_words_may_have_them(self) -> None:
        """A passphrase is good although it has the product's name in it."""
        assert sign_up(password="northbeam sails at dawn").is_in()

    def test_however_it_is_typed(self) -> None:
        """One keyboard sends é as one character, another one as two."""
        ana = sign_up(password=unicodedata.normalize("NFD", "café au lait ½"))
        prove_address(ana.id, ana.token)
        assert (
            sign_in(ana.email, unicodedata.normalize("NFC", "café au lait 1\u20442")).status == 200
        )

    def test_is_good_for_ever(self) -> None:
        """Nobody has to change it because of its age."""
        ana = sign_up(verified=True)
        wiring.database().execute(
            "update passwords set changed_at = now() - interval '9 years' where user_id = %s",
            [ana.id],
        )
        assert sign_in(ana.email).status == 200

    def test_is_hashed_anew_when_parameters_rise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ana = sign_up(verified=True)
        stored = "select hash from passwords where user_id = %s"
        before = wiring.database().value(stored, [ana.id])
        monkeypatch.setattr(passwords, "_hasher", PasswordHasher(3, 8 * 1024, 1))
        assert sign_in(ana.email, "no such password").status == 401
        assert wiring.database().value(stored, [ana.id]) == before
        assert sign_in(ana.email).status == 200
        after = wiring.database().value(stored, [ana.id])
        assert "m=8192,t=3,p=1" in after
        assert sign_in(ana.email).status == 200
        assert wiring.database().value(stored, [ana.id]) == after


class TestForgotten:
    def forget(self, email: str) -> Answer:
        return call("POST", "/password/forgot", {"email": email})

    def reset(self, token: str, password: str = NEW_PASSWORD) -> Answer:
        return call("POST", "/password/reset", {"token": token, "password": password})

    def test_the_audit_trail_has_it(self) -> None:
        """That a link was sent. A request about nobody's address leaves nothing."""
        ana = sign_up(verified=True)
        before = len(written(ana))
        assert self.forget(ana.email).status == 202
        assert written(ana)[0] == ("password.reset_asked", "done")
        for _ in range(5):  # three links an hour are sent
            self.forget(ana.email)
        assert len(written(ana)) == before + 3
        count = "select count(*) from audit where action = 'password.reset_asked'"
        asked = wiring.database().value(count)
        self.forget(address())
        assert wiring.database().value(count) == asked

    def test_a_new_password(self) -> None:
        """All sessions end, none is opened, and an address that waits is forgotten."""
        ana = sign_up(verified=True)
        ana.asks("PATCH", "/account", {"email": address(), "current_password": PASSWORD})
        assert self.forget(ana.email.upper()).status == 202
        answer = self.reset(mailed(ana.id, "reset_password"))
        assert (answer.status, answer.text, answer.cookies) == (204, "", [])
        assert not ana.is_in()
        assert sign_in(ana.email).status == 401
        ana.token = sign_in(ana.email, NEW_PASSWORD).json["session"]["token"]
        assert ana.account["next_email"] is None
        assert verify(mailed(ana.id, "email_changing"), by=ana).code == "link_expired"
        assert mails(ana.id, "password_changed") == 1

    def test_nobody_learns_who_has_an_account(self) -> None:
        """The same answer after the same time."""
        ana = sign_up(verified=True)
        answers, times = [], []
        for email in (ana.email, address()):
            began = time.monotonic()
            answers.append(self.forget(email))
            times.append(time.monotonic() - began)
        assert answers[0] == answers[1]
        assert answers[0].status == 202
        assert min(times) >= account_answers._ALIKE

    def test_a_user_of_a_product_has_no_password(self) -> None:
        email, user = address(), uuid4().hex
        call("PUT", f"/users/{user}", {"email": email}, token=KEY)
        assert self.forget(email).status == 202
        assert mails(user, "reset_password") == 0

    def test_once_and_for_half_an_hour(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ana = sign_up(verified=True)
        self.forget(ana.email)
        token = mailed(ana.id, "reset_password")
        now = wiring.now()
        with monkeypatch.context() as later:
            later.setattr(wiring, "now", lambda: now + timedelta(minutes=30, seconds=1))
            assert self.reset(token).code == "link_expired"
        assert self.reset(token).status == 204
        assert self.reset(token, PASSWORD).code == "link_expired"
        assert sign_in(ana.email, NEW_PASSWORD).status == 200

    def test_a_weak_password_uses_no_link_up(self) -> None:
        ana = sign_up(verified=True)
        self.forget(ana.email)
        token = mailed(ana.id, "reset_password")
        assert self.reset(token, "password").code == "invalid_request"
        assert self.reset(token).status == 204

    def test_proves_the_address(self) -> None:
        """Whoever made the unverified account loses it, and what they said of themselves goes."""
        eve = sign_up(name="Ana, your bank")
        self.forget(eve.email)
        assert self.reset(mailed(eve.id, "reset_password")).status == 204
        assert not eve.is_in()
        signed_in = sign_in(eve.email, NEW_PASSWORD)
        assert (signed_in.status, signed_in.json["user"]["name"]) == (200, None)

    def test_goes_to_the_verified_account(self) -> None:
        """Not to an unverified one that a stranger made later with the same address."""
        eve = sign_up()
        ana = sign_up(eve.email, verified=True)
        self.forget(ana.email)
        assert (mails(ana.id, "reset_password"), mails(eve.id, "reset_password")) == (1, 0)

    def test_an_address_that_was_changed(self) -> None:
        """A link in the old mailbox does nothing any more."""
        ana = sign_up(verified=True)
        self.forget(ana.email)
        token = mailed(ana.id, "reset_password")
        ana.asks("PATCH", "/account", {"email": address(), "current_password": PASSWORD})
        assert verify(mailed(ana.id, "email_changing"), by=ana).status == 200
        assert self.reset(token).code == "link_expired"

    def test_mails_of_one_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sign_in_limits, "MAILS_BY_ADDRESS", Limit(2, timedelta(days=1)))
        source = f"2001:db8:{uuid4().hex[:4]}:{uuid4().hex[:4]}::1"
        statuses = []
        for _ in range(3):
            body = json.dumps({"email": address()})
            headers = {"content-type": "application/json"}
            request = event("POST", "/password/forgot", body, headers, [])
            request["requestContext"]["http"]["sourceIp"] = source
            statuses.append(ask(account, request).status)
        assert statuses == [202, 202, 429]


class TestSessions:
    def test_the_list(self) -> None:
        """This one first. It names devices, and has neither tokens nor networks."""
        ana = sign_up(verified=True)
        body = json.dumps({"email": ana.email, "password": PASSWORD})
        firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
        headers = {"content-type": "application/json", "user-agent": firefox}
        other = ask(session, event("POST", "/login", body, headers, [])).json["session"]["token"]
        answer = ana.asks("GET", "/sessions")
        mine, theirs = answer.json["sessions"]
        assert (mine["current"], mine["device"]) == (True, None)
        assert (theirs["current"], theirs["device"]) == (False, "Firefox on Linux")
        assert set(mine) == {
            "id", "current", "device", "created_at", "last_seen_at", "expires_at"
        }  # fmt: skip
        assert other not in answer.text
        assert "ses_" not in answer.text

    def test_one_ends(self) -> None:
        ana = sign_up(verified=True)
        other = Person(ana.email, ana.id, sign_in(ana.email).json["session"]["token"])
        theirs = ana.asks("GET", "/sessions").json["sessions"][1]["id"]
        assert ana.asks("DELETE", f"/sessions/{theirs}").status == 204
        assert (ana.is_in(), other.is_in()) == (True, False)
        assert ana.asks("DELETE", f"/sessions/{theirs}").code == "session_not_found"

    @pytest.mark.parametrize("as_cookie", [True, False])
    def test_a_sign_in_replaces_the_session_it_came_with(self, *, as_cookie: bool) -> None:
        """Another person's too: it was this browser's."""
        ana, ben = sign_up(verified=True), sign_up(verified=True)
        body = {"email": ben.email, "password": PASSWORD}
        wrong = body | {"password": "no such password"}
        sent: dict[str, Any] = {"token": ana.token}
        if as_cookie:
            sent = {"cookie": f"__Host-session={ana.token}", "origin": ORIGIN}
        assert call("POST", "/login", wrong, **sent).status == 401
        assert ana.is_in()
        assert call("POST", "/login", body, **sent).status == 200
        assert not ana.is_in()
        assert ben.is_in()

    def test_nobody_ends_anothers(self) -> None:
        ana, eve = sign_up(), sign_up()
        (hers,) = ana.asks("GET", "/sessions").json["sessions"]
        assert eve.asks("DELETE", f"/sessions/{hers['id']}").code == "session_not_found"
        assert ana.is_in()

    def test_all_others_end(self) -> None:
        ana, ben = sign_up(verified=True), sign_up(verified=True)
        others = [
            Person(ana.email, ana.id, sign_in(ana.email).json["session"]["token"]) for _ in range(2)
        ]
        assert ana.asks("DELETE", "/sessions").status == 204
        assert [each.is_in() for each in (ana, ben, *others)] == [True, True, False, False]


class TestGuessing:
    def guess(self, email: str, times: int) -> None:
        """Wrong passwords from many networks, as 117 were tried from 13 addresses."""
        for n in range(times):
            assert sign_in(email, "wrong", f"198.51.{n // 250}.{n % 250}").status in (401, 403)

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr(sign_in_limits, "FAILURES_OF_ACCOUNT", Limit(5, timedelta(days=1)))
        return 5

    def test_rings_once(self, few: int, capsys: pytest.CaptureFixture[str]) -> None:
        ana = sign_up(verified=True)
        self.guess(ana.email, few - 1)
        assert "AccountsGuessed" not in counted(capsys)
        self.guess(ana.email, 3)
        assert counted(capsys)["AccountsGuessed"] == 1

    def test_a_new_network_needs_a_link(self, few: int) -> None:
        """The mail is the second proof; and the network is known from then on."""
        ana = sign_up(verified=True)
        self.guess(ana.email, few)
        refused = sign_in(ana.email, source="203.0.113.9")
        assert (refused.status, refused.code) == (403, "sign_in_link_required")
        token = mailed(ana.id, "sign_in_link")
        back = call("POST", "/login/link", {"token": token})
        assert (back.status, back.json["user"]["id"]) == (200, ana.id)
        assert Person("", "", back.json["session"]["token"]).is_in()
        assert call("POST", "/login/link", {"token": token}).code == "link_expired"

    def test_the_link_is_good_for_ten_minutes(
        self, few: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ana = sign_up(verified=True)
        self.guess(ana.email, few)
        sign_in(ana.email, source="203.0.113.9")
        token, now = mailed(ana.id, "sign_in_link"), wiring.now()
        with monkeypatch.context() as later:
            later.setattr(wiring, "now", lambda: now + timedelta(minutes=10, seconds=1))
            assert call("POST", "/login/link", {"token": token}).code == "link_expired"
        assert call("POST", "/login/link", {"token": token}).status == 200

    def test_the_network_of_the_link_is_known(self, few: int) -> None:
        """And not the network that asked for the link: that may have been the stranger."""
        ana = sign_up(verified=True)
        self.guess(ana.email, few)
        sign_in(ana.email, source="203.0.113.9")
        body = json.dumps({"token": mailed(ana.id, "sign_in_link")})
        request = event("POST", "/login/link", body, {"content-type": "application/json"}, [])
        request["requestContext"]["http"]["sourceIp"] = "203.0.113.10"
        assert ask(session, request).status == 200
        assert sign_in(ana.email, source="203.0.113.10").status == 200
        assert sign_in(ana.email, source="203.0.113.9").code == "sign_in_link_required"

    def test_known_networks_go_on(self, few: int) -> None:
        ana = sign_up(verified=True)
        assert sign_in(ana.email, source="203.0.113.9").status == 200
        self.guess(ana.email, few)
        assert sign_in(ana.email, source="203.0.113.9").status == 200
        assert sign_in(ana.email, "wrong", "203.0.113.9").code == "sign_in_link_required"
        assert mails(ana.id, "sign_in_link") == 0

    def test_nobody_learns_the_password_by_it(self, few: int) -> None:
        """Right, wrong, and of nobody: one answer. Only the right one sends a mail."""
        ana, nobody = sign_up(verified=True), address()
        for email in (ana.email, nobody):
            self.guess(email, few)
        answers = [
            sign_in(ana.email, PASSWORD, "203.0.113.1"),
            sign_in(ana.email, "wrong", "203.0.113.2"),
            sign_in(nobody, PASSWORD, "203.0.113.3"),
        ]
        assert answers[0] == answers[1] == answers[2]
        assert mails(ana.id, "sign_in_link") == 1

    def test_a_day_later(self, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
        ana = sign_up(verified=True)
        self.guess(ana.email, few)
        now = wiring.now()
        monkeypatch.setattr(wiring, "now", lambda: now + timedelta(days=1))
        assert sign_in(ana.email).status == 200
