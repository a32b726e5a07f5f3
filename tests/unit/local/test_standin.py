"""The stand-in's clock, as the functions are told it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from local.standin import StandInClock, StandInError
from tests.http_server import Request, Response, serving


@dataclass
class Commet:
    """Just enough of the stand-in: a clock."""

    url: str = ""
    now: str | None = None

    def answer(self, request: Request) -> Response:
        if request.method == "POST" and self.now:
            self.now = str(json.loads(request.body)["to"])
        return Response(json.dumps({"now": self.now} if self.now else {"error": "down"}).encode())


@pytest.fixture
def commet() -> Iterator[Commet]:
    stand_in = Commet()
    with serving(stand_in.answer) as stand_in.url:
        yield stand_in


class TestClock:
    def test_it_is_the_stand_ins(self, commet: Commet) -> None:
        """Wherever that stands."""
        commet.now = "2031-02-03T04:05:06.000Z"
        assert StandInClock(commet.url)() == commet.now

    def test_time_flows_on_while_nobody_answers(self, commet: Commet) -> None:
        """Simulated time does not jump back to the wall's."""
        clock = StandInClock(commet.url)
        ahead = datetime.now(UTC) + timedelta(days=40)
        commet.now = ahead.isoformat()
        clock()
        commet.now = None
        assert ahead <= datetime.fromisoformat(clock()) < ahead + timedelta(minutes=1)

    def test_it_can_be_moved(self, commet: Commet) -> None:
        """From its own time, wherever that stands."""
        commet.now = "2031-02-03T04:05:06+00:00"
        StandInClock(commet.url).move(lambda now: now + timedelta(days=1))
        assert commet.now == "2031-02-04T04:05:06+00:00"

    def test_it_cannot_be_moved_while_nobody_answers(self, commet: Commet) -> None:
        with pytest.raises(StandInError, match="was not moved"):
            StandInClock(commet.url).move(lambda now: now + timedelta(days=1))
