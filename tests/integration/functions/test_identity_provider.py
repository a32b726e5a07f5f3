"""Tokens of an identity provider at the front door: the functions' handlers, a real issuer."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from billing import wiring
from billing.errors import Forbidden
from billing.http import api, dashboard_answers
from functions.dashboard import app as dashboard
from tests.environments import forget
from tests.integration.functions import documented
from tests.integration.functions.calling import Answer, call, service_key, start
from tests.integration.functions.test_api import counted, signed_up
from tests.issuer import AUDIENCE, Issuer, ec_key, issuing

pytestmark = pytest.mark.handlers

KEY = "svc_app_" + "a" * 64

Environment = Callable[..., None]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> Iterator[Environment]:
    """A fresh environment of a stack that has this identity provider."""
    keys = [service_key("app", KEY, "read", "billing:manage", "users:manage")]

    def begin(**changes: str) -> None:
        told = {"OIDC_ISSUER": issuer.url, "OIDC_AUDIENCE": AUDIENCE}
        start(monkeypatch, migrated_url, keys, told | changes)

    begin()
    yield begin
    forget()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(api.logger.registered_handler, "stream", stream)
    return stream


def subject() -> str:
    return uuid4().hex


def seen(token: str) -> Answer:
    return call("GET", "/dashboard", token=token)


class TestComingIn:
    def test_the_first_token_makes_the_user(self, issuer: Issuer) -> None:
        who, email = subject(), f"{subject()}@example.com"
        answer = seen(issuer.token(who, email=email, name="Ana"))
        assert answer.status == 200
        user = answer.json["user"]
        assert user == {"id": user["id"], "email": email, "name": "Ana"}
        assert user["id"].startswith("usr_")
        assert seen(issuer.token(who)).json["user"] == user
        assert len(issuer.asked) == 2

    def test_a_bad_token(
        self, issuer: Issuer, log: io.StringIO, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """401 as RFC 6750 has it, a line with the reason, a metric, and the token nowhere."""
        token = issuer.token(subject(), exp=int(time.time()) - 3600)
        capsys.readouterr()
        answer = seen(token)
        assert (answer.status, answer.code) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        printed = capsys.readouterr()
        assert '"TokensRefused":[1.0]' in printed.out.replace(" ", "")
        parts = token.split(".")
        assert len(parts) == 3
        for part in parts:
            assert part not in answer.text + log.getvalue() + printed.out + printed.err

    def test_without_a_provider_no_token_is_accepted(
        self, issuer: Issuer, environment: Environment
    ) -> None:
        environment(OIDC_ISSUER="", OIDC_AUDIENCE="")
        assert seen(issuer.token(subject())).code == "unauthenticated"
        assert issuer.asked == []

    def test_without_an_audience_nobody_comes_in(
        self, issuer: Issuer, environment: Environment
    ) -> None:
        """A token for another product of the same provider is none for us."""
        environment(OIDC_AUDIENCE=" , ")
        assert seen(issuer.token(subject())).code == "unauthenticated"

    def test_one_of_several_audiences(self, issuer: Issuer, environment: Environment) -> None:
        environment(OIDC_AUDIENCE="page, app")
        assert [seen(issuer.token("ana", aud=a)).status for a in ("page", "app", "other")] == [
            200,
            200,
            401,
        ]

    def test_the_cookie_is_for_sessions_only(self, issuer: Issuer) -> None:
        """A browser sends a cookie by itself, so another site could have it sent."""
        answer = call("GET", "/dashboard", cookie=f"__Host-session={issuer.token(subject())}")
        assert answer.code == "unauthenticated"

    def test_a_session_goes_on_beside_it(self) -> None:
        assert seen(signed_up().json["session"]["token"]).status == 200


class TestRights:
    def test_it_acts_for_its_own_user_only(self, issuer: Issuer) -> None:
        other = seen(issuer.token(subject())).json["user"]["id"]
        token = issuer.token(subject())
        answer = call("GET", f"/invoices?user_id={other}", token=token)
        assert (answer.status, answer.code) == (403, "forbidden")

    def test_it_is_no_service_key(self, issuer: Issuer) -> None:
        answer = call("GET", f"/users/{subject()}/dashboard", token=issuer.token(subject()))
        assert (answer.status, answer.code) == (403, "service_key_required")

    def test_there_is_no_session_to_end(self, issuer: Issuer) -> None:
        answer = call("POST", "/logout", token=issuer.token(subject()))
        assert (answer.status, answer.code) == (403, "own_account_required")

    def test_without_an_address_there_is_no_checkout(self, issuer: Issuer) -> None:
        """Until the product sets one."""
        token = issuer.token(subject())
        answer = call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token)
        assert (answer.status, answer.code) == (409, "email_missing")
        user = seen(token).json["user"]
        assert user["email"] is None
        email = f"{subject()}@example.com"
        put = call("PUT", f"/users/{user['id']}", {"email": email}, token=KEY)
        assert (put.status, put.json["user"]["email"]) == (200, email)
        answer = call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token)
        assert answer.code == "billing_provider_unavailable"  # nobody is at Commet in these tests

    def test_plans_know_who_asks_and_need_nobody(self, issuer: Issuer) -> None:
        """A token that is not good any more is a stranger's."""
        for token in (issuer.token(subject()), issuer.token(exp=1), None):
            assert call("GET", "/plans", token=token).code == "billing_provider_unavailable"
        issuer.is_down = True
        token = issuer.token(key=ec_key("new"))
        assert call("GET", "/plans", token=token).code == "billing_provider_unavailable"


