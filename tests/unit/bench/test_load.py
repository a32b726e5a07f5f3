"""How `bench.sustained` counts rates and latencies."""

import asyncio
import itertools
import math
import time

from bench.load import (
    Answered,
    Minute,
    Minutes,
    Request,
    UnexpectedAnswer,
    rate_reached,
    send_steadily,
)


def minutes_of(seconds: float, *ended: Answered) -> list[Minute]:
    found: list[Minute] = []
    minutes = Minutes(seconds, found.append)
    for each in ended:
        minutes.add(each)
    minutes.end()
    return found


class TestSendSteadily:
    def test_a_server_that_stops_is_slow_for_all_that_were_due_meanwhile(self) -> None:
        """Sending goes on, and latencies are counted from the time that was planned."""
        ended: list[Answered] = []
        sent_meanwhile: list[int] = []

        async def run() -> None:
            runs, sent = asyncio.Event(), itertools.count()

            async def ask() -> None:
                next(sent)
                await runs.wait()

            def run_again() -> None:
                sent_meanwhile.append(next(sent))
                runs.set()

            asyncio.get_running_loop().call_later(0.3, run_again)
            await send_steadily(lambda: Request("ask", ask), 20, 0.2, ended.append)

        asyncio.run(run())
        assert sent_meanwhile == [4]
        assert [each.due for each in ended] == [0.0, 0.05, 0.1, 0.15]
        assert [each.due + each.latency >= 0.299 for each in ended] == [True] * 4

    def test_a_busy_sender_is_counted_as_latency(self) -> None:
        """What is sent too late, because this process had no time, was due earlier."""
        ended: list[Answered] = []

        async def block() -> None:
            time.sleep(0.1)  # noqa: ASYNC251 - it blocks on purpose

        asyncio.run(send_steadily(lambda: Request("ask", block), 1000, 0.002, ended.append))
        assert [each.due for each in ended] == [0.0, 0.001]
        assert ended[1].latency >= 0.19

    def test_an_unexpected_answer_is_an_error_and_not_the_end(self) -> None:
        ended: list[Answered] = []

        async def fail() -> None:
            raise UnexpectedAnswer("GET /: 500")

        asyncio.run(send_steadily(lambda: Request("ask", fail), 1000, 0.002, ended.append))
        assert [(each.kind, each.error) for each in ended] == [("ask", "GET /: 500")] * 2


class TestRateReached:
    def test_each_client_waits_for_its_answers(self) -> None:
        async def answer() -> None:
            await asyncio.sleep(0.05)

        rate = asyncio.run(rate_reached(lambda: Request("ask", answer), 3, 0.2))
        assert 20 < rate <= 60


class TestMinutes:
    def test_an_answer_belongs_to_the_minute_in_which_it_comes(self) -> None:
        found = minutes_of(
            120,
            Answered("ask", 0, 0.01),
            Answered("ask", 59, 0.02),
            Answered("ask", 59, 1.5, "GET /: 500"),
            Answered("ask", 61, 0.01),
        )
        assert [(each.number, each.rate * 60, each.errors) for each in found] == [
            (1, 2, 0),
            (2, 2, 1),
        ]
        assert [each.longest for each in found] == [20, 1500]

    def test_what_comes_after_the_end_belongs_to_the_last_minute_but_not_to_its_rate(self) -> None:
        """Otherwise a server that was too slow would have reached the rate all the same."""
        found = minutes_of(120, *(Answered("ask", due, 80) for due in (0, 59, 100)))
        assert [(each.number, each.rate) for each in found] == [(1, 0), (2, 1 / 60)]
        assert found[1].longest == 80_000

    def test_the_last_minute_may_be_shorter(self) -> None:
        found = minutes_of(90, *(Answered("ask", due, 0) for due in (0, 60, 70, 80)))
        assert [each.rate for each in found] == [1 / 60, 0.1]

    def test_a_minute_without_an_answer_is_reported_too(self) -> None:
        found = minutes_of(180, Answered("ask", 0, 0.1), Answered("ask", 150, 0.1))
        assert [each.number for each in found] == [1, 2, 3]
        assert (found[1].rate, found[1].p99) == (0, math.inf)
