"""kill -9 of whoever makes things true, whoever sends outgoing events, and Postgres.

Processes make things true, each with its outgoing event; others post the events to an endpoint that
refuses some of them at first. They and the database server are killed, again and again. In the end
the endpoint has had every event, none was invented, and after doubles are removed by id each user's
events came in order.
"""

import itertools
import json
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path

from billing.audit.trail import SYSTEM
from billing.database.connection import Database
from billing.events import endpoints
from local.postgres import EmbeddedPostgres
from tests.http_server import Request, Response, serving
from tests.integration.billing.events.users import add_user
from tests.integration.local.processes import eventually
from tests.proof import crashing
from tests.proof.delivering import connect
from tests.proof.scale import FULL, scaled
from tests.proof.test_usage_crashes import Crew, server, url  # noqa: F401 - two are fixtures

MAKERS, SENDERS = 2, 2
USERS = 12
TIMES = scaled(6000, 200)  # of each maker
KILLS = scaled(60, 5)


class Endpoint:
    """Keeps every event that came, and refuses each 40th of them the first time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: set[str] = set()
        self.came: list[tuple[str, str, int, int]] = []  # id, user, sequence, number

    def __call__(self, request: Request) -> Response:
        event = json.loads(request.body)
        number = event["data"]["number"]
        with self._lock:
            if number % 40 == 7 and event["id"] not in self._refused:
                self._refused.add(event["id"])
                return Response(status=503)
            self.came.append((event["id"], event["subject"], int(event["sequence"]), number))
        return Response()


def end_pauses(url: str) -> None:  # noqa: F811
    """As if the pause after a failure had passed."""
    _change_pending(url, "due_at = now()", where="due_at > now()")


def end_leases(url: str) -> None:  # noqa: F811
    """As if two minutes had passed: what the dead had leased may be sent again."""
    _change_pending(url, "leased_until = null", where="leased_until is not null")


def _change_pending(url: str, change: str, *, where: str) -> None:  # noqa: F811
    """Leaves out the deliveries that a sender writes just now: waiting for several of its rows
    could be a deadlock.
    """
    with connect(url) as db:
        db.execute(
            f"update event_delivery d set {change}"  # noqa: S608
            " from (select endpoint, event from event_delivery"
            f" where state = 'pending' and {where} for update skip locked) as f"
            " where d.endpoint = f.endpoint and d.event = f.event"
        )


def all_sent(url: str, events: int) -> bool:  # noqa: F811
    end_pauses(url)
    with connect(url) as db:
        row = db.execute(
            "select (select count(*) from event_delivery where state = 'sent') as sent,"
            " (select count(*) from outgoing_event) as made"
        ).fetchone()
    return row == {"sent": events, "made": events}


def test_killed_in_the_middle(
    server: EmbeddedPostgres,  # noqa: F811
    url: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Every event arrives, in order for each user once doubles are removed by id."""
    db = Database(lambda: connect(url))
    users = [add_user(db, f"usr_{number}") for number in range(USERS)]
    db.execute("create table became_true (worker int, number int, primary key (worker, number))")
    product = Endpoint()
    stop = tmp_path / "stop"
    events = MAKERS * TIMES
    crew = Crew(server, url)
    with serving(product) as address:
        endpoints.create(db, url=address, types=None, description="", by=SYSTEM)
        db.close()
        try:
            makers = [
                crew.hire(crashing.become_true, url, worker, users, TIMES)
                for worker in range(MAKERS)
            ]
            senders = [crew.hire(crashing.post, url, stop) for _ in range(SENDERS)]
            turns = itertools.cycle(["maker", "sender", "backend", "sender", "postmaster"])
            some_maker, some_sender = itertools.cycle(makers), itertools.cycle(senders)
            for kill, victim in zip(range(KILLS), turns, strict=False):
                so_far = events * (kill + 1) // (KILLS + 2)
                eventually(partial(has_come, product, so_far, url), 300)
                if victim == "maker":
                    crew.kill(next(some_maker))
                elif victim == "sender":
                    crew.kill(next(some_sender))
                elif victim == "backend":
                    crew.kill_backend()
                else:
                    crew.kill_postmaster()
                end_leases(url)
            for maker in makers:
                crew.running[maker].join(300)
                assert crew.running[maker].exitcode == 0
            eventually(partial(all_sent, url, events), 300)
            stop.touch()
        finally:
            crew.dismiss()

    first = {each[0]: each for each in reversed(product.came)}
    assert len(first) == events
    # In a long proof some kills fell between the endpoint's answer and its being recorded.
    assert len(product.came) > events or not FULL
    of_user: dict[str, list[int]] = defaultdict(list)
    for _, user, sequence, _ in dict.fromkeys(product.came):
        of_user[user].append(sequence)
    assert of_user.keys() == set(users)
    assert all(found == list(range(1, len(found) + 1)) for found in of_user.values())


def has_come(product: Endpoint, events: int, url: str) -> bool:  # noqa: F811
    """Whether so many have come."""
    end_pauses(url)
    return len(set(product.came)) >= events
