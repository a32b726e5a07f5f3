"""The HTTP functions in this process: who is let in, what is refused, what is never told."""

import base64
import gzip
import hashlib
import hmac
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from billing import wiring
from billing.accounts import networks, passwords, sign_in_limits, signing_in
from billing.accounts.limits import Limit
from billing.database.connection import Connection, Database
from billing.errors import AccessUnconfirmed
from billing.http import api, dashboard_answers, sign_in
from functions.session import app as session
from functions.signup import app as signup
from functions.webhook import app as webhook
from tests.environments import forget
from tests.integration.billing.signed import state
from tests.integration.conftest import Context
from tests.integration.functions import documented
from tests.integration.functions.calling import (
    ORIGIN,
    SPELLINGS,
    WEBHOOK_SECRET,
    Answer,
    Spell,
    ask,
    call,
    event,
    prove_address,
    service_key,
    start,
)

pytestmark = pytest.mark.handlers

PASSWORD = "correct horse battery staple"
KEY = "svc_app_" + "a" * 64

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """A fresh environment of a function; called again with other settings it is another one."""

    def begin(**changes: str) -> None:
        start(monkeypatch, migrated_url, [service_key("app", KEY, "read")], changes)

    monkeypatch.setattr(webhook.metrics.provider, "namespace", "test")
    begin()
    yield begin
    forget()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What api logs."""
    stream = io.StringIO()
    monkeypatch.setattr(api.logger.registered_handler, "stream", stream)
    return stream


def address() -> str:
    return f"{uuid4().hex[:12]}@example.com"


def signed_up(*, verified: bool = True, **fields: Any) -> Answer:
    answer = call("POST", "/signup", {"email": address(), "password": PASSWORD} | fields)
    assert answer.status == 201
    if verified:
        token = (
            answer.json["session"]["token"] or answer.cookies[0].partition(";")[0].partition("=")[2]
        )
        prove_address(answer.json["user"]["id"], token)
    return answer


@pytest.fixture
def token() -> str:
    return str(signed_up().json["session"]["token"])


class TestStory:
    def test_up_out_and_in(self) -> None:
        """Sign up, look, sign out, sign in again."""
        email = address()
        up = signed_up(email=email, name="Ana")
        assert up.json["user"] == {
            "id": up.json["user"]["id"], "email": email, "name": "Ana"
        }  # fmt: skip
        token = up.json["session"]["token"]
        seen = call("GET", "/dashboard", token=token)
        assert seen.status == 200
        assert (seen.json["user"], seen.json["access"]) == (up.json["user"], False)
        assert (seen.json["subscription"], seen.json["usage"]) == (None, [])
        assert seen.headers["cache-control"] == "no-store"
        assert call("POST", "/logout", token=token).status == 204
        assert call("GET", "/dashboard", token=token).code == "unauthenticated"
        back = call("POST", "/login", {"email": email.upper(), "password": PASSWORD})
        assert back.status == 200
        assert back.json["user"] == up.json["user"]
        assert back.json["session"]["token"] != token

    def test_taken(self) -> None:
        """The same address in other case."""
        email = address()
        signed_up(email=email)
        second = call("POST", "/signup", {"email": email.upper(), "password": PASSWORD})
        assert (second.status, second.code) == (409, "email_taken")

    def test_wrong_and_unknown(self) -> None:
        """Not to be told apart."""
        email = address()
        signed_up(email=email)
        answers = [
            call("POST", "/login", {"email": each, "password": "wrong password"})
            for each in (email, address())
        ]
        assert {answer.code for answer in answers} == {"invalid_credentials"}
        assert answers[0].text == answers[1].text
        assert answers[0].headers == answers[1].headers


class TestAdmission:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/checkout"), ("POST", "/portal"), ("GET", "/portal"), ("GET", "/dashboard"),
         ("POST", "/logout"), ("GET", "/users/usr_1/dashboard"), ("PUT", "/users/usr_1")],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "credentials",
        [{}, {"token": "ses_" + "0" * 64}, {"token": "svc_" + "0" * 64}, {"token": "nonsense"},
         {"authorization": "Basic dXNlcjpwYXNz"}, {"authorization": "Bearer"},
         {"authorization": "Bearer "}, {"cookie": "session=ses_" + "0" * 64}],
        ids=range(8),
    )  # fmt: skip
    def test_strangers(self, method: str, path: str, credentials: dict[str, Any]) -> None:
        """Nobody we know is told so before the body is even looked at."""
        answer = call(method, path, text="{nonsense", **credentials)
        assert (answer.status, answer.code) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "errors" not in answer.json

    def test_the_body_comes_second(self, token: str) -> None:
        """A stranger learns nothing of type and size either; who we know is told."""
        for sent in ({"text": "x", "content_type": "text/plain"}, {"text": "x" * 100_000}):
            assert call("POST", "/checkout", **sent).status == 401  # type: ignore[arg-type]
            assert call("POST", "/checkout", **sent, token=token).status in (413, 415)  # type: ignore[arg-type]
        assert call("POST", "/checkout", text="{nonsense", token=token).code == "invalid_json"

    def test_each_kind_at_its_place(self, token: str) -> None:
        """A session opens no service route, a service key no user's."""
        answer = call("GET", "/users/usr_1/dashboard", token=token)
        assert (answer.status, answer.code) == (403, "service_key_required")
        assert call("GET", "/dashboard", token=KEY).status == 401
        assert call("GET", "/users/usr_nobody/dashboard", token=KEY).code == "unknown_user"

    def test_scopes(self) -> None:
        """A key may do what it was made for."""
        answer = call("PUT", "/users/usr_1", {"email": "a@b.co"}, token=KEY)
        assert (answer.status, answer.code) == (403, "missing_scope")

    def test_how_it_is_written(self, token: str) -> None:
        """The scheme has no case."""
        assert call("GET", "/dashboard", authorization=f"bEARER  {token} ").status == 200


