"""The Python client against a server that misbehaves. The real stack: tests/e2e/stack."""

import asyncio
import inspect
import json
import socket
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import usage_billing
from tests.http_server import Request, Response, serving
from usage_billing import (
    AsyncBilling,
    AsyncReservation,
    Billing,
    NotConcluded,
    Problem,
    Refused,
    Reservation,
    Unreachable,
    Usage,
    retries,
    settings,
)

ROOT = Path(__file__).parents[3]
KEY = "svc_app_" + "a" * 64


def problem(status: int, code: str, **more: Any) -> Response:
    document = {"type": "about:blank", "title": "A title", "status": status, "code": code}
    return Response(
        json.dumps(document | {"detail": "A detail.", "request_id": "r-1"} | more).encode(), status
    )


def verdict(status: str = "accepted", code: str | None = None, key: str = "k") -> dict[str, Any]:
    return {"index": 0, "idempotency_key": key, "status": status, "code": code}


def taken(*verdicts: dict[str, Any]) -> Response:
    return Response(json.dumps({"results": verdicts}).encode(), 202)


HELD = {
    "id": "rsv_1",
    "idempotency_key": "job",
    "quantity": "5",
    "expires_at": "2026-01-01T00:00:00Z",
    "state": "held",
    "booked": None,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as short as they can be, so that a test does not wait."""
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


@contextmanager
def backend(*script: Response) -> Iterator[tuple[Billing, list[Request]]]:
    """A client of a server that gives these answers, the last of them again and again."""
    came: list[Request] = []
    left = list(script)

    def answer(request: Request) -> Response:
        came.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    with serving(answer) as url, Billing(url, KEY, deadline=5) as billing:
        yield billing, came


def bodies(came: list[Request]) -> list[Any]:
    return [json.loads(each.body) for each in came]


class TestRetries:
    @pytest.mark.parametrize(
        "first",
        [
            problem(503, "access_unconfirmed"),
            problem(429, "too_many_requests"),
            Response(b'{"message": "Service Unavailable"}', 503),
            Response(b'{"message": "Internal Server Error"}', 500),
            Response(b"<html>", 502),
        ],
        ids=["unconfirmed", "429", "gateway 503", "gateway 500", "gateway 502"],
    )
    def test_a_later_request_succeeds(self, first: Response) -> None:
        with backend(first, first, taken(verdict())) as (billing, came):
            assert billing.report("ana", "storage", 1).counted
        assert len(came) == 3
        keys = {body["idempotency_key"] for body in bodies(came)}
        assert len(keys) == 1  # made once, and kept

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (402, "limit_reached"),
            (409, "idempotency_conflict"),
            (422, "invalid_request"),
            (500, "internal_error"),
            (502, "billing_provider_refused"),
        ],
    )
    def test_a_refusal_is_final(self, status: int, code: str) -> None:
        with (
            backend(problem(status, code)) as (billing, came),
            pytest.raises(Problem) as raised,
        ):
            billing.report("ana", "storage", 1)
        assert len(came) == 1
        assert (raised.value.status, raised.value.code) == (status, code)
        assert isinstance(raised.value, Refused) == (status == 402)
        assert raised.value.request_id == "r-1"

    def test_wrong_fields_stand_in_the_message(self) -> None:
        wrong = [
            {"field": "quantity", "code": "greater_than", "message": "Input should be above 0"},
            {"field": "feature", "code": "missing", "message": "Field required"},
        ]
        with (
            backend(problem(422, "invalid_request", errors=wrong)) as (billing, _),
            pytest.raises(
                Problem,
                match=r"A detail \(quantity: Input should be above 0; feature: Field required\)$",
            ),
        ):
            billing.report("ana", "storage", 1)

    def test_it_ends_at_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There is time for a second attempt, and not for a third."""
        monkeypatch.setattr(retries, "backoff", lambda _: 0.6)
        asked: list[Request] = []

        def answer(request: Request) -> Response:
            asked.append(request)
            return problem(503, "access_unconfirmed")

        with (
            serving(answer) as url,
            Billing(url, KEY, deadline=1) as billing,
            pytest.raises(Problem) as raised,
        ):
            billing.report("ana", "storage", 1)
        assert raised.value.code == "access_unconfirmed"
        assert len(asked) == 2

    def test_it_does_not_wait_beyond_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A Retry-After that ends later is of no use, so the answer comes at once."""
        asleep: list[float] = []
        monkeypatch.setattr("time.sleep", asleep.append)
        wait = retries.Reply(429, {"retry-after": "60"}, b"{}")
        steps = retries.answered(retries.Call("GET", "/plans"), retries.Deadline(10))
        assert isinstance(next(steps), retries.Call)
        with pytest.raises(Problem) as raised:
            steps.send(wait)
        assert raised.value.retry_after == 60
        assert asleep == []

    def test_retry_after_is_kept(self) -> None:
        steps = retries.answered(retries.Call("GET", "/plans"), retries.Deadline(10))
        next(steps)
        pause = steps.send(retries.Reply(429, {"retry-after": "2"}, b"{}"))
        assert isinstance(pause, retries.Pause)
        assert 2 < pause.seconds < 3

    def test_nobody_listens(self) -> None:
        with socket.socket() as taken_port:
            taken_port.bind(("127.0.0.1", 0))  # and never listens
            url = f"http://127.0.0.1:{taken_port.getsockname()[1]}"
            with (
                Billing(url, KEY, deadline=0.1) as billing,
                pytest.raises(Unreachable) as raised,
            ):
                billing.report("ana", "storage", 1)
        assert KEY not in str(raised.value)
        assert str(raised.value).endswith(f"did not answer: ConnectError at {url}.")

    def test_an_answer_of_something_else(self) -> None:
        with (
            backend(Response(b"<html>Welcome</html>")) as (billing, _),
            pytest.raises(Unreachable) as raised,
        ):
            billing.plans()
        assert "BILLING_URL" in str(raised.value)


class TestBatches:
    def test_what_is_unconfirmed_is_sent_again_and_nothing_else(self) -> None:
        first = taken(
            verdict(key="a"),
            verdict("refused", "access_unconfirmed", "b"),
            verdict("refused", "limit_reached", "c"),
        )
        with backend(first, taken(verdict(key="b"))) as (billing, came):
            found = billing.report_all([Usage("ana", "storage", 1, key=key) for key in "abc"])
        assert [(each.key, each.status) for each in found] == [
            ("a", "accepted"),
            ("b", "accepted"),
            ("c", "refused"),
        ]
        sent = [[event["idempotency_key"] for event in body["events"]] for body in bodies(came)]
        assert sent == [["a", "b", "c"], ["b"]]

    def test_by_the_thousand(self) -> None:
        def answer(request: Request) -> Response:
            events = json.loads(request.body)["events"]
            sizes.append(len(events))
            return taken(*[verdict(key=event["idempotency_key"]) for event in events])

        sizes: list[int] = []
        with serving(answer) as url, Billing(url, KEY) as billing:
            found = billing.report_all(Usage("ana", "storage", 1, key=str(n)) for n in range(2001))
        assert sizes == [1000, 1000, 1]
        assert [each.key for each in found] == [str(n) for n in range(2001)]

    def test_none(self) -> None:
        with backend(taken()) as (billing, came):
            assert billing.report_all([]) == []
        assert came == []

    def test_a_key_is_of_the_object(self) -> None:
        usage = Usage("ana", "storage")
        assert usage.key == usage.key
        assert usage.key != Usage("ana", "storage").key


def held(**changes: Any) -> Response:
    return Response(json.dumps(HELD | changes).encode())


class TestReservations:
    def test_an_error_releases(self) -> None:
        with (
            backend(held(), held(state="released")) as (billing, came),
            pytest.raises(ZeroDivisionError),
            billing.reserve("ana", "tokens", 5),
        ):
            1 / 0  # noqa: B018
        assert came[1].path == "/usage/reservations/rsv_1/release"

    def test_the_block_s_own_error_is_seen(self) -> None:
        """Also if releasing fails."""
        with (
            backend(held(), problem(409, "reservation_confirmed")) as (billing, _),
            pytest.raises(ZeroDivisionError),
            billing.reserve("ana", "tokens", 5),
        ):
            1 / 0  # noqa: B018

    def test_confirmed(self) -> None:
        with (
            backend(held(), held(state="confirmed", booked="2.5")) as (billing, came),
            billing.reserve("ana", "tokens", 5) as reservation,
        ):
            assert reservation.confirm("2.5").booked == Decimal("2.5")
        assert len(came) == 2
        assert bodies(came)[1] == {"quantity": "2.5"}

    def test_forgotten(self) -> None:
        """Neither billing the whole nor giving it away would be right."""
        with (
            backend(held(), held(state="released")) as (billing, came),
            pytest.raises(NotConcluded),
            billing.reserve("ana", "tokens", 5),
        ):
            pass
        assert came[1].path.endswith("/release")


class TestQuantities:
    @pytest.mark.parametrize(
        ("given", "sent"),
        [(1, "1"), ("1.50", "1.50"), (Decimal("1E+3"), "1000"), (Decimal("0.000001"), "0.000001")],
    )
    def test_exactly(self, given: Any, sent: str) -> None:
        with backend(taken(verdict())) as (billing, came):
            billing.report("ana", "storage", given)
        assert bodies(came)[0]["quantity"] == sent

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            (1.5, TypeError),
            (True, TypeError),
            (None, TypeError),
            ("much", ValueError),
            ("NaN", ValueError),
            (Decimal("inf"), ValueError),
        ],
    )
    def test_refused(self, given: Any, error: type[Exception]) -> None:
        with backend(taken(verdict())) as (billing, came), pytest.raises(error):
            billing.report("ana", "storage", given)
        assert came == []

    def test_a_time_needs_a_zone(self) -> None:
        with (
            backend(taken(verdict())) as (billing, came),
            pytest.raises(ValueError, match="time zone"),
        ):
            billing.report("ana", "storage", 1, occurred_at=datetime(2026, 1, 1))  # noqa: DTZ001
        assert came == []


class TestSettings:
    def test_from_the_environment(self) -> None:
        told = {"BILLING_URL": "https://billing.example/", "BILLING_KEY": KEY}
        assert settings.base_url(None, told) == "https://billing.example"
        assert settings.service_key(None, told) == KEY

    @pytest.mark.parametrize(
        "url", ["http://billing.example", "billing.example", "ftp://a", "https://"]
    )
    def test_the_key_does_not_travel_unencrypted(self, url: str) -> None:
        with pytest.raises(ValueError, match="https"):
            settings.base_url(url, {})

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:3000", "http://localhost:3000", "http://[::1]:3000"]
    )
    def test_this_machine(self, url: str) -> None:
        assert settings.base_url(url, {}) == url

    def test_missing(self) -> None:
        with pytest.raises(ValueError, match="BILLING_URL"):
            settings.base_url(None, {})
        with pytest.raises(ValueError, match="BILLING_KEY"):
            settings.service_key(None, {})

    def test_the_key_is_sent_and_not_shown(self) -> None:
        with backend(taken(verdict())) as (billing, came):
            billing.report("ana", "storage", 1)
            assert KEY not in repr(billing) + str(vars(billing))
        assert came[0].headers["authorization"] == f"Bearer {KEY}"

    def test_no_redirect_takes_the_key_elsewhere(self) -> None:
        with backend(Response(b"", 307)) as (billing, came), pytest.raises(Problem):
            billing.plans()
        assert len(came) == 1


class TestAsync:
    def test_it_has_what_the_other_has(self) -> None:
        """Method by method, with the same parameters."""
        for one, other in ((Billing, AsyncBilling), (Reservation, AsyncReservation)):
            names = {name for name in vars(one) if not name.startswith("_")}
            assert names
            assert names == {name for name in vars(other) if not name.startswith("_")}
            for name in names:
                parameters = inspect.signature(getattr(one, name)).parameters
                assert parameters == inspect.signature(getattr(other, name)).parameters, name
                assert inspect.getdoc(getattr(other, name)), name

    def test_it_retries_and_releases(self) -> None:
        script = [
            problem(503, "access_unconfirmed"),
            taken(verdict()),
            held(),
            held(state="released"),
        ]
        paths = []

        def answer(request: Request) -> Response:
            paths.append(request.path)
            return script.pop(0)

        async def story(url: str) -> None:
            async with AsyncBilling(url, KEY) as billing:
                assert (await billing.report("ana", "storage", 1)).counted
                async with await billing.reserve("ana", "tokens", 5):
                    raise ZeroDivisionError

        with serving(answer) as url, pytest.raises(ZeroDivisionError):
            asyncio.run(story(url))
        assert paths[-1].endswith("/release")
        assert script == []


def test_the_version_is_the_backend_s() -> None:
    """They are released together."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert usage_billing.__version__ == project["version"]


class TestRoutesOfOnesOwn:
    def test_a_route_is_called_and_repeated_like_all_others(self) -> None:
        done = Response(json.dumps({"result": "First.", "quantity": "1"}).encode(), 200)
        with backend(problem(503, "access_unconfirmed"), done) as (billing, came):
            asked = {"user_id": "ana", "text": "First. Second.", "idempotency_key": "s-1"}
            found = billing.call("POST", "/summarize", asked, query={"short": "true"})
        assert found == {"result": "First.", "quantity": "1"}
        assert bodies(came) == [asked, asked]
        assert came[0].path == "/summarize?short=true"

    def test_asyncio_does_the_same(self) -> None:
        async def ask(url: str) -> dict[str, Any]:
            async with AsyncBilling(url, KEY, deadline=5) as billing:
                return await billing.call("GET", "/summaries")

        with serving(lambda _: Response(b'{"summaries": []}', 200)) as url:
            assert asyncio.run(ask(url)) == {"summaries": []}

    def test_a_path_without_a_slash_is_a_mistake(self) -> None:
        """Else the route's name would become a part of the backend's address."""
        with backend(taken()) as (billing, _), pytest.raises(ValueError, match="slash"):
            billing.call("POST", "summarize")
