"""Measures how fast usage is accepted, compared with pgbench, also while the ledger grows.

Single events: `accept` of `billing.usage.accepting` and the whole handler are compared with two
runs of pgbench on the same server. One calls the same SQL function. The other only inserts into the
ledger and its total and decides nothing, which is the least that any solution must do. Batches of
1,000 events: the whole handler is compared with this bare statement, sent by the same driver.

All of them take turns in many short rounds, because the machine's speed changes. A ratio is
computed within each round, and the median of these ratios is shown.

The ceiling: users without any limit, users within what their plan includes, and users who pay for
overage up to a spending ceiling report the same events, one by one and in batches. The first kind
has no ceiling, so the ratio to it is what the ceiling costs.

Thresholds: the same events are accepted where none is near: with the default thresholds, and with
20 own ones. The ratio is to a database whose `accept_usage` looks at no threshold.

Growth: there are databases with ledgers of 10,000 entries, of ten times as many, and so on. The
work that must not depend on the ledger's size takes turns on them.

    PYTHONPATH=.:layers/common python -m bench.usage [--rounds N] [--ledger ROWS] [--plot FILE]
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rich.console import Console
from rich.table import Table

from bench.database import connect, migrated_database
from bench.plot import line_chart
from billing.database.connection import Connection, Database
from billing.database.migrate import migrate
from billing.usage import accepting, ledger
from billing.usage.accepting import UsageEvent
from billing.usage.rules import Rules
from billing.usage.totals import usage_of_user
from local.postgres.binaries import find_binaries

USERS = 1_000
FEATURES = ("api", "storage", "tokens")
# The users of each kind have names of their own. `usr` are within what their plan includes.
CEILINGS = {
    "unlimited, no ceiling": "free",
    "within what is included": "usr",
    "overage below a ceiling": "pays",
}
KEY = "svc_bench_" + "0" * 64
STATUSES = frozenset({"active", "trialing", "past_due"})
# A ceiling that nobody reaches.
RULES = Rules(STATUSES, ceilings={"usd": Decimal(10) ** 15}, at_once={"usd": None})
TARGET = 0.6
TARGET_BATCH = 25_000
TARGET_CEILING = 0.95
TARGET_THRESHOLDS = 0.98
TARGET_GROWTH = 1.3
EVENTS = 600  # of a turn, when sent one by one
BATCHES = 6  # of a turn
BATCH = 1_000
USERS_OF_A_BATCH = 100

Growth = dict[str, list[tuple[float, float]]]

_keys = count()

_BARE_SINGLE = """
with e as (
    insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity, occurred_at,
                             booked_at, period, late)
    values (:user, :key, '\\x00', 'storage', 1, now(), now(), :period, false)
    on conflict do nothing
    returning period, feature, quantity
)
insert into usage_total as t (period, feature, total) select period, feature, quantity from e
on conflict (period, feature) do update set total = t.total + excluded.total
"""

_BARE_BATCH = """
with e as (
    insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity, occurred_at,
                             booked_at, period, late)
    select u, k, '\\x00', f, 1, now(), now(), p, false
    from unnest(%s::text[], %s::text[], %s::text[], %s::bigint[]) as t (u, k, f, p)
    order by u, k
    on conflict do nothing
    returning period, feature, quantity
)
insert into usage_total as t (period, feature, total)
select period, feature, sum(quantity) from e group by period, feature order by period, feature
on conflict (period, feature) do update set total = t.total + excluded.total
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do the work: its name, and a function that does one turn.

    The function returns how many events a second the turn reached.
    """

    name: str
    turn: Callable[[], float]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.usage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds (15)")
    parser.add_argument(
        "--ledger", type=int, default=10_000_000, help="rows of the largest ledger (10,000,000)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the growth as SVG")
    options = parser.parse_args(arguments)
    console = Console()
    with migrated_database() as url, _environment(url):
        with connect(url) as admin:
            _populate(admin)
        database = Database(lambda: connect(url))
        singles = [
            Way("accept()", lambda: _accepting(database, EVENTS, 1, USERS)),
            Way("the handler", lambda: _handling(EVENTS, 1, USERS)),
            Way("pgbench, the same function", lambda: _pgbench(url, EVENTS, _same())),
            Way("pgbench, two bare inserts", lambda: _pgbench(url, EVENTS, _bare())),
        ]
        with console.status("single events"):
            reached = _in_turns(singles, options.rounds)
        console.print(_table("Single events, one at a time", reached, singles[2].name))
        for users in (USERS_OF_A_BATCH, USERS):
            batches = [
                Way("accept()", partial(_accepting, database, BATCHES, BATCH, users)),
                Way("the handler", partial(_handling, BATCHES, BATCH, users)),
                Way("bare inserts by unnest", partial(_inserting, database, BATCHES, users)),
            ]
            with console.status(f"batches of {users} users"):
                reached = _in_turns(batches, options.rounds)
            title = f"Events in batches of {BATCH:,}, of {users:,} users each"
            console.print(_table(title, reached, batches[2].name))
        console.print(
            f"Targets: single events reach {TARGET} of pgbench with the same function. Batches"
            f" through the handler reach {TARGET_BATCH:,} events a second, or {TARGET} of the bare"
            " statement."
        )
        for size, times in ((1, EVENTS), (BATCH, BATCHES)):
            ceilings = [
                Way(name, partial(_handling, times, size, USERS_OF_A_BATCH, kind))
                for name, kind in CEILINGS.items()
            ]
            with console.status(f"the ceiling, {size:,} events at a time"):
                reached = _in_turns(ceilings, options.rounds)
            title = f"What the ceiling costs, {size:,} events at a time"
            console.print(_table(title, reached, ceilings[0].name))
        console.print(
            f"Target: the handler reaches {TARGET_CEILING} of what it does without a ceiling."
        )
        _compare_thresholds(console, url, database, options.rounds)
        console.print(_written(database))
        grown = _growth(console, url, options.ledger, options.rounds)
        console.print(_growth_table(grown))
        if options.plot:
            options.plot.write_text(growth_chart(grown), encoding="utf-8")
            console.print(f"Wrote {options.plot}.")
    return 0


# --- one turn of each --------------------------------------------------------------------------


def _in_turns(ways: Sequence[Way], rounds: int) -> dict[str, list[float]]:
    for way in ways:
        way.turn()  # does not count: connects, plans statements, fills caches
    turns = [{way.name: way.turn() for way in ways} for _ in range(rounds)]
    return {way.name: [turn[way.name] for turn in turns] for way in ways}


def _per_second(size: int, work: Callable[[Any], None], prepared: Sequence[Any]) -> float:
    began = time.perf_counter()
    for each in prepared:
        work(each)
    return size * len(prepared) / (time.perf_counter() - began)


def _events(size: int, users: int, kind: str = "usr") -> list[UsageEvent]:
    return [
        UsageEvent(f"{kind}_{_user(users)}", FEATURES[n % 3], Decimal(1), f"bench-{next(_keys)}")
        for n in range(size)
    ]


def _user(users: int = USERS) -> int:
    return next(_keys) * 7919 % users


def _accepting(database: Database, times: int, size: int, users: int) -> float:
    prepared = [_events(size, users) for _ in range(times)]
    return _per_second(size, partial(_accept, database), prepared)


def _accept(database: Database, events: Sequence[UsageEvent]) -> None:
    verdicts = accepting.accept(database, events, rules=RULES, now=datetime.now(UTC))
    if any(verdict.status != "accepted" for verdict in verdicts):
        raise RuntimeError(f"not accepted: {verdicts[0]}")


def _handling(times: int, size: int, users: int, kind: str = "usr") -> float:
    prepared = []
    for _ in range(times):
        events = [
            {
                "user_id": event.user_id,
                "feature": event.feature,
                "quantity": "1",
                "idempotency_key": event.idempotency_key,
            }
            for event in _events(size, users, kind)
        ]
        prepared.append(json.dumps(events[0] if size == 1 else {"events": events}))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        return _per_second(size, partial(_handle, size), prepared)


def _handle(size: int, body: str) -> None:
    from functions.track_usage import app

    answer = app.handler(_request(body), _Context())
    if answer["statusCode"] != 202 or f'"accepted":{size}' not in answer["body"]:
        raise RuntimeError(answer["body"][:500])


def _inserting(database: Database, times: int, users: int) -> float:
    prepared = [
        [
            [event.user_id for event in events],
            [event.idempotency_key for event in events],
            [event.feature for event in events],
            [int(event.user_id.removeprefix("usr_")) + 1 for event in events],
        ]
        for events in [_events(BATCH, users) for _ in range(times)]
    ]
    return _per_second(BATCH, partial(database.execute, _BARE_BATCH), prepared)


class _Context:
    aws_request_id = "bench"
    function_name = "track_usage"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-central-1:1:function:bench"

    def get_remaining_time_in_millis(self) -> int:
        return 20_000


def _request(body: str) -> dict[str, Any]:
    return {
        "version": "2.0", "routeKey": "POST /usage", "rawPath": "/usage", "rawQueryString": "",
        "headers": {"content-type": "application/json", "authorization": f"Bearer {KEY}"},
        "requestContext": {
            "accountId": "1", "apiId": "a", "domainName": "d", "domainPrefix": "d",
            "http": {"method": "POST", "path": "/usage", "protocol": "HTTP/1.1",
                     "sourceIp": "192.0.2.1", "userAgent": "bench"},
            "requestId": "bench", "routeKey": "POST /usage", "stage": "$default", "time": "",
            "timeEpoch": 0,
        },
        "body": body, "isBase64Encoded": False,
    }  # fmt: skip


def _same() -> str:
    """The pgbench script that calls `accept_usage` with one event, as `billing.usage` does."""
    return (
        "\\set n random(0, 999)\n"
        "\\set key random(1, 9000000000000000000)\n"
        "select accept_usage(array['usr_' || :n], '{storage}', '{1}', '{1}', array['p-' || :key],"
        " '{1}', '{1}', '{NULL}', array['\\x00000000000000000000000000000000'::bytea], '{NULL}',"
        f" clock_timestamp(), '{{active,trialing,past_due}}', '{RULES.spending}',"
        " interval '1 hour');\n"
    )


def _bare() -> str:
    statement = _BARE_SINGLE.replace(":user", "'usr_' || :n").replace(":key", "'p-' || :key")
    return (
        "\\set n random(0, 999)\n"
        "\\set key random(1, 9000000000000000000)\n"
        + statement.replace(":period", ":n + 1").strip()
        + ";\n"
    )


def _pgbench(url: str, transactions: int, script: str) -> float:
    with tempfile.TemporaryDirectory(prefix="pgbench-") as place:
        file = Path(place) / "script.sql"
        file.write_text(script, encoding="utf-8")
        done = subprocess.run(
            [
                *(find_binaries() / "pgbench", "--no-vacuum", "--protocol=prepared"),
                *(f"--transactions={transactions}", f"--file={file}", url),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"pgbench: {done.stderr}")
    line = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
    return float(line.split()[2])


# --- thresholds ---------------------------------------------------------------------------------

# The condition on which accept_usage evaluates thresholds of usage.
_IS_NEAR = "v_totals[i] >= v_look_at[i]"


def _compare_thresholds(console: Console, url: str, defaults: Database, rounds: int) -> None:
    """Prints what thresholds cost while none is near. `defaults` is the database at `url`."""
    without, many = (_copy_of(url, name) for name in ("bench_without", "bench_many"))
    routine = "pg_get_functiondef('accept_usage'::regproc)"
    without.execute(_without_thresholds(without.value(f"select {routine}")))
    many.execute(
        "insert into threshold (id, user_id, set_by, measure, feature, percent, created_at)"
        " select u.id || ':' || n, u.id, 'user', 'usage', null, 80 + n, now()"
        " from users u, generate_series(1, 20) as n where u.id like 'usr%'"
    )
    for size, times in ((1, EVENTS), (BATCH, BATCHES)):
        ways = [
            Way(name, partial(_accepting, database, times, size, USERS_OF_A_BATCH))
            for name, database in {
                "no threshold is looked at": without,
                "the default thresholds": defaults,
                "20 own thresholds": many,
            }.items()
        ]
        with console.status(f"thresholds, {size:,} events at a time"):
            reached = _in_turns(ways, rounds)
        title = f"What thresholds cost while none is near, {size:,} events at a time"
        console.print(_table(title, reached, ways[0].name))
    console.print(f"Target: {TARGET_THRESHOLDS} of what is reached without thresholds.")
    for database in (without, many):
        database.close()


def _without_thresholds(routine: str) -> str:
    """The text of accept_usage without the loop over `v_look_at`."""
    if routine.count(_IS_NEAR) != 1:
        raise RuntimeError(f"accept_usage has no `{_IS_NEAR}`, or has it twice.")
    begin = routine.rindex("for i in 1", 0, routine.index(_IS_NEAR))
    end = routine.index("end loop;", begin) + len("end loop;")
    return routine[:begin] + "null;" + routine[end:]


def _copy_of(url: str, name: str) -> Database:
    """A new database with the same users."""
    own = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    with connect(url) as admin:
        admin.execute(f"create database {name}".encode())
    migrate(lambda: connect(own))
    with connect(own) as admin:
        _populate(admin)
    return Database(lambda: connect(own))


# --- what is written ----------------------------------------------------------------------------


def _written(database: Database) -> str:
    """Says how much one event writes, into the write-ahead log and into the ledger."""
    alone = _wal(database, lambda: _accepting(database, EVENTS, 1, USERS)) / EVENTS
    work = partial(_accepting, database, BATCHES, BATCH, USERS_OF_A_BATCH)
    batched = _wal(database, work) / (BATCHES * BATCH)
    database.execute("vacuum (analyze) usage_event")
    row = database.value("select pg_total_relation_size('usage_event') / count(*) from usage_event")
    return (
        f"Each event writes {alone:,.0f} bytes of write-ahead log if it is sent alone, and"
        f" {batched:,.0f} in a batch of {BATCH:,}. An entry of the ledger takes {row:,} bytes, its"
        " indexes included."
    )


def _wal(database: Database, work: Callable[[], object]) -> int:
    """The bytes that `work` writes into the write-ahead log, between two checkpoints."""
    database.execute("checkpoint")
    work()  # the first change of each page after a checkpoint writes the whole page
    before = database.value("select pg_current_wal_insert_lsn()::text")
    work()
    return int(
        database.value("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)", [before])
    )


# --- growth -------------------------------------------------------------------------------------


def _works() -> dict[str, tuple[int, Callable[[Database], object]]]:
    """The work that must not depend on the ledger's size, and how often one turn repeats it."""
    return {
        "one event": (100, lambda db: _accept(db, _events(1, USERS))),
        "a batch of 1,000": (8, lambda db: _accept(db, _events(BATCH, USERS_OF_A_BATCH))),
        "a dashboard": (100, _read_dashboard),
        "a page of a user's ledger": (50, _read_page_of_user),
        "a page of everybody's": (50, _read_page_of_all),
    }