class TestCookies:
    def cookie(self, **fields: Any) -> str:
        (cookie,) = signed_up(cookie=True, **fields).cookies
        return cookie.split(";")[0]

    def test_instead_of_the_token(self) -> None:
        """No script reads it, no other site sends it, and the body has no second copy."""
        answer = signed_up(cookie=True)
        assert answer.json["session"]["token"] is None
        (cookie,) = answer.cookies
        name, *attributes = cookie.split("; ")
        assert name.startswith("__Host-session=ses_")
        assert {a.lower() for a in attributes} == {
            "path=/", "secure", "httponly", "samesite=lax", "max-age=2592000"
        }  # fmt: skip

    def test_on_plain_loopback(self, environment: Environment) -> None:
        """A browser would refuse prefix and Secure there."""
        environment(APP_URL="http://localhost:3000")
        (cookie,) = signed_up(cookie=True).cookies
        assert cookie.startswith("session=ses_")
        assert "secure" not in cookie.lower()

    def test_reading(self) -> None:
        """A page reads with it; another origin may ask, and CORS keeps the answer from it."""
        cookie = self.cookie()
        assert call("GET", "/dashboard", cookie=cookie).status == 200
        assert call("GET", "/dashboard", cookie=f"a=b; {cookie}").status == 200

    @pytest.mark.parametrize(
        "origin",
        [None, "", "null", "https://evil.example", "http://app.example", "https://app.example:8443",
         "https://app.example.evil.example", "https://APP.example", "https://app.example/"],
    )  # fmt: skip
    def test_writing_needs_our_origin(self, origin: str | None) -> None:
        """The browser sends the cookie along with anybody's form; its Origin tells whose."""
        cookie = self.cookie()
        answer = call("POST", "/logout", cookie=cookie, origin=origin)
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
        assert call("GET", "/dashboard", cookie=cookie).status == 200

    def test_writing_from_our_pages(self) -> None:
        """And the cookie is taken back with the session."""
        cookie = self.cookie()
        answer = call("POST", "/logout", cookie=cookie, origin=ORIGIN)
        assert answer.status == 204
        (gone,) = answer.cookies
        assert gone.startswith("__Host-session=;")
        assert "1970" in gone
        assert call("GET", "/dashboard", cookie=cookie).status == 401

    @pytest.mark.parametrize("path", ["/login", "/signup"])
    def test_signing_in_from_another_site(self, path: str) -> None:
        """It would put a visitor into the attacker's account."""
        body = {"email": address(), "password": PASSWORD, "cookie": True}
        answer = call("POST", path, body, origin="https://evil.example")
        assert (answer.status, answer.code) == (403, "origin_not_allowed")
        assert answer.cookies == []

    def test_a_token_needs_none(self, token: str) -> None:
        """Programs send no Origin, and nobody sends a header for them."""
        assert call("POST", "/logout", token=token).status == 204


class TestHealth:
    @pytest.mark.parametrize(
        ("breaking", "mending"),
        [
            (
                "set default_transaction_read_only = on",
                "set default_transaction_read_only = off",
            ),
            ("set search_path = nowhere", "reset search_path"),
        ],
    )
    def test_of_a_server_that_cannot_work(self, breaking: str, mending: str) -> None:
        """It only reads, as after a failover, or lacks the tables."""
        assert call("GET", "/health").status == 200
        wiring.database().execute(breaking)
        sick = call("GET", "/health")
        assert (sick.status, sick.code) == (503, "database_unavailable")
        wiring.database().execute(mending)
        assert call("GET", "/health").status == 200