class TestFinding:
    def test_the_product_finds_its_user(self, issuer: Issuer) -> None:
        who = f"auth0|{subject()}"
        query = f"/users?iss={quote(issuer.url, safe='')}&sub={quote(who)}"
        unknown = call("GET", query, token=KEY)
        assert (unknown.status, unknown.code) == (404, "unknown_user")
        user = seen(issuer.token(who)).json["user"]
        assert call("GET", query, token=KEY).json == {"user": user}

    def test_nobody_else_does(self, issuer: Issuer) -> None:
        query = f"/users?iss={issuer.url}&sub=x"
        assert call("GET", query, token=issuer.token(subject())).code == "service_key_required"
        assert call("GET", query).code == "unauthenticated"

    @pytest.mark.parametrize("query", ["iss=a", "sub=a", "iss=&sub=a", "iss=a&sub=b&sub=c", ""])
    def test_both_are_needed(self, query: str) -> None:
        assert call("GET", f"/users?{query}", token=KEY).code == "invalid_request"

    @pytest.mark.parametrize("sub", ["%00", "a%0Ab", "%ED%A0%80"])
    def test_what_no_subject_can_be_is_unknown(self, sub: str) -> None:
        assert call("GET", f"/users?iss=a&sub={sub}", token=KEY).status in (404, 422)