def _read_dashboard(db: Database) -> object:
    return usage_of_user(db, user_id=f"usr_{_user()}", currency="usd", now=datetime.now(UTC))


def _read_page_of_user(db: Database) -> object:
    # Each user has at least 10 entries, even in the shortest ledger.
    query = ledger.Query(user_id=f"usr_{_user()}")
    return ledger.page(db, query, limit=10, now=datetime.now(UTC))


def _read_page_of_all(db: Database) -> object:
    since = datetime.now(UTC) - timedelta(days=2 + _user() % 250)
    return ledger.page(db, ledger.Query(since=since), now=datetime.now(UTC))


def _growth(console: Console, url: str, rows: int, rounds: int) -> Growth:
    """The median milliseconds of each kind of work, by the rows in the ledger.

    There is a database of each size, and they take turns. So other work of the machine slows all of
    them alike.
    """
    sizes = [size for size in (10_000 * 10**n for n in range(6)) if size <= rows]
    databases = {}
    for size in sizes:
        with console.status(f"filling a ledger of {size:,} rows"):
            databases[size] = _database_of(url, size)
    taken: dict[str, dict[int, list[float]]] = {
        name: {size: [] for size in sizes} for name in _works()
    }
    for number in range(rounds + 1):
        with console.status(f"round {number} of {rounds}"):
            for name, (times, work) in _works().items():
                for size, database in list(databases.items()) * times:
                    began = time.perf_counter()
                    work(database)
                    if number:  # the first round warms up
                        taken[name][size].append((time.perf_counter() - began) * 1000)
    return {
        name: [(size, statistics.median(times)) for size, times in by_size.items()]
        for name, by_size in taken.items()
    }


