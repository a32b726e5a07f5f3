"""The form that skips a day or a month: for pages of this stack, on this machine."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Response

from local.gateway.skipping import SkipError, TimeBar

NOW = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
HERE = "http://127.0.0.1:3000"


class Clock:
    """Stands at NOW. Notes where it was moved to."""

    def __init__(self) -> None:
        self.moved: list[datetime] = []
        self.broken = False

    def skip(self, later: Callable[[datetime], datetime]) -> None:
        if self.broken:
            raise SkipError("The clock was not moved.")
        self.moved.append(later(NOW))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Client:
    return Client(DispatcherMiddleware(Response("the API"), {"/_time": TimeBar(clock.skip)}))


def send(
    client: Client,
    by: str = "day",
    back: str = "/app",
    *,
    at: str = HERE,
    path: str = "/_time",
    **headers: str,
) -> TestResponse:
    form: Any = {"by": by, "back": back}
    return client.post(path, base_url=at, data=form, headers={"Origin": at} | headers)


@pytest.mark.parametrize(
    ("by", "now"),
    [("day", "2026-02-01T12:30:00+00:00"), ("month", "2026-02-28T12:30:00+00:00")],
)
def test_the_clock_is_moved(client: Client, clock: Clock, by: str, now: str) -> None:
    """The last day of a month is followed by the last day of a shorter one."""
    answer = send(client, by, "/app/usage?feature=api&from=2026-01-01")
    assert (answer.status_code, answer.data) == (303, b"")
    assert answer.headers["Location"] == "/app/usage?feature=api&from=2026-01-01"
    assert answer.headers["Cache-Control"] == "no-store"
    assert [at.isoformat() for at in clock.moved] == [now]


def test_december_is_followed_by_january() -> None:
    december = datetime(2026, 12, 31, tzinfo=UTC)
    moved: list[datetime] = []
    client = Client(TimeBar(lambda later: moved.append(later(december))))
    assert send(client, "month", path="/").status_code == 303
    assert moved == [datetime(2027, 1, 31, tzinfo=UTC)]


@pytest.mark.parametrize("at", ["http://localhost:3000", "http://[::1]:3000"])
def test_other_names_of_this_machine(client: Client, clock: Clock, at: str) -> None:
    assert send(client, at=at).status_code == 303
    assert clock.moved


def test_a_program_sends_no_origin(client: Client, clock: Clock) -> None:
    answer = client.post("/_time", base_url=HERE, data={"by": "day", "back": "/"})
    assert answer.status_code == 303
    assert clock.moved


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://127.0.0.1:3001", "http://localhost:3000"]
)
def test_a_form_of_another_site_is_refused(client: Client, clock: Clock, origin: str) -> None:
    """Another port is another site."""
    assert send(client, Origin=origin).status_code == 403
    assert clock.moved == []


def test_a_foreign_name_of_this_machine_is_refused(client: Client, clock: Clock) -> None:
    """A page may have its own name pointed here. Its origin is then that of the address."""
    assert send(client, at="http://evil.example:3000").status_code == 421
    assert clock.moved == []


@pytest.mark.parametrize("by", ["", "year", "-1", "Day"])
def test_another_step_is_refused(client: Client, clock: Clock, by: str) -> None:
    assert send(client, by).status_code == 400
    assert clock.moved == []


@pytest.mark.parametrize(
    "back",
    [
        *("", "app", "//evil.example/app", "/\\evil.example", "https://evil.example/"),
        *("/app\r\nSet-Cookie: a=b", "/" + "a" * 2000),
    ],
)
def test_it_leads_to_no_other_site(client: Client, clock: Clock, back: str) -> None:
    assert send(client, back=back).status_code == 400
    assert clock.moved == []


def test_a_path_in_another_script_is_encoded(client: Client) -> None:
    assert send(client, back="/app/ü?a=%C3%BC").headers["Location"] == "/app/%C3%BC?a=%C3%BC"


def test_it_is_a_form_and_no_page(client: Client, clock: Clock) -> None:
    answer = client.get("/_time?by=day&back=/", base_url=HERE)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert send(client, path="/_time/more").status_code == 404
    assert clock.moved == []


def test_a_clock_that_is_not_moved_is_said(client: Client, clock: Clock) -> None:
    clock.broken = True
    answer = send(client)
    assert (answer.status_code, answer.text) == (503, "The clock was not moved.\n")
