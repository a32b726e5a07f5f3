"""One user's trouble is nobody else's, and those who do not pay cost Commet next to nothing."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from time import monotonic

import httpx
import pytest

from billing.commet.client import Commet
from billing.config import Settings, from_env
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.subscriptions import inbox
from billing.subscriptions.access import Access
from local.stack import LocalStack
from standin.testing import Control, StandIn, standin
from tests.integration.billing.conftest import NOW, add_user, own_database
from tests.integration.billing.signed import state
from tests.proof.scale import scaled

POISON = scaled(5000, 300)
UNPAID = 1000
# Ten seconds, doubled up to ten minutes: so often may one user be asked about in an hour.
QUESTIONS_IN_AN_HOUR = 12
CALLS = 3  # about somebody with one subscription: the current one, that one, what it grants


class TestPoison:
    def test_delays_nobody(self, proof_db: Database) -> None:
        """Thousands of older events of one user that fail again and again; the others' are next."""
        poisoned, waiting, fresh = (add_user(proof_db) for _ in range(3))
        _poison(proof_db, poisoned, waiting)
        for minutes in range(POISON):
            assert _receive(proof_db, state(poisoned, f"sub_{poisoned}", minutes)) == "failed"
        assert _receive(proof_db, state(waiting, f"sub_{waiting}", POISON)) == "failed"
        assert _receive(proof_db, state(fresh, f"sub_{fresh}", POISON)) == "applied"
        _poison(proof_db, poisoned)

        assert _retry(proof_db, Deadline.after(300)) == {"failed": POISON, "applied": 1}
        assert _status(proof_db, waiting) == "active"

    def test_the_time_goes_to_what_was_tried_least(self, proof_db: Database) -> None:
        """A run that has time for one event only: not for the poison, which has had its tries."""
        poisoned, waiting = add_user(proof_db), add_user(proof_db)
        _poison(proof_db, poisoned, waiting)
        for minutes in range(60):
            _receive(proof_db, state(poisoned, f"sub_{poisoned}", minutes))
        _retry(proof_db, Deadline.after(300))
        _receive(proof_db, state(waiting, f"sub_{waiting}", 61))
        proof_db.execute("update webhooks set due_at = now()")
        _poison(proof_db, poisoned)
        assert _retry(proof_db, Looks(2)) == {"applied": 1}
        assert _status(proof_db, waiting) == "active"


class Looks(Deadline):
    """Time is up after so many looks at what remains of it."""

    def __init__(self, count: int) -> None:
        super().__init__(0)
        self._left = count

    def remaining(self) -> float:
        self._left -= 1
        return float(self._left >= 0)


def _retry(db: Database, deadline: Deadline) -> dict[str, int]:
    return inbox.retry_failed(db, mode="sandbox", clock=lambda: NOW, deadline=deadline)


def _poison(db: Database, *users: str) -> None:
    """From now on what these users' events write fails, as a bug of ours would make it."""
    db.execute(
        "create or replace function fail() returns trigger language plpgsql as"
        " $$ begin raise exception 'a bug'; end $$"
    )
    listed = ", ".join(f"'{user}'" for user in users)
    db.execute(
        "create or replace trigger poison before insert or update on subscriptions for each row"
        f" when (new.user_id in ({listed})) execute function fail()"
    )


def _receive(db: Database, body: bytes) -> str:
    return inbox.receive(db, body, mode="sandbox", now=NOW).outcome


def _status(db: Database, user: str) -> object:
    return db.value("select status from subscriptions where user_id = %s", [user])


@dataclass(frozen=True)
class World:
    """A mirror and a stand-in whose customers have not paid."""

    db: Database
    url: str
    remote: StandIn
    commet: Commet

    def access(self, db: Database | None = None, *, calls_per_second: int = 1000) -> Access:
        settings: Settings = from_env(
            {"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": str(calls_per_second)}
        )
        return Access(db or self.db, settings, lambda: self.commet, self.clock)

    def clock(self) -> datetime:
        return self.remote.control.now()

    def calls(self) -> int:
        """What Commet was asked so far about subscriptions and what they grant."""
        sent = self.remote.control.requests(method="GET", limit=2000)
        return len(sent)

    def unpaid(self, count: int) -> list[str]:
        """So many users with a checkout that waits for payment, here and at Commet."""
        users = [f"usr_{n:04}" for n in range(count)]
        headers = {"x-api-key": self.remote.api_key}
        with httpx.Client(base_url=self.remote.base_url, headers=headers, trust_env=False) as http:
            for user in users:
                http.post("/customers", json={"id": user, "email": f"{user}@example.com"})
                body = {"customerId": user, "planCode": "usage_pro"}
                made = http.post("/subscriptions", json=body).raise_for_status().json()
                add_user(self.db, user)
                self.db.execute(_UNPAID, [made["id"], user, self.clock(), self.clock()])
        return users


