"""Measures how long claiming and delivering usage take.

A million accepted events of 10,000 users and 3 features are claimed. For comparison, a bare claim
does in the same database the least that any claim must do: raise a number and insert a row. The two
claims take turns, and ratios are medians over the rounds. Then everything is delivered to a
receiver that answers at once and counts one call per user and feature.

    PYTHONPATH=.:layers/common python -m bench.delivery [--rounds N]
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.database import connect, migrated_database
from billing.commet.answers import FeatureAccess
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.delivery.outbox import claim
from billing.delivery.sending import deliver

USERS = 10_000
FEATURES = ("api", "storage", "tokens")
EVENTS = 1_000_000
WORKERS = 8
TARGET_SECONDS = 1.0
TARGET_GROWTH = 1.3
GROWING = 1_000  # users whose totals grow in each step
NOW = datetime.now(UTC)
AT_ONCE = timedelta(0)

_BARE = """
with claimed as (
    update usage_total set claimed = total, seq = seq + 1
    where total > claimed
    returning period, feature, seq, total
)
insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body)
select period, feature, seq, '', total, '', '' from claimed
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.delivery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of claims (default: 5)")
    options = parser.parse_args(arguments)
    console = Console()
    with migrated_database() as url, connect(url) as admin:
        database = Database(lambda: connect(url))
        with console.status(f"accepting {EVENTS:,} events"):
            _populate(admin)
            _accept(admin)
        with console.status("claiming"):
            ours, bare, idle = _claims(admin, database, options.rounds)
        with console.status("delivering"):
            seconds, calls = _delivering(admin, database)
        console.print(_table(ours, bare, idle, seconds, calls))
        database.close()
    return 0


# --- a million events ---------------------------------------------------------------------------


def _claims(
    admin: Connection, database: Database, rounds: int
) -> tuple[list[float], list[float], float]:
    """Seconds of our claim and of the bare one in each round, and of a claim that finds nothing."""
    ours, bare = [], []
    for _ in range(rounds):
        _unclaim(admin)
        ours.append(_seconds(lambda: claim(database, now=NOW, interval=AT_ONCE)))
        _unclaim(admin)
        bare.append(_seconds(lambda: admin.execute(_BARE)))
    idle = _seconds(lambda: claim(database, now=NOW, interval=AT_ONCE))
    return ours, bare, idle


def _unclaim(admin: Connection) -> None:
    admin.execute("truncate usage_delivery")
    admin.execute("update usage_total set claimed = 0, seq = 0, claimed_at = null")
    admin.execute("vacuum analyze usage_total")
    admin.execute("checkpoint")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass
class Receiver:
    """Answers at once, and counts the calls for each delivery and for each user and feature."""

    events: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    id: str = "evt_1"
    _lock: Lock = field(default_factory=Lock)

    def track_usage(self, body: str, *, idempotency_key: str, deadline: Deadline) -> "Receiver":  # noqa: ARG002
        event, _, _ = idempotency_key.rpartition(":")
        pair, _, _ = event.rpartition(":")
        with self._lock:
            self.events[event] += 1
            self.pairs[pair] += 1
        return self

    replace_usage = track_usage

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:
        raise NotImplementedError("nothing is replaced here")


class Unlimited:
    """A call budget that is never used up."""

    def wait(self, calls: int, deadline: Deadline) -> bool:  # noqa: ARG002
        return True

    def pause(self, seconds: float) -> None: ...


def _delivering(admin: Connection, database: Database) -> tuple[float, int]:
    """The seconds and calls that delivering everything took.

    Raises RuntimeError where a user and feature took more than one call.
    """
    _unclaim(admin)
    receiver = Receiver()
    began = time.perf_counter()
    while not deliver(
        database, receiver, lambda: NOW, Deadline.after(50), timedelta(minutes=5),
        budget=Unlimited(), workers=WORKERS,
    ).drained:  # fmt: skip
        pass
    seconds = time.perf_counter() - began
    wanted = USERS * len(FEATURES)
    if set(receiver.pairs.values()) != {1} or len(receiver.pairs) != wanted:
        raise RuntimeError("not one call per user and feature")
    return seconds, receiver.events.total()


# --- test data ----------------------------------------------------------------------------------


def _populate(admin: Connection) -> None:
    """Inserts users, each with a running period."""
    for statement in (
        "delete from users",
        "insert into users (id, email, created_at)"
        " select 'usr_' || n, n || '@example.com', now() from generate_series(0, %(last)s) as n",
        "insert into subscriptions (id, user_id, status, billing_interval, created_at, changed_at)"
        " select 'sub_' || id, id, 'active', 'monthly', now(), now() from users",
        "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
        " select 'usr_' || n, 'sub_usr_' || n, now() - interval '10 days',"
        " now() + interval '20 days' from generate_series(0, %(last)s) as n",
    ):
        admin.execute(statement, {"last": USERS - 1})


def _accept(admin: Connection) -> None:
    """Inserts the ledger and its totals, as accepting the events would have."""
    features: dict[str, Any] = {"events": EVENTS, "users": USERS, "features": list(FEATURES)}
    admin.execute(
        "insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity,"
        " occurred_at, booked_at, period, late)"
        " select p.user_id, 'bench-' || n, '\\x00', (%(features)s::text[])[n %% 3 + 1], 1,"
        " now(), now(), p.id, false"
        " from generate_series(1, %(events)s) as n"
        " join usage_period p on p.user_id = 'usr_' || n %% %(users)s",
        features,
    )
    admin.execute(
        "insert into usage_total (period, feature, total)"
        " select period, feature, sum(quantity) from usage_event group by period, feature"
    )
    admin.execute("vacuum (analyze)")


# --- output -------------------------------------------------------------------------------------


def _table(
    ours: Sequence[float], bare: Sequence[float], idle: float, seconds: float, calls: int
) -> Table:
    table = Table(
        title=f"{EVENTS:,} events of {USERS:,} users and 3 features", title_justify="left"
    )
    table.add_column("")
    for heading in ("seconds", "bare claims"):
        table.add_column(heading, justify="right")
    median = statistics.median(ours)
    verdict = "[green]✓[/]" if median <= TARGET_SECONDS else "[red]✗[/]"
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    table.add_row(
        "claimed", f"{median:.2f} of {TARGET_SECONDS:.0f} {verdict}", f"{ratio:.1f} times"
    )
    table.add_row("the bare claim", f"{statistics.median(bare):.2f}", "")
    table.add_row("a claim that finds nothing", f"{idle:.3f}", "")
    table.add_row(
        f"delivered, in {calls:,} calls", f"{seconds:.1f} ({calls / seconds:,.0f} a second)", ""
    )
    return table


if __name__ == "__main__":
    raise SystemExit(main())
