"""Measures whether work takes as long with a large ledger as with a small one.

There are databases with ledgers of 10,000 entries, of ten times as many, and so on. Half of the
entries belong to 1,000 users, who do the work. The other half belongs to as many others as have
1,000 entries each, with twelve periods, totals and deliveries. Idempotency keys are random, as
UUIDs are, so that a new key may belong anywhere in the index.

The databases take turns at each kind of work, so other work of the machine slows all of them alike.

    PYTHONPATH=.:layers/common python -m bench.ledger_size [--rounds N] [--ledger ROWS]
        [--plot FILE]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from bench.database import connect, migrated_database
from bench.delivery import AT_ONCE, Receiver, Unlimited
from bench.plot import line_chart
from bench.usage_users import (
    FEATURES,
    USERS,
    accept,
    database_beside,
    events,
    key_in_order,
    number_of_user,
    url_beside,
)
from billing.commet.answers import FeatureAccess
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.delivery import comparing, outbox
from billing.delivery.sending import deliver
from billing.usage import ledger, sums
from billing.usage.totals import usage_of_user

SMALLEST = 10_000
TARGET = 1.3
BATCH = 1_000
USERS_OF_A_BATCH = 100
CLAIMED = 100  # users whose totals grow before a claim
COMPARED = 10  # batches of users whose totals are compared in one turn
PRUNED = 200  # entries, or deliveries, that one turn looks at
QUIET_FROM = 1_000_000  # the first period of the users who do no work

Growth = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Work:
    """Work that must not depend on the ledger's size.

    `prepare` is called before each repetition, and its time does not count.
    """

    name: str
    times: int  # in one turn
    do: Callable[["Place"], object]
    prepare: Callable[["Place"], object] | None = None
    is_drawn: bool = True


@dataclass(slots=True)
class Place:
    """A database, and the ledger entry that pruning stopped at."""

    db: Database
    pruned_to: dict[str, object] = field(
        default_factory=lambda: {"booked_at": "-infinity", "user_id": "", "key": "", "feature": ""}
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.ledger_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (15)")
    parser.add_argument(
        "--ledger",
        type=int,
        default=10_000_000,
        help="rows of the largest ledger (10,000,000); each takes 250 bytes of disk",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the growth as SVG")
    options = parser.parse_args(arguments)
    console = Console()
    with migrated_database() as url:
        grown = _growth(console, url, options.ledger, options.rounds)
    console.print(_table(grown))
    if options.plot:
        options.plot.write_text(_chart(grown), encoding="utf-8")
        console.print(f"Wrote {options.plot}.")
    return 0


def _growth(console: Console, url: str, rows: int, rounds: int) -> Growth:
    """The median milliseconds of each kind of work, by the rows in the ledger."""
    sizes = [size for size in (SMALLEST * 10**n for n in range(6)) if size < rows] + [rows]
    places = {}
    for size in sizes:
        began = time.perf_counter()
        with console.status(f"filling a ledger of {size:,} rows"):
            places[size] = _filled(url, size)
        console.print(f"Filled a ledger of {size:,} rows in {time.perf_counter() - began:,.0f} s.")
    taken: dict[str, dict[int, list[float]]] = {
        work.name: {size: [] for size in sizes} for work in WORKS
    }
    for number in range(rounds + 1):
        with console.status(f"round {number} of {rounds}"):
            for work in WORKS:
                for size, place in list(places.items()) * work.times:
                    if work.prepare:
                        work.prepare(place)
                    began = time.perf_counter()
                    work.do(place)
                    if number:  # the first round warms up
                        taken[work.name][size].append((time.perf_counter() - began) * 1000)
    for place in places.values():
        place.db.close()
    return {
        name: [(size, statistics.median(times)) for size, times in by_size.items()]
        for name, by_size in taken.items()
    }


# --- the work -----------------------------------------------------------------------------------


def _random_key() -> str:
    return uuid4().hex


def _accept_one(place: Place) -> None:
    accept(place.db, events(1, USERS, key=_random_key))


def _accept_in_order(place: Place) -> None:
    accept(place.db, events(1, USERS, key=key_in_order))


def _accept_batch(place: Place) -> None:
    accept(place.db, events(BATCH, USERS_OF_A_BATCH, key=_random_key))


def _come_near_thresholds(place: Place) -> None:
    place.db.execute("update usage_total set look_at = 0 where period <= %s", [USERS])


def _read_dashboard(place: Place) -> object:
    user_id = f"usr_{number_of_user()}"
    return usage_of_user(place.db, user_id=user_id, currency="usd", now=datetime.now(UTC))


def _read_page_of_user(place: Place) -> object:
    query = ledger.Query(user_id=f"usr_{number_of_user()}")
    return ledger.page(place.db, query, limit=5, now=datetime.now(UTC))


def _read_page_of_all(place: Place) -> object:
    since = datetime.now(UTC) - timedelta(days=2 + number_of_user() % 100)
    return ledger.page(place.db, ledger.Query(since=since), now=datetime.now(UTC))


def _read_sums(place: Place) -> object:
    return sums.page(place.db, f"usr_{number_of_user()}", sums.Query(feature="api"), limit=30)


def _grow(place: Place) -> None:
    """Leaves nothing to claim but growth of `CLAIMED` users."""
    _claim(place)
    _deliver(place)
    place.db.execute(
        "insert into usage_total as t (period, feature, total)"
        " select p.id, f, 1 from usage_period p, unnest(%s::text[]) as f"
        " where p.closed_at is null and p.id <= %s"
        " on conflict (period, feature) do update set total = t.total + 1",
        [list(FEATURES), CLAIMED],
    )


def _claim(place: Place) -> int:
    return outbox.claim(place.db, now=datetime.now(UTC), interval=AT_ONCE)


def _grow_and_claim(place: Place) -> None:
    _grow(place)
    if _claim(place) != CLAIMED * len(FEATURES):
        raise RuntimeError("not all growth was claimed")


def _deliver(place: Place) -> None:
    while not deliver(
        place.db, Receiver(), lambda: datetime.now(UTC), Deadline.after(50), timedelta(minutes=5),
        budget=Unlimited(), workers=4,
    ).drained:  # fmt: skip
        pass


class _Silent:
    """Answers about each user that Commet counts nothing."""

    def feature_access(self, user_id: str, deadline: Deadline) -> list[FeatureAccess]:  # noqa: ARG002
        return []


class _Few(Unlimited):
    """A call budget of `COMPARED` batches."""

    def __init__(self) -> None:
        self.left = COMPARED

    def wait(self, calls: int, deadline: Deadline) -> bool:  # noqa: ARG002
        self.left -= 1
        return self.left >= 0


def _compare(place: Place) -> None:
    compared = comparing.compare(
        place.db, _Silent(), _Few(), lambda: datetime.now(UTC), Deadline.after(50),
        every=timedelta(0),
    )  # fmt: skip
    if not compared.users:
        raise RuntimeError("no user was compared")


def _prune(place: Place) -> None:
    row = place.db.one(
        "select * from prune_ledger(now() - interval '40 days', %(booked_at)s, %(user_id)s,"
        " %(key)s, %(feature)s, %(limit)s)",
        {**place.pruned_to, "limit": PRUNED},
    )
    if row is None or not row["pruned"]:
        raise RuntimeError("no entry was pruned")
    place.pruned_to = {name: row[name] for name in place.pruned_to}


def _compact(place: Place) -> None:
    row = place.db.one("select * from compact_deliveries(now() - interval '40 days', %s)", [PRUNED])
    if row is None or not row["looked_at"]:
        raise RuntimeError("no period was compacted")


WORKS = (
    Work("one event", 40, _accept_one),
    Work("one event, keys in order", 40, _accept_in_order, is_drawn=False),
    Work("one event at a threshold", 20, _accept_one, _come_near_thresholds, is_drawn=False),
    Work("a batch of 1,000", 4, _accept_batch),
    Work("a dashboard", 40, _read_dashboard),
    Work("a page of a user's ledger", 40, _read_page_of_user),
    Work("a page of everybody's", 40, _read_page_of_all),
    Work("sums of days", 40, _read_sums, is_drawn=False),
    Work(f"claiming {CLAIMED * len(FEATURES)} totals", 2, _claim, _grow),
    Work(f"delivering {CLAIMED * len(FEATURES)}", 1, _deliver, _grow_and_claim, is_drawn=False),
    Work("comparing 80 users", 1, _compare),
    Work("the outbox's metrics", 4, lambda place: outbox.gauges(place.db), is_drawn=False),
    Work(f"pruning {PRUNED} entries", 1, _prune),
    Work(f"merging {PRUNED} deliveries", 1, _compact, is_drawn=False),
    Work("a vacuum", 1, lambda place: place.db.execute("vacuum usage_event"), is_drawn=False),
)


# --- the ledgers --------------------------------------------------------------------------------


def _filled(url: str, size: int) -> Place:
    """A new database with `size` rows in its ledger."""
    name = f"bench_{size}"
    database = database_beside(url, name)
    with connect(url_beside(url, name)) as admin:
        _fill(admin, size)
    return Place(database)


def _fill(admin: Connection, size: int) -> None:
    """Inserts the entries of a year, their periods, totals, days and deliveries."""
    quiet = max(1, size // 2 // 1_000)
    values = {"users": USERS, "quiet": quiet, "from": QUIET_FROM, "half": size // 2, "size": size}
    for statement in (
        "insert into users (id, email, created_at)"
        " select 'quiet_' || n, 'quiet' || n || '@example.com', now()"
        " from generate_series(0, %(quiet)s - 1) as n",
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at, closed_at)"
        " overriding system value select %(from)s + n * 12 + m, 'quiet_' || n, 'sub_quiet_' || n,"
        " now() - (m + 1) * interval '30 days',"
        " now() - m * interval '30 days' + case when m = 0 then interval '1 day' else '0' end,"
        " case when m > 0 then now() - m * interval '30 days' end"
        " from generate_series(0, %(quiet)s - 1) as n, generate_series(0, 11) as m",
    ):
        admin.execute(statement, values)
    _without_indexes(
        admin,
        "insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity,"
        " occurred_at, booked_at, period, late)"
        " select case when is_quiet then 'quiet_' else 'usr_' end || u, md5(n::text),"
        " decode(md5(n::text), 'hex'), 'storage', 1, t, t,"
        " case when is_quiet then %(from)s + u * 12 + m else 1 + u + %(users)s * m end, false"
        " from generate_series(1, %(size)s::bigint) as n"
        " cross join lateral (select n > %(half)s as is_quiet,"
        " now() - interval '360 days' * (n %% %(half)s / %(half)s::float8) as t) as a"
        " cross join lateral (select case when is_quiet then n %% %(quiet)s else n %% %(users)s end"
        " as u, least(extract(day from now() - t)::bigint / 30, 11) as m) as b",
        values,
    )
    for statement in (
        "insert into usage_total (period, feature, total, claimed, seq, claimed_at, fully_claimed)"
        " select p.id, 'storage', e.n, e.n, 2, now() - interval '1 hour', p.closed_at is not null"
        " from (select period, count(*) as n from usage_event group by period) as e"
        " join usage_period p on p.id = e.period",
        "insert into usage_daily (period, feature, day, quantity)"
        " select p.id, 'api', d::date, 1 from usage_period p,"
        " generate_series(p.starts_at, p.ends_at - interval '2 days', '1 day') as d"
        " where p.user_id like 'usr%%'",
        "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
        " state, sent_at, answered_at, billed_period)"
        " select p.id, 'storage', s, p.user_id,"
        " case when s = 1 then floor(t.total / 2) else t.total - floor(t.total / 2) end,"
        " p.id || ':storage:' || s, repeat('x', 150), 'sent',"
        " least(p.ends_at, now()) - interval '1 hour', least(p.ends_at, now()) - interval '1 hour',"
        " p.id from usage_total t join usage_period p on p.id = t.period,"
        " generate_series(1, 2) as s",
    ):
        admin.execute(statement, values)
    admin.execute("vacuum (analyze)")
    admin.execute("checkpoint")


def _without_indexes(admin: Connection, insert: str, values: dict[str, int]) -> None:
    """Inserts into the ledger while it has no index, which takes a fraction of the time."""
    key = "usage_event_pkey"
    indexes = admin.execute(
        "select indexname, indexdef from pg_indexes where tablename = 'usage_event'"
        " and indexname <> %s",
        [key],
    ).fetchall()
    primary = admin.execute(
        "select pg_get_constraintdef(oid) as text from pg_constraint where conname = %s", [key]
    ).fetchone()
    if not indexes or primary is None:
        raise RuntimeError("the ledger's indexes have other names")
    admin.execute(f"alter table usage_event drop constraint {key}".encode())
    for index in indexes:
        admin.execute(f"drop index {index['indexname']}".encode())
    admin.execute(insert, values)
    admin.execute("set maintenance_work_mem = '2GB'")
    admin.execute(f"alter table usage_event add constraint {key} {primary['text']}".encode())
    for index in indexes:
        admin.execute(index["indexdef"].encode())


# --- output -------------------------------------------------------------------------------------


def _chart(grown: Growth) -> str:
    """The growth as SVG. Each line shows multiples of the work's time at the shortest ledger."""
    drawn = {work.name: grown[work.name] for work in WORKS if work.is_drawn}
    relative = {
        f"{name} ({line[0][1]:.1f} ms)": [(size, ms / line[0][1]) for size, ms in line]
        for name, line in drawn.items()
    }
    return line_chart(
        "How long work takes with a longer ledger",
        "rows in the ledger",
        "times the shortest ledger (median)",
        relative,
        limit=TARGET,
    )


def _table(grown: Growth) -> Table:
    table = Table(title="Median milliseconds, by rows in the ledger", title_justify="left")
    table.add_column("")
    for size, _ in next(iter(grown.values())):
        table.add_column(f"{size:,.0f}", justify="right")
    table.add_column(f"last / first (target {TARGET})", justify="right")
    for name, line in grown.items():
        ratio = line[-1][1] / line[0][1]
        verdict = "[green]✓[/]" if ratio <= TARGET else "[red]✗[/]"
        table.add_row(name, *(f"{ms:.2f}" for _, ms in line), f"{ratio:.2f} {verdict}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