def _database_of(url: str, size: int) -> Database:
    """A new database with `size` rows in its ledger."""
    name = f"bench_{size}"
    database = _copy_of(url, name)
    with connect(urlunsplit(urlsplit(url)._replace(path=f"/{name}"))) as admin:
        _fill(admin, size)
    return database


def _fill(admin: Connection, size: int) -> None:
    """Inserts ledger entries of a year, each in the period that the user had then."""
    admin.execute(
        "insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity,"
        " occurred_at, booked_at, period, late)"
        " select 'usr_' || u, 'fill-' || n || '-' || md5(n::text), '\\x00', 'storage', 1, t, t,"
        " 1 + u + %(users)s * least(extract(day from now() - t)::bigint / 30, 11), false"
        " from generate_series(1, %(size)s::bigint) as n,"
        " lateral (select n %% %(users)s as u,"
        " now() - interval '360 days' * (1 - n / %(size)s::float8) as t) as at",
        {"users": USERS, "size": size},
    )
    admin.execute("vacuum (analyze)")
    admin.execute("checkpoint")


# --- test data ------------------------------------------------------------------------------------


def _populate(admin: Connection) -> None:
    """Inserts users with three features, who have paid for a year. Their periods end soon."""
    for statement in (
        "delete from users",
        "insert into users (id, email, created_at)"
        " select k || '_' || n, k || n || '@example.com', now()"
        " from generate_series(0, %(last)s) as n, unnest(%(kinds)s::text[]) as k",
        "insert into subscriptions (id, user_id, status, billing_interval, created_at, changed_at)"
        " select 'sub_' || id, id, 'active', 'monthly', now(), now() from users",
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at)"
        " overriding system value select n + 1, 'usr_' || n, 'sub_usr_' || n,"
        " now() - interval '30 days', now() + interval '1 day'"
        " from generate_series(0, %(last)s) as n",
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at, closed_at)"
        " overriding system value select p.id + m * (1 + %(last)s), p.user_id, p.subscription_id,"
        " p.starts_at - m * interval '30 days', p.starts_at - (m - 1) * interval '30 days',"
        " p.starts_at - (m - 1) * interval '30 days'"
        " from usage_period p, generate_series(1, 11) as m",
        # The other kinds' periods have ids of their own.
        "insert into usage_period (id, user_id, subscription_id, starts_at, ends_at)"
        " overriding system value select 100000 + row_number() over (), u.id, 'sub_' || u.id,"
        " now() - interval '30 days', now() + interval '1 day'"
        " from users u where u.id not like 'usr%%'",
        "insert into entitlements (user_id, feature, name, type, model, allowed, included,"
        " unlimited, overage_enabled, unit_price, currency, changed_at)"
        " select id, f, f, 'usage', 'metered', true,"
        " case when id like 'pays%%' then 0 else 1000000 end, id like 'free%%',"
        " id not like 'free%%' and (f <> 'storage' or id like 'pays%%'), 1000, 'usd', now()"
        " from users, unnest(%(features)s::text[]) as f",
    ):
        admin.execute(
            statement,
            {"last": USERS - 1, "features": list(FEATURES), "kinds": list(CEILINGS.values())},
        )
    admin.execute("vacuum (analyze)")


