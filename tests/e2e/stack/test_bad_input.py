"""Bad input and failing dependencies: a clear answer at the front door, nothing half-written."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from billing.errors import TITLES
from local.stack import LocalStack
from standin.testing import Control
from tests.e2e.stack.conftest import Person

GOOD = {"email": "never-used@example.com", "password": "a long walk home"}
Subscribe = Callable[..., dict[str, Any]]


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts an RFC 9457 problem document of ours; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["request_id"]
    assert {"type", "detail"} <= problem.keys()
    assert problem["title"] == TITLES[code]
    return problem


class TestBodies:
    @pytest.mark.parametrize("text", ['{"email":', "NaN", "'x'", '{"a": 1,}', "\ufeff{}"])
    def test_malformed_json(self, http: httpx.Client, text: str) -> None:
        """Not JSON: 400, and it says where."""
        answer = http.post(
            "/signup", content=text.encode(), headers={"content-type": "application/json"}
        )
        is_problem(answer, 400, "invalid_json")

    @pytest.mark.parametrize(
        "body",
        [
            GOOD | {"password": 12345678},
            GOOD | {"email": ["a@example.com"]},
            GOOD | {"cookie": "perhaps"},
            GOOD | {"name": "a\u0000b"},
        ],
    )
    def test_wrong_types(self, http: httpx.Client, body: object) -> None:
        """The fields are named, their values never repeated."""
        answer = http.post("/signup", json=body)
        problem = is_problem(answer, 422, "invalid_request")
        assert problem["errors"]
        assert "a long walk home" not in answer.text

    @pytest.mark.parametrize("body", [[GOOD], "text", 17, None])
    def test_no_object(self, http: httpx.Client, body: object) -> None:
        """A list of one good body is not a good body."""
        content = json.dumps(body).encode()
        answer = http.post("/signup", content=content, headers={"content-type": "application/json"})
        is_problem(answer, 422, "invalid_request")

    def test_deep_nesting(self, http: httpx.Client) -> None:
        answer = http.post(
            "/signup",
            content=b"[" * 30_000 + b"]" * 30_000,
            headers={"content-type": "application/json"},
        )
        is_problem(answer, 400, "invalid_json")

    def test_unknown_fields(self, http: httpx.Client) -> None:
        """Usually a typo: refused, by name."""
        problem = is_problem(
            http.post("/signup", json=GOOD | {"pasword": "x"}), 422, "invalid_request"
        )
        assert problem["errors"][0] == {
            "field": "pasword",
            "code": "extra_forbidden",
            "message": "Extra inputs are not permitted",
        }

    def test_another_content_type(self, http: httpx.Client) -> None:
        """Forms and plain text are not read: a browser sends those across sites unasked."""
        for content_type in ("text/plain", "application/x-www-form-urlencoded"):
            answer = http.post(
                "/signup", content=json.dumps(GOOD), headers={"content-type": content_type}
            )
            is_problem(answer, 415, "unsupported_media_type")

    def test_not_utf8(self, http: httpx.Client) -> None:
        """Two keys that differ in such a byte would be one key, because the gateway replaces it."""
        for content in (b"\xff\xfe", b'{"name": "job-\xff"}', b'{"name": "job-\xfe"}'):
            answer = http.post(
                "/signup", content=content, headers={"content-type": "application/json"}
            )
            is_problem(answer, 400, "invalid_encoding")

    def test_compressed(self, http: httpx.Client) -> None:
        """A compressed body is not read, and the answer names the encoding."""
        answer = http.post(
            "/signup",
            content=gzip.compress(json.dumps(GOOD).encode()),
            headers={"content-type": "application/json", "content-encoding": "gzip"},
        )
        assert "gzip" in is_problem(answer, 415, "unsupported_encoding")["detail"]

    def test_a_name_twice(self, http: httpx.Client) -> None:
        """One reader would keep the first value, another the last."""
        answer = http.post(
            "/signup",
            content=json.dumps(GOOD)[:-1].encode() + b', "email": "b@example.com"}',
            headers={"content-type": "application/json"},
        )
        is_problem(answer, 400, "invalid_json")

    def test_a_large_body(self, http: httpx.Client) -> None:
        """Ours says so up to what the function can take, API Gateway above."""
        answer = http.post("/signup", json=GOOD | {"name": "x" * 100_000})
        is_problem(answer, 413, "payload_too_large")
        assert http.post("/signup", content=b"x" * 11_000_000).status_code == 413

    def test_none_of_it_made_an_account(self, http: httpx.Client) -> None:
        """Everything above used this address, and it is still free."""
        assert http.post("/signup", json=GOOD).status_code == 201


class TestSessions:
    def test_the_same_email_in_other_case(self, http: httpx.Client, person: Person) -> None:
        answer = http.post("/signup", json=GOOD | {"email": person.email.upper()})
        is_problem(answer, 409, "email_taken")

    @pytest.mark.parametrize(
        "header", [None, "Bearer", "Bearer ses_nothing", "Bearer svc_a_b", "Basic YTpi"]
    )
    def test_without_a_good_session(self, http: httpx.Client, header: str | None) -> None:
        """Whatever the body: who is not admitted learns nothing about it."""
        headers = {"authorization": header} if header else {}
        answer = http.post("/checkout", json={"no": "such field"}, headers=headers)
        is_problem(answer, 401, "unauthenticated")

    def test_after_signing_out(self, person: Person) -> None:
        assert person.http.post("/logout").status_code == 204
        is_problem(person.http.get("/dashboard"), 401, "unauthenticated")

    def test_an_expired_session(self, person: Person, stack: LocalStack) -> None:
        with psycopg.connect(stack.database_url, autocommit=True) as db:
            db.execute(
                "update sessions set expires_at = created_at - interval '1 second'"
                " where user_id = %s",
                [person.id],
            )
        is_problem(person.http.get("/dashboard"), 401, "unauthenticated")

    def test_wrong_password_and_unknown_email_read_the_same(
        self, http: httpx.Client, person: Person
    ) -> None:
        wrong = http.post("/login", json={"email": person.email, "password": "not it"})
        unknown = http.post("/login", json={"email": "nobody@example.com", "password": "not it"})
        assert is_problem(wrong, 401, "invalid_credentials") | {"request_id": ""} == is_problem(
            unknown, 401, "invalid_credentials"
        ) | {"request_id": ""}

    def test_a_page_keeps_its_session_in_a_cookie(
        self, http: httpx.Client, person: Person, stack: LocalStack
    ) -> None:
        """The token is not in the body, and a write with the cookie needs our own Origin."""
        login = {"email": person.email, "password": "a long walk home", "cookie": True}
        answer = http.post("/login", json=login, headers={"origin": stack.api})
        assert answer.json()["session"]["token"] is None
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert http.get("/dashboard").status_code == 200
        is_problem(http.post("/logout"), 403, "origin_not_allowed")
        foreign = {"origin": "https://evil.example"}
        is_problem(http.post("/logout", headers=foreign), 403, "origin_not_allowed")
        assert http.post("/logout", headers={"origin": stack.api}).status_code == 204


class TestAddresses:
    def test_an_unknown_route(self, http: httpx.Client) -> None:
        is_problem(http.get("/no/such/thing"), 404, "not_found")

    def test_an_unknown_plan(self, person: Person) -> None:
        answer = person.http.post("/checkout", json={"plan_code": "gold"})
        is_problem(answer, 404, "plan_not_found")

    def test_a_foreign_success_url(self, person: Person) -> None:
        answer = person.http.post(
            "/checkout", json={"plan_code": "usage_pro", "success_url": "https://evil.example/"}
        )
        problem = is_problem(answer, 422, "invalid_request")
        assert problem["errors"][0]["field"] == "success_url"

    def test_the_webhook_takes_nothing_unsigned(
        self, http: httpx.Client, stack: LocalStack
    ) -> None:
        """401 on the API and on the function's own URL; only POST; a megabyte at most."""
        is_problem(http.post("/webhooks/commet", json={}), 401, "bad_signature")
        is_problem(httpx.post(stack.function_url, trust_env=False), 401, "bad_signature")
        is_problem(httpx.get(stack.function_url, trust_env=False), 405, "method_not_allowed")
        is_problem(
            http.post("/webhooks/commet", content=b"x" * 1_100_001), 413, "payload_too_large"
        )


