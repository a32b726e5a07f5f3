"""kill -9 in the middle of deliveries: what was acknowledged is there, and was applied once.

A sender keeps posting new signed events to the local stack and, as Commet does, sends again what
was not acknowledged, and only that. Meanwhile function processes or Postgres are killed, again and
again, until enough deliveries have been cut off half-way.
"""

import hashlib
import hmac
import itertools
import os
import random
import signal
import subprocess
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import httpx
import pytest

from billing.database.connection import Connection
from local.stack import LocalStack
from tests.integration.billing.signed import body
from tests.integration.local.processes import eventually
from tests.proof.scale import scaled

SENDERS = 4
USERS = 5
Mirror = Callable[[], Connection]


class Sender:
    """Posts new events of some users until told to finish; then until all are acknowledged."""

    def __init__(self, stack: LocalStack, users: list[str]) -> None:
        self._doors = (stack.function_url, f"{stack.api}/webhooks/commet")
        self._secret = stack.webhook_secret.encode()
        self._users = users
        self._numbers = itertools.count(1)
        self._again: deque[tuple[str, bytes]] = deque()
        self._lock = threading.Lock()
        self._finishing = threading.Event()
        self._gave_up = False
        self.sent: dict[str, str] = {}  # event id -> user
        self.acknowledged: list[str] = []
        self.cut = 0

    def finish(self) -> None:
        """No new events."""
        self._finishing.set()

    def give_up(self) -> None:
        """Sends nothing any more: the test has failed, and nobody may be there to take it."""
        self.finish()
        with self._lock:
            self._gave_up = True

    def has_got(self, count: int) -> bool:
        """Whether so many were acknowledged."""
        return len(self.acknowledged) >= count

    def run(self) -> None:
        """One thread's work."""
        with httpx.Client(timeout=60, trust_env=False) as http:
            while (event := self._next()) is not None:
                self._send(http, *event)

    def _next(self) -> tuple[str, bytes] | None:
        with self._lock:
            if self._gave_up:
                return None
            if self._again:
                return self._again.popleft()
            if self._finishing.is_set():
                return None
            number = next(self._numbers)
            event_id, user = f"whev_{uuid4().hex}", random.choice(self._users)  # noqa: S311
            self.sent[event_id] = user
        # Each one marks the row, so each one that is applied raises its version by one.
        event = body(
            "invoice.created", number, id=event_id, customerId=user, subscriptionId=f"sub_{user}"
        )
        return event_id, event

    def _send(self, http: httpx.Client, event_id: str, event: bytes) -> None:
        signature = hmac.new(self._secret, event, hashlib.sha256).hexdigest()
        headers = {"x-commet-signature": signature, "content-type": "application/json"}
        answer = http.post(random.choice(self._doors), content=event, headers=headers)  # noqa: S311
        with self._lock:
            if answer.status_code == 200:
                self.acknowledged.append(event_id)
            else:
                assert answer.status_code >= 500, answer.text
                self.cut += 1
                self._again.append((event_id, event))


@pytest.fixture
def users(mirror: Mirror) -> Iterator[list[str]]:
    """People Commet does not know, so they go again: reconcile would ask about them for ever."""
    names = [f"usr_{uuid4().hex[:12]}" for _ in range(USERS)]
    with mirror() as db:
        for name in names:
            db.execute(
                "insert into users (id, email, created_at) values (%s, %s, now())",
                [name, f"{name}@example.com"],
            )
    yield names
    with mirror() as db:
        db.execute("delete from subscriptions where user_id = any (%s)", [names])
        db.execute("delete from users where id = any (%s)", [names])


def kill_functions(stack: LocalStack) -> None:
    """SIGKILL to every process of the webhook function."""
    pool = stack._gateway._functions._pools["WebhookFunction"]
    for worker in list(pool._workers):
        worker._process.kill()


def kill_backend(mirror: Mirror) -> None:
    """SIGKILL to one server process: the postmaster ends all others and recovers by itself."""
    with mirror() as db:
        found = db.execute(
            "select pid from pg_stat_activity"
            " where application_name = 'webhook' and pid <> pg_backend_pid()"
        ).fetchall()
    for row in found[:1]:
        os.kill(row["pid"], signal.SIGKILL)


def kill_postgres(stack: LocalStack, mirror: Mirror) -> None:
    """SIGKILL to the postmaster; then somebody starts it again."""
    with mirror() as db:
        parent = subprocess.run(
            ["ps", "-o", "ppid=", "-p", str(db.info.backend_pid)],
            capture_output=True,
            text=True,
            check=True,
        )
    os.kill(int(parent.stdout), signal.SIGKILL)
    assert stack._postgres is not None
    eventually(stack._postgres.ended)
    stack._postgres.stop()
    stack._postgres.start()


def answers(mirror: Mirror) -> bool:
    try:
        with mirror() as db:
            db.execute("select 1")
    except Exception:  # noqa: BLE001 - on its way
        return False
    return True


@pytest.mark.parametrize("victim", ["function", "backend", "postmaster"])
def test_killed_in_the_middle(
    stack: LocalStack, mirror: Mirror, users: list[str], victim: str
) -> None:
    """Nothing that got its 200 is lost, nothing counts twice, and the rest arrives when resent."""
    kills = scaled({"function": 40, "backend": 20, "postmaster": 10}[victim], 2)
    sender = Sender(stack, users)
    with ThreadPoolExecutor(SENDERS) as pool:
        threads = [pool.submit(sender.run) for _ in range(SENDERS)]
        try:
            done = cut = 0
            while done < kills:
                before = len(sender.acknowledged)
                eventually(partial(sender.has_got, before + 20))
                if victim == "function":
                    kill_functions(stack)
                elif victim == "backend":
                    kill_backend(mirror)
                    eventually(lambda: answers(mirror))
                else:
                    kill_postgres(stack, mirror)
                # A kill that met nobody at work proves nothing and is done again.
                eventually(partial(sender.has_got, before + 40))
                done, cut = done + (sender.cut > cut), sender.cut
        except BaseException:
            sender.give_up()
            raise
        sender.finish()
        for thread in threads:
            thread.result()
    assert sorted(sender.acknowledged) == sorted(sender.sent)
    with mirror() as db:
        stored = db.execute(
            "select id, status from webhooks where customer = any (%s)", [users]
        ).fetchall()
        versions = db.execute(
            "select user_id, version from subscriptions where user_id = any (%s)", [users]
        ).fetchall()
    assert {row["id"]: row["status"] for row in stored} == dict.fromkeys(sender.sent, "applied")
    assert {row["user_id"]: row["version"] for row in versions} == Counter(sender.sent.values())
