"""Errors and the documents they become: complete, stable, and silent about what was sent."""

import json

import pytest

from billing import errors
from billing.errors import (
    BillingError,
    CommetRefused,
    CommetUnavailable,
    DebtOpen,
    FieldError,
    InvalidRequest,
    MethodNotAllowed,
    Unauthenticated,
)
from billing.http import problems


def family(base: type[BillingError] = BillingError) -> list[type[BillingError]]:
    return [base, *(each for child in base.__subclasses__() for each in family(child))]


def made(kind: type[BillingError]) -> BillingError:
    if kind is CommetRefused:
        return kind("no_plan", commet_status=404)
    return kind("5.00", "usd", None) if kind is DebtOpen else kind()


class TestFamily:
    @pytest.mark.parametrize("kind", family())
    def test_each_can_be_shown(self, kind: type[BillingError]) -> None:
        """Every error of ours has a status, a code for programs and words for people."""
        error = made(kind)
        assert 400 <= error.status < 600
        assert error.code.replace("_", "a").isalpha()
        assert error.detail == error.detail.strip()
        assert error.detail

    def test_the_tree_is_drawn(self) -> None:
        """The picture at the top of the module shows all of them."""
        assert errors.__doc__ is not None
        assert [k.__name__ for k in family() if k.__name__ not in errors.__doc__] == []

    def test_commet_says_when_trying_again_helps(self) -> None:
        """What Commet asked for is passed on; where it did not ask, a few seconds are."""
        assert CommetUnavailable(retry_after=30).retry_after == 30
        silent = CommetUnavailable()
        assert silent.retry_after
        assert silent.asked_retry_after is None
        assert CommetUnavailable(nonsense=True).status == 502

    def test_the_log_knows_what_commet_said(self) -> None:
        """And the caller does not."""
        refused = CommetRefused("charge_failed", commet_status=402, request_id="req_1")
        assert "charge_failed" in str(refused)
        assert "req_1" in str(refused)
        assert "charge_failed" not in json.dumps(problems.document(refused, "r"))


class TestDocument:
    def test_members(self) -> None:
        """RFC 9457 members, our code, and the request to ask about."""
        field = FieldError("email", "missing", "Field required")
        document = problems.document(InvalidRequest(errors=[field]), "req_7")
        assert document == {
            "type": "/docs/problems#invalid_request",
            "title": "The request is not valid",
            "status": 422,
            "detail": "The request is not valid",
            "code": "invalid_request",
            "request_id": "req_7",
            "errors": [{"field": "email", "code": "missing", "message": "Field required"}],
        }

    @pytest.mark.parametrize("kind", family())
    def test_causes_are_not_told(self, kind: type[BillingError]) -> None:
        """Whatever led to it stays in the log: SQL, addresses, Commet's messages, secrets."""
        error = made(kind)
        error.__cause__ = RuntimeError("password=hunter2")
        assert "hunter2" not in json.dumps(problems.response(error, "r"))

    def test_headers(self) -> None:
        """What HTTP asks for with each status."""
        assert problems.headers(Unauthenticated())["WWW-Authenticate"] == "Bearer"
        assert problems.headers(MethodNotAllowed())["Allow"] == "POST"
        assert problems.headers(CommetUnavailable(retry_after=9))["Retry-After"] == "9"
        plain = problems.headers(InvalidRequest())
        assert plain == {
            "Content-Type": "application/problem+json",
            "Cache-Control": "no-store",
        }

    def test_response(self) -> None:
        """A whole answer of payload format 2.0."""
        answer = problems.response(Unauthenticated(), "r")
        assert (answer["statusCode"], answer["isBase64Encoded"]) == (401, False)
        assert json.loads(answer["body"])["code"] == "unauthenticated"