class TestCommetFails:
    @pytest.mark.parametrize(
        ("action", "problem"),
        [
            ({"status": 500}, (503, "billing_provider_unavailable")),
            ({"reset": "before"}, (503, "billing_provider_unavailable")),
            ({"reset": "after"}, (503, "billing_provider_unavailable")),
            ({"status": 429, "retry_after": 60}, (503, "billing_provider_unavailable")),
            ({"invalid_json": True}, (502, "billing_provider_error")),
        ],
    )
    def test_checkout_says_so_and_starts_anew_afterwards(
        self,
        person: Person,
        commet: Control,
        stack: LocalStack,
        action: dict[str, Any],
        problem: tuple[int, str],
    ) -> None:
        """Nothing is half-written: the next try goes through and there is one subscription."""
        rule = {"method": "POST", "path": "/subscriptions"}
        commet.fault(match=rule, action=action, times=None)
        answer = person.http.post("/checkout", json={"plan_code": "usage_pro"})
        is_problem(answer, *problem)
        assert int(answer.headers["retry-after"]) > 0
        commet.clear_faults()
        with psycopg.connect(stack.database_url, autocommit=True) as db:
            db.execute("delete from call_budget")  # the pause that Commet asked for is over
        again = person.http.post("/checkout", json={"plan_code": "usage_pro"})
        assert again.status_code in (200, 201), again.text
        once_more = person.http.post("/checkout", json={"plan_code": "usage_pro"})
        assert once_more.json()["subscription"]["id"] == again.json()["subscription"]["id"]

    def test_plans_are_served_from_memory(
        self, http: httpx.Client, commet: Control, stack: LocalStack
    ) -> None:
        """While Commet is down the last good catalogue answers, and says how old it is."""
        known = http.get("/plans").json()
        with psycopg.connect(stack.database_url, autocommit=True) as db:
            db.execute("update plans_cache set as_of = '2026-01-01T00:00:00Z'")
        commet.fault(match={"path": "/plans"}, action={"status": 500}, times=None)
        again = http.get("/plans")
        assert again.status_code == 200
        assert again.json() == known | {"as_of": "2026-01-01T00:00:00.000Z"}

    def test_a_slow_portal_is_given_up(
        self, person: Person, subscribe: Subscribe, commet: Control
    ) -> None:
        """An answer within API Gateway's limit, whatever Commet does."""
        subscribe(person)
        commet.fault(match={"path": "/portal/sessions"}, action={"latency_ms": 60_000}, times=None)
        answer = person.http.post("/portal", json={})
        is_problem(answer, 503, "billing_provider_unavailable")
        assert answer.headers["retry-after"]

    def test_access_does_not_hang_on_commet(
        self, person: Person, subscribe: Subscribe, commet: Control, backend: httpx.Client
    ) -> None:
        """Who has access keeps it, and usage is taken, while Commet is away."""
        subscribe(person)
        commet.fault(match={}, action={"reset": "before"}, times=None)
        assert person.http.get("/dashboard").json()["access"] is True
        event = {"feature": "storage", "idempotency_key": "away", "user_id": person.id}
        assert backend.post("/usage", json=event).status_code == 202