@contextmanager
def _environment(url: str) -> Iterator[None]:
    """Sets this process up as an environment of the function; its log is discarded."""
    from billing import wiring
    from billing.credentials.secrets import Secrets
    from billing.http import api

    parts = urlsplit(url)
    os.environ |= {
        "OVERAGE_CEILING": "usd=1000000000",
        "DELIVER_AT_ONCE_FROM": "usd=none",
        "APP_URL": "http://127.0.0.1",
        "COMMET_MODE": "sandbox",
        "DATABASE_HOST": str(parts.hostname),
        "DATABASE_PORT": str(parts.port),
        "DATABASE_NAME": parts.path[1:],
        "DATABASE_SSLMODE": "disable",
        "DATABASE_SECRET_ARN": "database",
        "SERVICE_KEYS_SECRET_ARN": "keys",
        "POWERTOOLS_SERVICE_NAME": "track_usage",
        "POWERTOOLS_METRICS_NAMESPACE": "UsageBilling",
    }
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    known: dict[str, Any] = {
        "database": {"username": parts.username, "password": parts.password},
        "keys": {"keys": [{"name": "bench", "sha256": digest, "scopes": ["usage:write"]}]},
    }

    class Store:
        def get(self, secret_id: str, *_: str) -> str:
            return json.dumps(known[secret_id])

    secrets = Secrets(Store())
    wiring.secrets = lambda: secrets  # type: ignore[assignment]
    api.logger.setLevel("CRITICAL")
    yield
    wiring.database().close()