class TestParameters:
    @pytest.mark.parametrize("path", ["/health", "/plans", "/dashboard"])
    def test_where_there_are_none(self, token: str, path: str) -> None:
        """Mail programs and payment pages add parameters to links: they change nothing."""
        assert call("GET", path + "?utm_source=mail&a=1&a=2", token=token).status in (200, 503)


class TestBodies:
    @pytest.mark.parametrize(
        "text",
        [
            "{", "nonsense", "[" * 50_000, '{"a":' * 10_000, '{"a": NaN}', '{"a": -Infinity}',
            '{"a": 1e99999}', '{"a": ' + "9" * 5000 + "}", "{} {}", "{}x", "\ufeff{}", '{"a": 01}',
            '{"a": "\x00"}', '{"a": 1, "a": 1}', '{"b": [{"a": 1, "\\u0061": 2}]}',
        ],
        ids=range(15),
    )  # fmt: skip
    def test_not_json(self, text: str) -> None:
        """Each is 400, and not one character of it comes back."""
        answer = call("POST", "/signup", text=text)
        assert (answer.status, answer.code) == (400, "invalid_json")
        assert "nonsense" not in answer.text

    @pytest.mark.parametrize("text", ['{"email": "\ud800"}', '{"email": "a\ufffd@example.com"}'])
    def test_not_utf8(self, text: str) -> None:
        """A byte that is not UTF-8 arrives as U+FFFD."""
        answer = call("POST", "/signup", text=text)
        assert (answer.status, answer.code) == (400, "invalid_encoding")

    @pytest.mark.parametrize("text", ["[]", "null", "7", "{}", ""])
    def test_not_an_object(self, text: str) -> None:
        """JSON, and not what the route reads: 422."""
        answer = call("POST", "/signup", text=text)
        assert (answer.status, answer.code) == (422, "invalid_request")

    @pytest.mark.parametrize("encoding", ["gzip", "BR", "identity, gzip", "x-\x00é" + "y" * 200])
    def test_compressed(self, encoding: str) -> None:
        """415, which names the encoding. Without a body there is nothing that is compressed."""
        packed = base64.b64encode(gzip.compress(b"{}")).decode()
        answer = call(
            "POST", "/signup", text=packed, base64_encoded=True, content_encoding=encoding
        )
        assert (answer.status, answer.code) == (415, "unsupported_encoding")
        assert answer.headers["accept-encoding"] == "identity"
        named = encoding.lower().rpartition(", ")[2].replace("\x00é", "")[:50]
        assert f" {named} " in answer.json["detail"]
        assert call("POST", "/signup", content_encoding=encoding).code == "invalid_request"

    def test_identity_is_no_compression(self) -> None:
        body = {"email": address(), "password": PASSWORD}
        assert call("POST", "/signup", body, content_encoding="identity").status == 201

    @pytest.mark.parametrize("charset", ["iso-8859-1", '"UTF-16"'])
    def test_other_character_sets(self, charset: str) -> None:
        """415, which names the character set: the bytes would be read as other text."""
        body = {"email": address(), "password": PASSWORD}
        answer = call("POST", "/signup", body, content_type=f"application/json; charset={charset}")
        assert (answer.status, answer.code) == (415, "unsupported_media_type")
        assert charset.strip('"') in answer.json["detail"]

    @pytest.mark.parametrize("inside", ["{%s}", '{"user": {%s}}', '{"events": [{%s}]}'])
    def test_very_many_names(self, inside: str) -> None:
        """Refused before they are validated: naming hundreds of thousands took seconds."""
        names = ",".join(f'"{n:x}":0' for n in range(51))
        answer = call("POST", "/signup", text=inside % names)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert [e["code"] for e in answer.json["errors"]] == ["too_many_fields"]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"email": None}, "email"), ({"email": 7}, "email"), ({"email": "nobody"}, "email"),
            ({"email": "a@b.c\x00"}, "email"), ({"email": "a\ud800@b.co"}, "email"),
            ({"email": "x" * 300 + "@b.co"}, "email"), ({"email": ["a@b.co"]}, "email"),
            ({"password": "short"}, "password"), ({"password": "x" * 129}, "password"),
            ({"password": 12345678}, "password"), ({"password": "hunter2\ud800x"}, "password"),
            ({"password": "password1"}, "password"),
            ({"name": ""}, "name"), ({"name": "x" * 201}, "name"), ({"name": "a\nb"}, "name"),
            ({"name": "\udfff"}, "name"), ({"cookie": "maybe"}, "cookie"),
            ({"admin": True}, "admin"),
        ],
        ids=range(18),
    )  # fmt: skip
    def test_fields(self, changes: dict[str, Any], field: str) -> None:
        """Named with a code and words; never with what was sent."""
        body = {"email": address(), "password": PASSWORD} | changes
        answer = call("POST", "/signup", body)
        assert (answer.status, answer.code) == (422, "invalid_request")
        (error,) = answer.json["errors"]
        assert error["field"] == field
        assert set(error) == {"field", "code", "message"}
        assert "hunter2" not in answer.text
        assert body["email"] is None or str(body["email"]) not in answer.text

    @pytest.mark.parametrize(
        "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
    )
    def test_other_content_types(self, content_type: str) -> None:
        """415, which also keeps plain forms of other sites out."""
        body = {"email": address(), "password": PASSWORD}
        answer = call("POST", "/signup", body, content_type=content_type)
        assert (answer.status, answer.code) == (415, "unsupported_media_type")

    def test_json_with_parameters(self) -> None:
        """A charset is no other type."""
        body = {"email": address(), "password": PASSWORD}
        answer = call("POST", "/signup", body, content_type='Application/JSON; Charset="utf-8"')
        assert answer.status == 201

    @pytest.mark.parametrize(
        "content_type",
        ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "é"],
    )
    def test_no_body_has_no_type(self, token: str, content_type: str) -> None:
        """Clients put one there all the same."""
        for method, path in (("POST", "/portal"), ("GET", "/portal"), ("GET", "/dashboard")):
            answer = call(method, path, token=token, content_type=content_type)
            assert answer.status in (200, 409)
        assert call("POST", "/signup", content_type=content_type).code == "invalid_request"
        assert call("POST", "/logout", token=token, content_type=content_type).status == 204

    def test_too_large(self) -> None:
        """Nothing is parsed of it."""
        answer = call("POST", "/signup", text='{"x": "' + "é" * 40_000)
        assert (answer.status, answer.code) == (413, "payload_too_large")

    def test_in_base64(self) -> None:
        """As API Gateway sends what it takes for binary."""
        text = json.dumps({"email": address(), "password": PASSWORD}).encode()
        encoded = base64.b64encode(text).decode()
        assert call("POST", "/signup", text=encoded, base64_encoded=True).status == 201

    @pytest.mark.parametrize("encoded", ["A", base64.b64encode(b"\xff\xfe").decode()])
    def test_in_broken_base64(self, encoded: str) -> None:
        """No text."""
        answer = call("POST", "/signup", text=encoded, base64_encoded=True)
        assert (answer.status, answer.code) == (400, "invalid_encoding")