_UNPAID = (
    "insert into subscriptions (id, user_id, status, created_at, changed_at)"
    " values (%s, %s, 'pending_payment', %s, %s)"
)

_MANY_UNPAID = """
with added as (
    insert into users (id, email, created_at)
    select id, id || '@example.com', %(now)s
    from generate_series(0, %(count)s - 1) as n
    cross join lateral (select %(tag)s || '_' || lpad(n::text, 4, '0') as id) as named
    returning id
)
insert into subscriptions (id, user_id, status, created_at, changed_at)
select 'sub_' || id, id, 'pending_payment', %(now)s, %(now)s from added
"""


@pytest.fixture
def world(proof_db: Database, proof_url: str) -> Iterator[World]:
    with standin() as remote:
        commet = Commet(
            remote.base_url,
            lambda *, fresh=False: remote.api_key,  # noqa: ARG005
            live=False,
            sleep=lambda _: None,
        )
        yield World(proof_db, proof_url, remote, commet)
        commet._http.close()


class TestUnpaid:
    def test_polling(self, world: World) -> None:
        """All the time for an hour costs a dozen questions, fewer the longer it goes on."""
        (user,) = world.unpaid(1)
        access = world.access()
        asked_at = []
        step = timedelta(seconds=scaled(1, 10))
        for number in range(int(timedelta(hours=1) / step)):
            if access.ask(user, Deadline.after(20)):
                asked_at.append(number * step)
            # Time passes, for all that counts it.
            world.db.execute("update subscriptions set checked_at = checked_at - %s", [step])
        assert 3 < len(asked_at) <= QUESTIONS_IN_AN_HOUR
        assert world.calls() <= len(asked_at) * CALLS
        pauses = [after - before for before, after in pairwise(asked_at)]
        # The time that the loop itself takes passes too: it may cut one step off a pause.
        assert min(later - earlier for earlier, later in pairwise(pauses)) >= -step
        assert pauses[0] >= timedelta(seconds=10)

    def test_all_at_once(self, world: World) -> None:
        """Everybody polls at the same moment from many environments: the bucket decides."""
        users = world.unpaid(scaled(300, 60))
        rate = 5
        before, began = world.calls(), monotonic()

        def poll(share: list[str]) -> int:
            with own_database(world.url) as db:
                access = world.access(db, calls_per_second=rate)
                return sum(access.ask(user, Deadline.after(20)) for user in share)

        with ThreadPoolExecutor(6) as pool:
            answered = sum(pool.map(poll, [users[n::6] for n in range(6)]))
        spent, seconds = world.calls() - before, monotonic() - began
        assert 0 < answered < len(users)
        # What the bucket holds at first, and what flows in meanwhile.
        assert answered * CALLS <= 32 + rate * seconds
        assert spent <= answered * CALLS

    def test_a_batch(self, stack: LocalStack, remote: Control) -> None:
        """A thousand unpaid users in one request: five are asked about, the rest may come again."""
        tag = f"usr_batch_{monotonic():.0f}"
        with own_database(stack.database_url) as db:
            db.execute(_MANY_UNPAID, {"tag": tag, "count": UNPAID, "now": remote.now()})
        before = len(remote.requests(method="GET", limit=2000))
        events = [
            {
                "feature": "storage",
                "quantity": "1",
                "idempotency_key": "1",
                "user_id": f"{tag}_{n:04}",
            }
            for n in range(UNPAID)
        ]
        answer = httpx.post(
            f"{stack.api}/usage",
            json={"events": events},
            headers={"authorization": f"Bearer {stack.service_key}"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 202, answer.text
        codes = Counter(each["code"] for each in answer.json()["results"])
        assert codes == {"access_unconfirmed": UNPAID - 5, "subscription_required": 5}
        assert len(remote.requests(method="GET", limit=2000)) - before <= 5 * CALLS
        with own_database(stack.database_url) as db:
            db.execute("delete from subscriptions where user_id like %s", [f"{tag}%"])