class TestTheProvider:
    def test_it_changes_its_key(self, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
        who = subject()
        before = seen(issuer.token(who)).json["user"]
        issuer.rotate(ec_key("new"))
        later = time.monotonic() + 61
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: later)
            patch.setattr(wiring.identity_tokens()._keys, "_clock", lambda: later)
            assert seen(issuer.token(who)).json["user"] == before

    def test_it_is_down_before_the_first_token(
        self, issuer: Issuer, log: io.StringIO, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not 401: the person is not sent away. And no alarm of ours that says we are broken."""
        issuer.is_down = True
        capsys.readouterr()
        answer = seen(issuer.token(subject()))
        assert (answer.status, answer.code) == (503, "identity_provider_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        found = counted(capsys)
        assert found == {"IdentityProviderFailed": 1}
        assert "Traceback" not in log.getvalue()

    def test_it_is_down_after_the_first_token(self, issuer: Issuer) -> None:
        who = subject()
        seen(issuer.token(who))
        issuer.is_down = True
        assert seen(issuer.token(who)).status == 200

    def test_a_key_of_nobodys(self, issuer: Issuer) -> None:
        seen(issuer.token(subject()))
        answer = seen(issuer.token(subject(), key=ec_key("mine")))
        assert (answer.status, answer.code) == (401, "unauthenticated")

    def test_services_and_sessions_do_not_need_it(self, issuer: Issuer) -> None:
        issuer.is_down = True
        token = signed_up().json["session"]["token"]
        assert seen(token).status == 200
        assert issuer.asked == []


class TestOwnContact:
    """`PATCH /account` with a token: there is no password, so the token has to be recent."""

    def put(self, token: str, email: str) -> Answer:
        return call("PATCH", "/account", {"email": email}, token=token)

    @pytest.mark.parametrize("verified", [True, False])
    def test_an_address_that_the_provider_proved(
        self,
        issuer: Issuer,
        verified: bool,  # noqa: FBT001
    ) -> None:
        """The account says so, until another address takes its place."""
        email = f"{subject()}@example.com"
        token = issuer.token(subject(), email=email, email_verified=verified)
        shown = call("GET", "/account", token=token).json["account"]
        assert (shown["email"], shown["email_verified"]) == (email, verified)
        changed = self.put(token, f"{subject()}@example.com").json["account"]
        assert changed["email_verified"] is False

    def test_an_address_counts_at_once(self, issuer: Issuer) -> None:
        """And a checkout goes on. It proves nothing, and no mail is sent."""
        token, email = issuer.token(subject()), f"{subject()}@example.com"
        changed = self.put(token, email)
        assert changed.status == 200, changed.text
        account = changed.json["account"]
        assert (account["email"], account["next_email"]) == (email, None)
        assert (account["own_account"], account["email_verified"]) == (False, False)
        answer = call("POST", "/checkout", {"plan_code": "usage_pro"}, token=token)
        assert answer.code == "billing_provider_unavailable"  # nobody is at Commet in these tests
        db, user = wiring.database(), account["id"]
        assert db.value("select count(*) from mails where user_id = %s", [user]) == 0
        assert db.value("select is_address_proven(%s, %s)", [user, email]) is False
        _, changing, *_ = call("GET", "/account/audit", token=token).json["entries"]
        assert (changing["action"], changing["actor"]) == ("account.changed", user)
        assert changing["network"] is not None

    def test_with_the_name(self, issuer: Issuer) -> None:
        token, email = issuer.token(subject(), name="Ana"), f"{subject()}@example.com"
        answer = call("PATCH", "/account", {"email": email, "name": None}, token=token)
        assert (answer.json["account"]["email"], answer.json["account"]["name"]) == (email, None)

    @pytest.mark.parametrize("times", [{"iat": -620}, {"iat": -10, "auth_time": -620}])
    def test_an_older_token_changes_no_address(self, issuer: Issuer, times: dict[str, int]) -> None:
        """It may be stolen, or left on a machine. The name needs no proof, as with a session."""
        now = int(time.time())
        claims: dict[str, Any] = {name: now + seconds for name, seconds in times.items()}
        token = issuer.token(subject(), **claims)
        answer = self.put(token, f"{subject()}@example.com")
        assert (answer.status, answer.code) == (403, "recent_sign_in_required")
        account = call("PATCH", "/account", {"name": "Ana"}, token=token).json["account"]
        assert (account["email"], account["name"]) == (None, "Ana")

    def test_the_provider_has_the_last_word(self, issuer: Issuer) -> None:
        """The address that the provider told before takes nothing back; another one does."""
        who, told = subject(), f"{subject()}@example.com"
        mine, next_told = f"{subject()}@example.com", f"{subject()}@example.com"
        token = issuer.token(who, email=told, email_verified=True)
        assert self.put(token, mine).json["account"]["email"] == mine
        assert seen(token).json["user"]["email"] == mine
        assert seen(issuer.token(who, email=next_told)).json["user"]["email"] == next_told

    def test_the_products_key_sets_it_too(self, issuer: Issuer) -> None:
        """Who comes last counts."""
        token = issuer.token(subject())
        user = self.put(token, f"{subject()}@example.com").json["account"]["id"]
        by_key = f"{subject()}@example.com"
        assert call("PATCH", f"/users/{user}", {"email": by_key}, token=KEY).status == 200
        assert seen(token).json["user"]["email"] == by_key
        mine = f"{subject()}@example.com"
        assert self.put(token, mine).json["account"]["email"] == mine

    def test_it_claims_nothing(self, issuer: Issuer) -> None:
        """Neither from an account that has the address, nor against one that comes later."""
        ana = signed_up().json["user"]
        assert self.put(issuer.token(subject()), ana["email"]).status == 200
        later = f"{subject()}@example.com"
        self.put(issuer.token(subject()), later)
        body = {"email": later, "password": "a long walk home"}
        assert call("POST", "/signup", body).status == 201

    def test_a_session_still_needs_the_password(self) -> None:
        token = signed_up().json["session"]["token"]
        assert self.put(token, f"{subject()}@example.com").code == "invalid_request"


class TestRecentSignIn:
    """`api.recently_authenticated`, for routes where others type their password."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the helper says, called by a route."""
        found: list[Any] = []

        def ask(*_: object) -> Any:
            try:
                found.append(api.recently_authenticated(dashboard.app))
            except Forbidden as error:
                found.append(error.code)
            return {}

        monkeypatch.setattr(dashboard_answers, "dashboard", ask)
        monkeypatch.setattr(documented, "check", lambda *_: None)  # what it answers is no dashboard
        return found

    @pytest.mark.parametrize(
        ("claims", "verdict"),
        [
            ({"iat": -590}, True),
            ({"iat": -620}, "recent_sign_in_required"),
            ({"iat": -10, "auth_time": -590}, True),
            ({"iat": -10, "auth_time": -620}, "recent_sign_in_required"),
            ({"iat": 0, "auth_time": 10**6}, True),
            ({"iat": -620, "auth_time": 0}, "recent_sign_in_required"),
        ],
    )
    def test_ten_minutes(
        self, issuer: Issuer, asked: list[Any], claims: dict[str, int], verdict: object
    ) -> None:
        now = int(time.time())
        times: dict[str, Any] = {name: now + seconds for name, seconds in claims.items()}
        seen(issuer.token(subject(), **times))
        assert asked == [verdict]

    def test_a_session_shows_nothing(self, asked: list[Any]) -> None:
        seen(signed_up().json["session"]["token"])
        assert asked == [False]


class TestOwnAccountsOff:
    def test_their_routes_are_not_there(self, environment: Environment, issuer: Issuer) -> None:
        """For nobody: not with a session from before, and a bad body is not read."""
        token = signed_up().json["session"]["token"]
        environment(OWN_ACCOUNTS="false")
        for path in ("/signup", "/login", "/logout"):
            for body, who in (({"email": 1}, None), ({}, token), ({}, issuer.token(subject()))):
                answer = call("POST", path, body, token=who)
                assert (answer.status, answer.code) == (404, "not_found")
        assert seen(issuer.token(subject())).status == 200

    def test_sessions_from_before_are_not_good_any_more(self, environment: Environment) -> None:
        token = signed_up().json["session"]["token"]
        environment(OWN_ACCOUNTS="false")
        assert seen(token).code == "unauthenticated"


def test_a_token_in_basic_or_in_a_query_is_none(issuer: Issuer) -> None:
    token = issuer.token(subject())
    basic = base64.b64encode(f"{token}:".encode()).decode()
    assert call("GET", "/dashboard", authorization=f"Basic {basic}").code == "unauthenticated"
    assert call("GET", f"/dashboard?access_token={token}").code == "unauthenticated"