class TestAddresses:
    def test_limits(self, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counted before anything is hashed, and the wait is told."""
        environment(SIGN_UPS_PER_HOUR="0")
        monkeypatch.setattr(
            "billing.accounts.passwords.hash_password", lambda _: pytest.fail("hashed")
        )
        answer = call("POST", "/signup", {"email": address(), "password": PASSWORD})
        assert (answer.status, answer.code) == (429, "too_many_requests")
        assert int(answer.headers["retry-after"]) > 0

    @pytest.mark.parametrize(
        ("hops", "forwarded", "expected"),
        [
            ("0", "203.0.113.9", "192.0.2.1"),
            ("1", "203.0.113.9", "192.0.2.1"),
            ("1", "198.51.100.1, 203.0.113.9, 192.0.2.1", "203.0.113.9"),
            ("2", "198.51.100.1, 203.0.113.9, 192.0.2.1", "198.51.100.1"),
            ("9", "198.51.100.1, 192.0.2.1", "192.0.2.1"),
        ],
    )
    def test_whose_address_counts(
        self, environment: Environment, hops: str, forwarded: str, expected: str
    ) -> None:
        """What anybody may write into a header is not believed unless a proxy of ours wrote it."""
        proof = hmac.new(b"app secret", b"trusted proxy", "sha256").hexdigest()
        assert self.counted(environment, hops, forwarded, proof) == expected

    @pytest.mark.parametrize("proof", [None, "", "0" * 64, "naïve"])
    def test_who_goes_around_the_proxy_is_not_believed(
        self, environment: Environment, proof: str | None
    ) -> None:
        """API Gateway's own address is open to all, who could be another with each attempt."""
        forwarded = "203.0.113.9, 192.0.2.1"
        assert self.counted(environment, "1", forwarded, proof) == "192.0.2.1"

    def counted(
        self, environment: Environment, hops: str, forwarded: str, proof: str | None
    ) -> str:
        environment(TRUSTED_PROXY_HOPS=hops)
        app = api.resolver()
        seen = []

        @app.get("/address")
        def _address() -> dict[str, str]:
            seen.append(sign_in.client_address(app))
            return {}

        headers = {"x-forwarded-for": forwarded} | ({"x-proxy-proof": proof} if proof else {})
        request = event("GET", "/address", None, headers, [])
        request["requestContext"]["http"]["sourceIp"] = "192.0.2.1"
        api.handle(app, request, Context(20))
        (address,) = seen
        return address


class TestAttempts:
    """Attempts are counted by whom they come from and whom they are about."""

    @pytest.fixture(autouse=True)
    def _limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One attempt each, in a window that does not end meanwhile."""
        once, often = (Limit(n, timedelta(minutes=5)) for n in (1, 1000))
        monkeypatch.setattr(sign_in_limits, "BY_ADDRESS", often)
        monkeypatch.setattr(sign_in_limits, "BY_ADDRESS_AND_ACCOUNT", once)
        monkeypatch.setattr(sign_in_limits, "BY_ACCOUNT", often)
        noon = datetime.now(UTC).replace(minute=0, second=1)
        monkeypatch.setattr(wiring, "clock", lambda: lambda: noon)

    def sign_in(self, email: str, source: str, password: str = f"not {PASSWORD}") -> int:
        body = json.dumps({"email": email, "password": password})
        request = event("POST", "/login", body, {"content-type": "application/json"}, [])
        request["requestContext"]["http"]["sourceIp"] = source
        return int(session.handler(request, Context())["statusCode"])

    def test_by_address_and_account(self) -> None:
        """Neither another account nor another address is refused with one that is."""
        one, other = address(), address()
        here, there = (f"2001:db8:{uuid4().hex[:4]}:{n}::1" for n in (1, 2))
        assert [self.sign_in(one, here) for _ in range(2)] == [401, 429]
        assert self.sign_in(other, here) == 401
        assert self.sign_in(one, there) == 401

    def test_by_address_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the account."""
        once = Limit(1, timedelta(minutes=5))
        monkeypatch.setattr(sign_in_limits, "BY_ADDRESS", once)
        here, there = (f"2001:db8:{uuid4().hex[:4]}:{n}::1" for n in (1, 2))
        assert [self.sign_in(address(), here) for _ in range(2)] == [401, 429]
        assert self.sign_in(address(), there) == 401

    @pytest.mark.parametrize(("limit", "seconds"), [(1000, 0), (0, 1)])
    def test_by_account_a_password_is_looked_at_later(
        self, monkeypatch: pytest.MonkeyPatch, limit: int, seconds: int
    ) -> None:
        """The right one too, so that nobody is locked out; and first comes the wait."""
        email = signed_up().json["user"]["email"]
        happened: list[object] = []
        by_account = Limit(limit, timedelta(hours=1))
        monkeypatch.setattr(sign_in_limits, "BY_ACCOUNT", by_account)
        monkeypatch.setattr(signing_in, "time", SimpleNamespace(sleep=happened.append))
        look = passwords.verify_password

        def looks(*given: Any) -> Any:
            happened.append("looked at")
            return look(*given)

        monkeypatch.setattr(passwords, "verify_password", looks)
        assert self.sign_in(email, "192.0.2.1", PASSWORD) == 200
        assert happened == [seconds, "looked at"]

    def test_sign_ups_by_address(self, environment: Environment) -> None:
        environment(SIGN_UPS_PER_HOUR="1")

        def sign_up(source: str) -> int:
            body = json.dumps({"email": address(), "password": PASSWORD})
            request = event("POST", "/signup", body, {"content-type": "application/json"}, [])
            request["requestContext"]["http"]["sourceIp"] = source
            return int(signup.handler(request, Context())["statusCode"])

        here, there = (f"2001:db8:{uuid4().hex[:4]}:{n}::1" for n in (1, 2))
        assert [sign_up(here) for _ in range(2)] == [201, 429]
        assert sign_up(there) == 201


@SPELLINGS
class TestHeaderNames:
    """Names of headers have no case: each one we read is found however it is written."""

    def test_authorization(self, token: str, spell: Spell) -> None:
        assert call("GET", "/dashboard", token=token, spell=spell).status == 200

    def test_content_type(self, spell: Spell) -> None:
        """The right one is taken and the wrong one refused, by us and by Powertools."""
        signed_up = {"email": address(), "password": PASSWORD}
        for given, status in (("Application/JSON", 201), ("text/plain", 415)):
            answer = call("POST", "/signup", signed_up, spell=spell, content_type=given)
            assert answer.status == status

    def test_origin(self, spell: Spell) -> None:
        """A cookie writes from our pages alone."""
        cookie = TestCookies().cookie()
        for origin, status in (("https://evil.example", 403), (None, 403), (ORIGIN, 204)):
            answer = call("POST", "/logout", cookie=cookie, origin=origin, spell=spell)
            assert answer.status == status

    def test_forwarded_for(self, environment: Environment, spell: Spell) -> None:
        """A trusted proxy's proof and what it saw."""
        environment(TRUSTED_PROXY_HOPS="1")
        app = api.resolver()
        seen = []

        @app.get("/address")
        def _address() -> dict[str, str]:
            seen.append(sign_in.client_address(app))
            return {}

        proof = hmac.digest(b"app secret", b"trusted proxy", "sha256").hex()
        headers = {"x-forwarded-for": "203.0.113.7, 198.51.100.1", "x-proxy-proof": proof}
        api.handle(app, event("GET", "/address", None, headers, [], spell=spell), Context(20))
        assert seen == ["203.0.113.7"]

    def test_webhook_signature(self, spell: Spell) -> None:
        assert TestWebhook().send(b"{}", "0" * 64, spell=spell).status == 401
        assert TestWebhook().send(b"{}", spell=spell).status == 200


class TestBrowsers:
    """An answer is data: no browser may guess at it, frame it or leave the address behind."""

    def test_every_answer_says_so(self, token: str) -> None:
        """Good ones, problems, redirects' kin and webhooks."""
        answers = [
            call("GET", "/health"),
            call("GET", "/nowhere"),
            call("POST", "/logout", token=token),
            TestWebhook().send(b"{}"),
            TestWebhook().send(b"{}", "0"),
        ]
        assert [a.status for a in answers] == [200, 404, 204, 200, 401]
        for answer in answers:
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["strict-transport-security"] == "max-age=63072000"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

    def test_no_answer_is_kept(self, token: str) -> None:
        """Neither by the browser nor by a cache in between."""
        for method, path in [
            *[("GET", "/dashboard"), ("GET", "/account"), ("GET", "/account/export")],
            *[("GET", "/account/usage?format=csv"), ("GET", "/nowhere"), ("POST", "/logout")],
        ]:
            answer = call(method, path, token=token)
            assert answer.headers["cache-control"] == "no-store", path

    def test_a_page_keeps_its_own_policy(self) -> None:
        """It has styles, and cannot be framed either."""
        policy = call("GET", "/docs").headers["content-security-policy"]
        assert "style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy


def counted(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The metrics that were written to standard output, by name."""
    found: dict[str, float] = {}
    for line in capsys.readouterr().out.splitlines():
        document = json.loads(line) if line.startswith("{") else {}
        for directive in document.get("_aws", {}).get("CloudWatchMetrics", []):
            for metric in directive["Metrics"]:
                name = metric["Name"]
                found[name] = found.get(name, 0) + sum(document[name])
    return found


class TestMeasures:
    def test_sign_ups_and_sign_ins(self, capsys: pytest.CaptureFixture[str]) -> None:
        email = signed_up().json["user"]["email"]
        call("POST", "/login", {"email": email, "password": PASSWORD})
        call("POST", "/login", {"email": email, "password": "wrong"})
        found = counted(capsys)
        assert (found["SignedUp"], found["SignedIn"]) == (1, 1)

    def test_refused_attempts(
        self,
        environment: Environment,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What the abuse alarms look at."""
        environment(SIGN_UPS_PER_HOUR="1")
        monkeypatch.setattr(sign_in_limits, "BY_ADDRESS", Limit(1, timedelta(minutes=5)))
        one = uuid4().hex
        monkeypatch.setattr(networks, "of", lambda _: (one,))
        for _ in range(3):  # of which two fall into one window, whenever this runs
            call("POST", "/signup", {"email": address(), "password": PASSWORD})
            call("POST", "/login", {"email": "a@b.co", "password": PASSWORD})
        found = counted(capsys)
        assert found["SignUpRefused"] >= 1
        assert found["SignInRefused"] >= 1

    def test_a_database_that_cannot_be_reached(
        self, environment: Environment, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Under one name for the whole stack, whichever function met it."""
        environment(DATABASE_PORT="1")
        call("GET", "/health")
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        written = {(one["service"], name) for one in lines if "_aws" in one for name in one}
        assert ("database", "DatabaseUnavailable") in written
        assert ("api", "ServerErrors") in written  # what takes a bad release back

    def test_asking_to_come_again_is_no_failure(
        self,
        token: str,
        log: io.StringIO,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A 503 while a subscription is being confirmed wakes nobody and fills no log."""

        def unconfirmed(*_: object) -> None:
            raise AccessUnconfirmed

        monkeypatch.setattr(dashboard_answers, "dashboard", unconfirmed)
        monkeypatch.setattr(documented, "check", lambda *_: None)  # this route has no such answer
        capsys.readouterr()
        assert call("GET", "/dashboard", token=token).status == 503
        assert counted(capsys) == {}
        assert "Traceback" not in log.getvalue()


class TestTrouble:
    def test_unknown_routes(self) -> None:
        """Our own 404."""
        for path in ("/no", "/nope/", "/dashboard/x", "/users//dashboard"):
            assert call("GET", path).code == "not_found"

    def test_a_bug(self, token: str, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
        """500 that tells nothing; the log has the cause and no token."""

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("inner words")

        monkeypatch.setattr(dashboard_answers, "dashboard", broken)
        answer = call("GET", "/dashboard", token=token)
        assert (answer.status, answer.code) == (500, "internal_error")
        assert "inner words" not in answer.text
        assert "ZeroDivisionError" not in answer.text
        written = log.getvalue()
        assert "ZeroDivisionError" in written
        assert "req-1" in written
        assert token not in written

    def test_a_row_that_the_database_refuses(
        self, token: str, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The log has the constraint and the place in the routine, and nothing of the row."""
        call("GET", "/dashboard", token=token)
        log.truncate(0)
        twice = (
            "do $$ begin insert into attempts (key, window_start, count)"
            " select 'hunter2', '2026-01-01', 1 from generate_series(1, 2); end $$"
        )
        monkeypatch.setattr(
            dashboard_answers, "dashboard", lambda *_: wiring.database().execute(twice)
        )
        answer = call("GET", "/dashboard", token=token)
        assert answer.code == "internal_error"
        [line] = [json.loads(each) for each in log.getvalue().strip("\0\n").splitlines()]
        assert line["message"] == "internal_error"
        assert (line["sqlstate"], line["constraint"]) == ("23505", "attempts_pkey")
        assert line["routine"] == ["PL/pgSQL function inline_code_block line 1 at SQL statement"]
        for secret in ("hunter2", "2026-01-01"):
            assert secret not in line["exception"]
            assert secret not in str(line["routine"])

    def test_keys_of_one_request_do_not_stay(
        self, token: str, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who called before is not in the next one's log."""
        user = call("GET", "/dashboard", token=token).json["user"]["id"]
        monkeypatch.setattr(wiring.database(), "value", lambda *_: 1 / 0)
        assert call("GET", "/health").code == "internal_error"
        assert user not in log.getvalue()

    def test_the_database_is_down(self, environment: Environment) -> None:
        """503 and when to come again, at every door; nobody gets in uncounted."""
        environment(DATABASE_PORT="1")
        for answer in (
            call("GET", "/health"),
            call("GET", "/dashboard", token="ses_" + "0" * 64),
            call("POST", "/login", {"email": "a@b.co", "password": PASSWORD}),
            call("POST", "/signup", {"email": "a@b.co", "password": PASSWORD}),
        ):
            assert (answer.status, answer.code) == (503, "database_unavailable")
            assert int(answer.headers["retry-after"]) > 0

    def test_commet_is_down(self, token: str) -> None:
        """503 where only Commet can tell; the dashboard does not need it."""
        body = {"plan_code": "usage_pro"}
        assert call("POST", "/checkout", body, token=token).code == "billing_provider_unavailable"
        assert call("GET", "/dashboard", token=token).status == 200

    def test_nothing_to_manage(self, token: str) -> None:
        """Without a body and with one."""
        for body in (None, {}, {"return_url": ORIGIN}):
            assert call("POST", "/portal", body, token=token).code == "no_billing_account"
        assert call("GET", "/portal", token=token).code == "no_billing_account"

    @pytest.mark.parametrize(("path", "field"), [("/checkout", "success_url"),
                                                 ("/portal", "return_url")])  # fmt: skip
    def test_where_to_come_back_to(self, token: str, path: str, field: str) -> None:
        """Only to allowed origins; the refused one is not repeated."""
        body = {field: "https://evil.example/x"} | (
            {"plan_code": "usage_pro"} if path == "/checkout" else {}
        )
        answer = call("POST", path, body, token=token)
        assert (answer.status, answer.code) == (422, "invalid_request")
        assert [error["field"] for error in answer.json["errors"]] == [field]
        assert "evil" not in answer.text


class TestWebhook:
    def send(
        self, body: bytes | str, signature: str | None = None, *, method: str = "POST",
        encoded: bool = False, route: str = "$default", spell: Spell = str.lower,
    ) -> Answer:  # fmt: skip
        raw = body if isinstance(body, bytes) else body.encode()
        if signature is None:
            signature = hmac.new(WEBHOOK_SECRET.encode(), raw, hashlib.sha256).hexdigest()
        text = base64.b64encode(raw).decode() if encoded else raw.decode()
        request = event(method, "/", text, {"x-commet-signature": signature}, [], spell=spell)
        request["isBase64Encoded"] = encoded
        request["requestContext"]["routeKey"] = route
        return ask(webhook, request)

    @pytest.mark.parametrize("encoded", [True, False])
    def test_signed(self, encoded: object) -> None:
        """Applied, and once."""
        user = signed_up().json["user"]["id"]
        body = state(user, f"sub_{user}", 1)
        answers = [self.send(body, encoded=bool(encoded)) for _ in range(2)]
        assert [(a.status, a.json["outcome"]) for a in answers] == [
            (200, "applied"),
            (200, "duplicate"),
        ]

    def test_access_follows(self) -> None:
        """What the webhook says is what the dashboard shows."""
        up = signed_up().json
        self.send(state(up["user"]["id"], f"sub_{up['user']['id']}", 1))
        seen = call("GET", "/dashboard", token=up["session"]["token"]).json
        assert seen["access"] is True
        assert seen["subscription"]["status"] == "active"
        assert [(u["feature"], u["included"]) for u in seen["usage"]] == [("storage", "100")]

    def test_a_row_that_somebody_holds(self, migrated_url: str) -> None:
        """Acknowledged within the function's time and kept for reconcile, not timed out."""
        user = signed_up().json["user"]["id"]
        with psycopg.connect(migrated_url) as holder:
            holder.execute("select from users where id = %s for update", [user])
            answer = self.send(state(user, f"sub_{user}", 1))
        assert (answer.status, answer.json["outcome"]) == (200, "failed")

    @pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\ud800", "x" * 100_000])
    def test_not_signed(self, signature: str) -> None:
        """401, and nothing is stored."""
        body = json.dumps({"id": f"whev_{uuid4().hex}"})
        assert self.send(body, signature).code == "bad_signature"
        stored = "select count(*) from webhooks where id = %s"
        assert wiring.database().value(stored, [json.loads(body)["id"]]) == 0

    def test_broken_base64(self) -> None:
        """Nobody signed that."""
        request = event("POST", "/", "é", {"x-commet-signature": "0"}, [])
        request["isBase64Encoded"] = True
        assert ask(webhook, request).status == 401

    def test_no_body(self) -> None:
        """Signed by nobody; signed by Commet it would be unreadable."""
        request = event("POST", "/", None, {}, [])
        assert ask(webhook, request).status == 401
        assert self.send(b"").json["outcome"] in ("unreadable", "duplicate")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
    def test_other_methods(self, method: str) -> None:
        """405, and which one it is."""
        answer = self.send(b"{}", method=method)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"

    def test_too_large(self) -> None:
        """Before the signature is looked at."""
        assert self.send(b"x" * 1_100_001, "0").code == "payload_too_large"
        assert self.send(b'"' + b"x" * 1_099_998 + b'"').status == 200

    def test_too_large_is_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An alarm tells: Commet will give up on it."""
        self.send(b"x" * 1_100_001, "0")
        assert counted(capsys)["WebhookTooLarge"] == 1

    def test_the_route_on_the_api_can_be_switched_off(self, environment: Environment) -> None:
        """Then only the function's own URL takes webhooks, and the API says there is nothing."""
        environment(WEBHOOK_ON_API="false")
        assert self.send(b"{}", route="ANY /webhooks/commet").code == "not_found"
        assert self.send(b"{}").status == 200
        environment(WEBHOOK_ON_API="true")
        assert self.send(b"{}", route="ANY /webhooks/commet").status == 200

    def test_the_database_is_down(
        self, environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503: Commet sends it again, and then it is applied."""
        user = signed_up().json["user"]["id"]
        body = state(user, f"sub_{user}", 1)

        def down() -> Connection:
            raise psycopg.OperationalError("no")

        with monkeypatch.context() as patch:
            patch.setattr(wiring, "database", lambda: Database(down))
            answer = self.send(body)
        assert (answer.status, answer.code) == (503, "database_unavailable")
        environment()
        assert self.send(body).json["outcome"] == "applied"

    def test_a_bug(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ours is not Commet's: 200, kept as failed."""
        user = signed_up().json["user"]["id"]
        monkeypatch.setattr("billing.subscriptions.from_webhook.change_of", lambda _: 1 / 0)
        answer = self.send(state(user, f"sub_{user}", 1))
        assert (answer.status, answer.json["outcome"]) == (200, "failed")
