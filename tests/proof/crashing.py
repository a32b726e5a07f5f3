"""What a crash test runs in processes of their own, to be killed anywhere."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psycopg

from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.delivery.sending import deliver
from billing.errors import DatabaseUnavailable
from billing.events import delivering, log
from billing.events.receivers import Receivers
from billing.usage.accepting import UsageEvent, Verdict, accept
from billing.usage.rules import Rules
from tests.proof.delivering import connect

STATUSES = frozenset({"active"})
# Nothing limits what users spend.
RULES = Rules(STATUSES, ceilings={"usd": None}, at_once={"usd": None})


class Unlimited:
    """A budget without an end."""

    def wait(self, calls: int, deadline: Deadline) -> bool:  # noqa: ARG002
        return True

    def pause(self, seconds: float) -> None: ...


def event(worker: int, number: int, users: Sequence[str]) -> UsageEvent:
    """The worker's event of this number: always the same, quarters of a unit."""
    quantity = Decimal(number % 9 + 1) / 4
    return UsageEvent(
        users[(worker + number) % len(users)], "storage", quantity, f"{worker}-{number}"
    )


def acknowledged(log: Path) -> list[int]:
    """How many of each acknowledged batch had been counted before they were acknowledged."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [int(line) for line in lines]


@dataclass(frozen=True)
class Work:
    """What one process has to take: batches of events of these users; its log has a line for each
    batch that was acknowledged."""

    worker: int
    users: Sequence[str]
    batches: int
    size: int
    log: Path


def take(url: str, work: Work) -> None:
    """Sends the batches one after the other, from the first that is not acknowledged.

    What was not acknowledged is sent again, the same.
    """
    _be_quiet()
    db = Database(lambda: connect(url))
    notes = os.open(work.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for batch in range(len(acknowledged(work.log)), work.batches):
        numbers = range(batch * work.size, (batch + 1) * work.size)
        events = [event(work.worker, number, work.users) for number in numbers]
        verdicts = _accept(db, events)
        repeated = sum(verdict.status == "duplicate" for verdict in verdicts)
        assert repeated in (0, len(events))  # all of a batch or nothing
        time.sleep(random.uniform(0, 0.03))  # noqa: S311 - on its way to whoever sent it
        os.write(notes, f"{repeated}\n".encode())


def _accept(db: Database, events: Sequence[UsageEvent]) -> list[Verdict]:
    while True:
        try:
            verdicts = accept(db, events, rules=RULES, now=wall_clock())
        except (DatabaseUnavailable, psycopg.Error):
            time.sleep(0.05)  # Postgres is down
        else:
            assert {verdict.status for verdict in verdicts} <= {"accepted", "duplicate"}
            return verdicts


def _be_quiet() -> None:
    """Metrics and logs go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def send(url: str, base_url: str, api_key: str, stop: Path) -> None:
    """Delivers until told to stop, as one environment of the function does run after run."""
    _be_quiet()
    db = Database(lambda: connect(url))
    commet = Commet(base_url, lambda *, fresh=False: api_key, live=False)  # noqa: ARG005
    while not stop.exists():
        try:
            deliver(
                db, commet, wall_clock, Deadline.after(20), timedelta(seconds=0.5),
                budget=Unlimited(), workers=4, jitter=random.random,
            )  # fmt: skip
        except (DatabaseUnavailable, psycopg.Error):
            time.sleep(0.05)  # Postgres is down; leases end by themselves
        time.sleep(0.02)


def become_true(url: str, worker: int, users: Sequence[str], times: int) -> None:
    """Has so many things become true, one after the other, each with its outgoing event.

    What a killed process had begun is begun again: it becomes true once.
    """
    _be_quiet()
    db = Database(lambda: connect(url))
    for number in range(times):
        params = {"worker": worker, "number": number, "user": users[number % len(users)]}
        while True:
            try:
                db.execute(
                    "with made as (insert into became_true values (%(worker)s, %(number)s)"
                    " on conflict do nothing returning number)"
                    " select emit_event(%(user)s, 'debt.opened', now(),"
                    " jsonb_build_object('worker', %(worker)s::int, 'number', number)) from made",
                    params,
                )
                break
            except (DatabaseUnavailable, psycopg.Error):
                time.sleep(0.05)  # Postgres is down


def post(url: str, stop: Path) -> None:
    """Sends outgoing events until told to stop, as one environment does run after run."""
    _be_quiet()
    db = Database(lambda: connect(url))
    while not stop.exists():
        receivers = Receivers(allow_loopback=True)
        try:
            log.place(db)
            delivering.deliver(
                db,
                receivers,
                sender=delivering.Sender("the stack's secret", "/"),
                deadline=Deadline.after(20),
            )
        except (DatabaseUnavailable, psycopg.Error):
            time.sleep(0.05)  # Postgres is down; leases end by themselves
        finally:
            receivers.close()
        time.sleep(0.02)