# --- output -------------------------------------------------------------------------------------


def _table(title: str, reached: dict[str, list[float]], reference: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("events a second", justify="right")
    table.add_column("ratio", justify="right")
    for name, turns in reached.items():
        ratio = statistics.median(a / b for a, b in zip(turns, reached[reference], strict=True))
        table.add_row(name, f"{statistics.median(turns):,.0f}", f"{ratio:.2f}")
    return table


def growth_chart(grown: Growth) -> str:
    """The growth as SVG. Each line shows multiples of the work's time at the shortest ledger."""
    relative = {
        f"{name} ({line[0][1]:.1f} ms)": [(size, ms / line[0][1]) for size, ms in line]
        for name, line in grown.items()
    }
    return line_chart(
        "How long work takes with a longer ledger",
        "rows in the ledger",
        "times the shortest ledger (median)",
        relative,
        limit=TARGET_GROWTH,
    )


def _growth_table(grown: Growth) -> Table:
    table = Table(title="Median milliseconds, by rows in the ledger", title_justify="left")
    table.add_column("")
    for size, _ in next(iter(grown.values())):
        table.add_column(f"{size:,.0f}", justify="right")
    table.add_column(f"last / first (target {TARGET_GROWTH})", justify="right")
    for name, line in grown.items():
        ratio = line[-1][1] / line[0][1]
        table.add_row(name, *(f"{ms:.2f}" for _, ms in line), f"{ratio:.2f}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
