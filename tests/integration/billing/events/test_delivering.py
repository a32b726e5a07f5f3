"""Each event reaches each endpoint at least once, in order for each user, whatever fails."""

import json
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from standardwebhooks.webhooks import Webhook

from billing.audit.trail import SYSTEM
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.events import delivering, endpoints, log, signing
from billing.events.endpoints import Change, Endpoint
from billing.events.receivers import Answer, Receivers
from tests.http_server import Request, Response, serving
from tests.integration.billing.conftest import NOW
from tests.integration.billing.events.users import add_user
from tests.integration.billing.racing import Race, passes_by

SENDER = delivering.Sender("the stack's secret", "https://app.example")


@dataclass
class Endpointed:
    """A product's server: keeps what it takes, and answers as it is told."""

    status: Callable[[dict[str, Any]], int] = lambda _: 200
    taken: list[dict[str, Any]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        event = json.loads(request.body)
        self.requests.append(request)
        status = self.status(event)
        if status < 300:
            self.taken.append(event)
        return Response(status=status)

    @property
    def sequences(self) -> dict[str, list[int]]:
        """The sequences that were taken of each user, in the order of taking."""
        found: dict[str, list[int]] = defaultdict(list)
        for event in self.taken:
            found[event["subject"]].append(int(event["sequence"]))
        return dict(found)


def add_endpoint(db: Database, url: str, types: list[str] | None = None) -> Endpoint:
    return endpoints.create(db, url=f"{url}/hooks", types=types, description="", by=SYSTEM)


def emit(db: Database, user: str, kind: str = "access.granted", *, times: int = 1) -> None:
    for number in range(times):
        db.execute("select emit_event(%s, %s, %s, %s)", [user, kind, NOW, Jsonb({"n": number})])


def deliver(
    db: Database, *, seconds: float = 30, receiver: delivering.Receiver | None = None
) -> delivering.Done:
    log.place(db)
    receivers = Receivers(allow_loopback=True)
    try:
        return delivering.deliver(
            db,
            receiver or receivers,
            sender=SENDER,
            deadline=Deadline.after(seconds),
            jitter=lambda: 0.5,
        )
    finally:
        receivers.close()


def move(db: Database, endpoint: Endpoint, url: str) -> None:
    """The server is at another port, and back at the endpoint's address as far as we know."""
    db.execute("update event_endpoint set url = %s where id = %s", [url, endpoint.id])


def pass_time(db: Database, **delta: float) -> None:
    """Moves everything back, as if so much time had passed."""
    by = timedelta(**delta)
    db.execute(
        "update event_delivery set due_at = due_at - %(by)s, leased_until = leased_until - %(by)s,"
        " attempted_at = attempted_at - %(by)s, first_failed_at = first_failed_at - %(by)s,"
        " waits_since = waits_since - %(by)s",
        {"by": by},
    )
    db.execute(
        "update event_endpoint set failing_since = failing_since - %(by)s,"
        " succeeded_at = succeeded_at - %(by)s, previous_until = previous_until - %(by)s",
        {"by": by},
    )


def states(db: Database) -> dict[str, int]:
    rows = db.all("select state, count(*) as n from event_delivery group by state")
    return {row["state"]: row["n"] for row in rows}


@pytest.fixture(autouse=True)
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


class TestPlacing:
    """place_events makes one delivery for each event and endpoint that wants it."""

    def test_each_endpoint_gets_what_it_wants_once(self, db: Database) -> None:
        all_types = add_endpoint(db, "https://a.example")
        one_type = add_endpoint(db, "https://b.example", ["access.ended"])
        off = add_endpoint(db, "https://c.example")
        endpoints.change(db, off.id, Change(enabled=False), by=SYSTEM)
        emit(db, "usr_ana", "access.granted")
        emit(db, "usr_ana", "access.ended")
        assert (log.place(db), log.place(db)) == (2, 0)
        rows = db.all(
            "select endpoint, array_agg(e.type order by e.place) as types from event_delivery d"
            " join outgoing_event e on e.id = d.event and e.place = d.place group by endpoint"
        )
        assert {row["endpoint"]: row["types"] for row in rows} == {
            all_types.id: ["access.granted", "access.ended"],
            one_type.id: ["access.ended"],
        }

    def test_an_endpoint_gets_no_event_from_before_it_was_made(self, db: Database) -> None:
        emit(db, "usr_ana")
        log.place(db)
        add_endpoint(db, "https://a.example")
        emit(db, "usr_ana")
        assert log.place(db) == 1
        assert states(db) == {"pending": 1}

    def test_an_endpoint_that_is_being_deleted_stops_no_event(
        self, db: Database, race: Race
    ) -> None:
        gone = add_endpoint(db, "https://a.example")
        stays = add_endpoint(db, "https://b.example")
        emit(db, "usr_ana")
        race.first(lambda mine: endpoints.delete(mine, gone.id, by=SYSTEM))
        placing = race.second(log.place)
        race.commit()
        assert placing.answer == 1
        assert [row["endpoint"] for row in db.all("select endpoint from event_delivery")] == [
            stays.id
        ]


class TestDeliver:
    def test_an_event_arrives_as_a_signed_cloud_event(self, db: Database) -> None:
        product = Endpointed()
        with serving(product) as url:
            endpoint = add_endpoint(db, url)
            emit(db, "usr_ana")
            done = deliver(db)
        assert (done.sent, done.postponed, states(db)) == (1, 0, {"sent": 1})
        (request,) = product.requests
        secret = signing.secret_of(SENDER.secret, endpoint.id, 1)
        event = Webhook(secret).verify(request.body.decode(), request.headers)
        assert event["id"] == request.headers["webhook-id"]
        assert (event["subject"], event["sequence"]) == ("usr_ana", "1")
        assert (event["specversion"], event["type"]) == ("1.0", "access.granted")
        assert request.headers["content-type"] == "application/cloudevents+json"

    def test_both_secrets_verify_for_a_day_after_a_rotation(self, db: Database) -> None:
        product = Endpointed()
        with serving(product) as url:
            endpoint = add_endpoint(db, url)
            endpoints.rotate(db, endpoint.id, by=SYSTEM)
            emit(db, "usr_ana")
            deliver(db)
            pass_time(db, hours=24, seconds=1)
            emit(db, "usr_ana")
            deliver(db)
        signatures = [len(each.headers["webhook-signature"].split()) for each in product.requests]
        assert signatures == [2, 1]
        for generation, request in ((1, 0), (2, 0), (2, 1)):
            secret = signing.secret_of(SENDER.secret, endpoint.id, generation)
            found = product.requests[request]
            assert Webhook(secret).verify(found.body.decode(), found.headers)

    def test_a_product_that_lost_the_answer_to_a_rotation_verifies_with_its_old_secret(
        self, db: Database
    ) -> None:
        """It rotates again and again: the ten newest secrets sign, for a day after the last."""
        product = Endpointed()
        with serving(product) as url:
            endpoint = add_endpoint(db, url)
            for rotations in (2, 7, 1):
                for _ in range(rotations):
                    endpoints.rotate(db, endpoint.id, by=SYSTEM)
                emit(db, "usr_ana")
                deliver(db)
            pass_time(db, hours=24, seconds=1)
            emit(db, "usr_ana")
            deliver(db)
        signatures = [len(each.headers["webhook-signature"].split()) for each in product.requests]
        assert signatures == [3, 10, 10, 1]
        first = product.requests[0]
        for generation in (1, 2, 3):
            secret = signing.secret_of(SENDER.secret, endpoint.id, generation)
            assert Webhook(secret).verify(first.body.decode(), first.headers)

    def test_many_events_of_many_users_arrive_in_order_for_each(self, db: Database) -> None:
        users = [add_user(db, f"usr_{number}") for number in range(5)]
        product = Endpointed()
        with serving(product) as url:
            add_endpoint(db, url)
            for _ in range(12):
                for user in users:
                    emit(db, user)
            assert deliver(db).sent == 60
        assert product.sequences == {user: list(range(1, 13)) for user in users}

    def test_a_slow_endpoint_holds_up_no_other(self, db: Database) -> None:
        """The slow one answers only when the quick one has everything."""
        quick_has_all = threading.Event()
        quick = Endpointed()
        slow = Endpointed()

        def take_quickly(request: Request) -> Response:
            answer = quick(request)
            if len(quick.taken) == 40:
                quick_has_all.set()
            return answer

        def take_slowly(request: Request) -> Response:
            assert quick_has_all.wait(20)
            return slow(request)

        for number in range(8):
            emit(db, add_user(db, f"usr_{number}"), times=5)
        with serving(take_quickly) as quick_url, serving(take_slowly) as slow_url:
            add_endpoint(db, slow_url)
            add_endpoint(db, quick_url)
            assert deliver(db).sent == 80
        assert len(slow.taken) == len(quick.taken) == 40

    def test_an_endpoint_has_four_calls_at_once(self, db: Database) -> None:
        lock, calls, most = threading.Lock(), 0, 0
        four = threading.Barrier(4)

        def take(_: Request) -> Response:
            nonlocal calls, most
            with lock:
                calls += 1
                most = max(most, calls)
            four.wait(20)
            with lock:
                calls -= 1
            return Response()

        for number in range(8):
            emit(db, add_user(db, f"usr_{number}"))
        with serving(take) as url:
            add_endpoint(db, url)
            assert deliver(db).sent == 8
        assert most == 4

    def test_no_call_begins_that_could_outlast_the_run(self, db: Database) -> None:
        product = Endpointed()
        with serving(product) as url:
            add_endpoint(db, url)
            emit(db, "usr_ana")
            assert deliver(db, seconds=9).sent == 0
            assert deliver(db).sent == 1
        assert len(product.requests) == 1

    def test_a_call_that_breaks_postpones_its_delivery_alone(self, db: Database) -> None:
        class Broken:
            def post(self, url: str, *_: object) -> Answer:
                if url.startswith("https://a"):
                    raise RuntimeError
                return Answer(200, None, 1)

        add_endpoint(db, "https://a.example")
        add_endpoint(db, "https://b.example")
        emit(db, "usr_ana")
        done = deliver(db, receiver=Broken())
        assert (done.sent, done.postponed) == (1, 1)


class TestFailures:
    def test_a_users_later_events_wait_for_an_hour(self, db: Database) -> None:
        """Other users' events do not."""
        bob = add_user(db, "usr_bob")
        bad = {"usr_ana": "1"}
        product = Endpointed(
            lambda event: 500 if event["sequence"] == bad.get(event["subject"]) else 200
        )
        with serving(product) as url:
            add_endpoint(db, url)
            emit(db, "usr_ana", times=3)
            emit(db, bob, times=2)
            deliver(db)
            assert product.sequences == {bob: [1, 2]}
            pass_time(db, minutes=59)
            deliver(db)
            assert product.sequences == {bob: [1, 2]}
            pass_time(db, minutes=2)
            deliver(db)
            assert product.sequences == {bob: [1, 2], "usr_ana": [2, 3]}
            assert states(db) == {"sent": 4, "pending": 1}
            emit(db, "usr_ana")
            deliver(db)
            assert product.sequences["usr_ana"] == [2, 3, 4]
            bad.clear()
            pass_time(db, hours=2)
            deliver(db)
            assert product.sequences["usr_ana"] == [2, 3, 4, 1]

    def test_events_at_fault_of_many_users_hold_up_no_other(self, db: Database) -> None:
        """All are due in every run, and a run leaves the endpoint after eight failures."""
        product = Endpointed(lambda event: 200 if event["subject"] == "usr_ana" else 500)
        with serving(product) as url:
            endpoint = add_endpoint(db, url)
            for number in range(14):
                emit(db, add_user(db, f"usr_{number}"))
            for _ in range(3):
                deliver(db)
                pass_time(db, hours=1.3)
            emit(db, "usr_ana")
            deliver(db)
            assert product.sequences == {"usr_ana": [1]}
            for _ in range(60):
                pass_time(db, hours=1.3)
                emit(db, "usr_ana")
                deliver(db)
        assert len(product.taken) == 61
        assert endpoints.get(db, endpoint.id).disabled_at is None

    def test_repeats_take_turns(self, db: Database) -> None:
        """Although two runs repeat only eight to eleven events each, all fourteen are repeated."""
        product = Endpointed(lambda _: 500)
        users = {add_user(db, f"usr_{number}") for number in range(14)}
        with serving(product) as url:
            add_endpoint(db, url)
            for user in users:
                emit(db, user)
            for _ in range(2):
                deliver(db)
                pass_time(db, hours=1.3)
            product.requests.clear()
            for _ in range(2):
                deliver(db)
                pass_time(db, hours=1.3)
        assert {json.loads(each.body)["subject"] for each in product.requests} == users

    def test_many_events_of_one_user_hide_no_other_user(self, db: Database) -> None:
        bob = add_user(db, "usr_bob")
        endpoint = add_endpoint(db, "https://a.example")
        emit(db, "usr_ana", times=300)
        emit(db, bob, times=2)
        log.place(db)
        leased = delivering._lease(db, {endpoint.id: 4})
        assert [(each.event.user_id, each.event.sequence) for each in leased] == [
            ("usr_ana", 1),
            (bob, 1),
        ]

    @pytest.mark.parametrize(("way", "attempts"), [("redelivered", 60), ("switched on", 30)])
    def test_pauses_begin_anew(self, db: Database, way: str, attempts: int) -> None:
        with nobody() as url:
            endpoint = add_endpoint(db, url)
            emit(db, "usr_ana")
            for _ in range(attempts):
                deliver(db)
                pass_time(db, hours=1.3)
            (failed,) = endpoints.deliveries(db, endpoint.id, state=None, before=None, limit=9)
            if way == "redelivered":
                endpoints.redeliver_one(db, endpoint.id, failed.event, by=SYSTEM)
            endpoints.change(db, endpoint.id, Change(enabled=True), by=SYSTEM)
            assert deliver(db).postponed == 1
        (again,) = endpoints.deliveries(db, endpoint.id, state="pending", before=None, limit=9)
        assert again.attempts == failed.attempts + 1
        assert again.due_at is not None
        assert again.attempted_at is not None
        assert again.due_at - again.attempted_at < timedelta(seconds=10)

    def test_one_users_event_at_fault_is_overtaken_where_there_is_no_other_user(
        self, db: Database
    ) -> None:
        product = Endpointed(lambda event: 500 if event["sequence"] == "1" else 200)
        with serving(product) as url:
            add_endpoint(db, url)
            emit(db, "usr_ana", times=3)
            for _ in range(80):
                deliver(db)
                pass_time(db, minutes=1)
        assert product.sequences == {"usr_ana": [2, 3]}

    def test_an_event_at_fault_is_given_up_after_three_days(self, db: Database) -> None:
        product = Endpointed(lambda event: 500 if event["sequence"] == "1" else 200)
        with serving(product) as url:
            endpoint = add_endpoint(db, url)
            for _ in range(80):
                emit(db, "usr_ana")
                deliver(db)
                pass_time(db, hours=1.3)
            assert states(db) == {"failed": 1, "sent": 79}
            assert endpoints.get(db, endpoint.id).disabled_at is None
            (failed,) = endpoints.deliveries(db, endpoint.id, state="failed", before=None, limit=9)
            assert (failed.sequence, failed.status, failed.reason) == (1, 500, "status")
            assert 50 < failed.attempts < 70
            assert db.value("select count(*) from event_attempt where reason is not null") == (
                failed.attempts
            )
            assert delivering.gauges(db).failed == 1
            product.status = lambda _: 200
            assert endpoints.redeliver_one(db, endpoint.id, failed.event, by=SYSTEM) == 1
            deliver(db)
        assert states(db) == {"sent": 80}

    def test_a_receiver_that_was_down_for_a_day_gets_everything_in_order(
        self, db: Database
    ) -> None:
        users = ["usr_ana", add_user(db, "usr_bob"), add_user(db, "usr_cid")]
        product = Endpointed()
        with nobody() as url:
            endpoint = add_endpoint(db, url)
            for hour in range(24):
                for user in users[: 1 + hour % 3]:
                    emit(db, user)
                for _ in range(4):
                    deliver(db)
                    pass_time(db, minutes=15)
        assert states(db) == {"pending": 48}
        assert endpoints.get(db, endpoint.id).disabled_at is None
        with serving(product) as url:
            move(db, endpoint, url)
            for _ in range(80):
                deliver(db)
                pass_time(db, minutes=1)
        assert states(db) == {"sent": 48}
        assert product.sequences == {
            "usr_ana": list(range(1, 25)),
            "usr_bob": list(range(1, 17)),
            "usr_cid": list(range(1, 9)),
        }

    def test_an_endpoint_that_was_down_gets_no_new_event_before_the_old_ones(
        self, db: Database
    ) -> None:
        """The first has failed for more than an hour, and waits for its next attempt."""
        product = Endpointed()
        with nobody() as url:
            endpoint = add_endpoint(db, url)
            emit(db, "usr_ana")
            for _ in range(70):
                deliver(db)
                pass_time(db, minutes=1)
        emit(db, "usr_ana")
        with serving(product) as url:
            move(db, endpoint, url)
            assert deliver(db) == delivering.Done()
            pass_time(db, hours=1)
            assert deliver(db).sent == 2
        assert product.sequences == {"usr_ana": [1, 2]}

    def test_a_run_leaves_an_endpoint_alone_that_takes_nothing(self, db: Database) -> None:
        for number in range(30):
            emit(db, add_user(db, f"usr_{number}"))
        with nobody() as url:
            add_endpoint(db, url)
            assert 8 <= deliver(db).postponed <= 8 + delivering.CALLS_EACH

    def test_an_endpoint_that_takes_nothing_for_three_days_is_switched_off(
        self, db: Database
    ) -> None:
        product = Endpointed()
        with nobody() as url:
            endpoint = add_endpoint(db, url)
            emit(db, "usr_ana", times=2)
            off = 0
            for _ in range(60):
                off += deliver(db).switched_off
                pass_time(db, hours=1.3)
        assert off == 1
        found = endpoints.get(db, endpoint.id)
        assert (found.disabled_by, found.disabled_at is None) == ("failures", False)
        assert delivering.gauges(db).off == 1
        assert delivering.gauges(db).age_seconds == 0
        with serving(product) as url:
            change = Change(url=f"{url}/hooks", enabled=True)
            found = endpoints.change(db, endpoint.id, change, by=SYSTEM)
            assert (found.disabled_by, found.failing_since) == (None, None)
            deliver(db)
        assert product.sequences == {"usr_ana": [2]}  # the first had failed for three days
        assert states(db) == {"sent": 1, "failed": 1}

    def test_an_endpoint_that_is_gone_is_switched_off_at_once(self, db: Database) -> None:
        with serving(Endpointed(lambda _: 410)) as url:
            endpoint = add_endpoint(db, url)
            emit(db, "usr_ana")
            assert deliver(db).switched_off == 1
            assert endpoints.get(db, endpoint.id).disabled_by == "gone"
            pass_time(db, hours=1)
            assert deliver(db) == delivering.Done()


class TestKilledRuns:
    def test_what_a_killed_run_had_leased_is_sent_when_the_lease_is_over(
        self, db: Database, connect: Callable[[], Database]
    ) -> None:
        """The event arrives twice then, with the same id."""
        product = Endpointed()
        killed = connect()

        class Killed(Exception):
            pass

        class DiesAfterTheCall:
            def post(
                self, url: str, headers: dict[str, str], body: bytes, deadline: Deadline
            ) -> Answer:
                receivers = Receivers(allow_loopback=True)
                receivers.post(url, headers, body, deadline)
                receivers.close()
                killed._connect = _refuse
                killed.close()
                return Answer(200, None, 1)

        def _refuse() -> Any:
            raise Killed

        with serving(product) as url:
            add_endpoint(db, url)
            emit(db, "usr_ana", times=2)
            with pytest.raises(Killed):
                deliver(killed, receiver=DiesAfterTheCall())
            assert deliver(db).sent == 0
            assert [event["sequence"] for event in product.taken] == ["1"]
            pass_time(db, minutes=2, seconds=1)
            assert deliver(db).sent == 2
        assert [event["sequence"] for event in product.taken] == ["1", "1", "2"]
        assert len({event["id"] for event in product.taken}) == 2

    def test_an_attempt_that_another_has_followed_changes_nothing_unless_it_was_taken(
        self, db: Database
    ) -> None:
        endpoint = add_endpoint(db, "https://a.example")
        emit(db, "usr_ana")
        log.place(db)
        (first,) = delivering._lease(db, {endpoint.id: 1})
        pass_time(db, minutes=3)
        (second,) = delivering._lease(db, {endpoint.id: 1})
        late = Answer(500, "status", 1)
        assert delivering._record(db, first, late, timedelta(hours=1)) is None
        assert db.value("select leased_until is not null from event_delivery")
        delivering._record(db, first, Answer(200, None, 1), timedelta())
        delivering._record(db, second, late, timedelta(hours=1))
        assert states(db) == {"sent": 1}


class TestConcurrency:
    def test_runs_side_by_side_send_each_event_once(
        self, db: Database, connect: Callable[[], Database]
    ) -> None:
        users = [add_user(db, f"usr_{number}") for number in range(6)]
        product = Endpointed()
        with serving(product) as url:
            add_endpoint(db, url)
            for user in users:
                emit(db, user, times=8)
            log.place(db)
            databases = [connect() for _ in range(3)]
            sent = [0, 0, 0]

            def run(number: int) -> None:
                sent[number] = deliver(databases[number]).sent

            threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sum(sent) == len(product.requests) == 48
        assert product.sequences == {user: list(range(1, 9)) for user in users}

    def test_what_another_run_is_leasing_is_passed_over(self, db: Database, race: Race) -> None:
        endpoint = add_endpoint(db, "https://a.example")
        emit(db, "usr_ana")
        log.place(db)
        passes_by(
            race,
            db,
            "select event from event_delivery for update",
            lambda each: len(delivering._lease(each, {endpoint.id: 4})),
            nothing=0,
            all_of_it=1,
        )

    def test_a_success_beside_a_failure_has_all_others_sent_at_once(
        self, db: Database, race: Race
    ) -> None:
        bob = add_user(db, "usr_bob")
        endpoint = add_endpoint(db, "https://a.example")
        emit(db, "usr_ana")
        emit(db, bob)
        log.place(db)
        ana, bobs = delivering._lease(db, {endpoint.id: 2})
        hour = timedelta(hours=1)
        race.first(lambda mine: delivering._record(mine, ana, Answer(500, "status", 1), hour))
        success = race.second(
            lambda mine: delivering._record(mine, bobs, Answer(200, None, 1), hour)
        )
        race.commit()
        assert success.answer is None
        assert db.value("select due_at <= now() from event_delivery where state = 'pending'")
        assert endpoints.get(db, endpoint.id).failing_since is None
