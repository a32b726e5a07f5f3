"""Measures how fast usage is accepted, compared with pgbench.

Single events: `accept` of `billing.usage.accepting` and the whole handler are compared with two
runs of pgbench on the same server. One calls the same SQL function. The other only inserts into the
ledger and its total and decides nothing, which is the least that any solution must do. Batches of
1,000 events: the whole handler is compared with this bare statement, sent by the same driver.

All of them take turns in many short rounds, because the machine's speed changes. A ratio is
computed within each round, and the median of these ratios is shown.

The ceiling: users who pay for overage up to a spending ceiling report events, one by one and in
batches. The ratio is to the same events of the same users in a database whose `accept_usage` does
not read what was spent. Users within what their plan includes, and users without any limit, are
shown beside them.

Thresholds: the same events are accepted where none is near: with the default thresholds, and with
20 own ones. The ratio is to a database whose `accept_usage` looks at no threshold.

    PYTHONPATH=.:layers/common python -m bench.usage [--rounds N]
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
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.database import connect, migrated_database
from bench.usage_users import (
    CEILINGS,
    OVERAGE,
    RULES,
    USERS,
    accept,
    database_beside,
    events,
    populate,
)
from billing.database.connection import Database
from local.postgres.binaries import find_binaries

KEY = "svc_bench_" + "0" * 64
TARGET = 0.6
TARGET_BATCH = 25_000
TARGET_CEILING = 0.95
TARGET_THRESHOLDS = 0.98
EVENTS = 600  # of a turn, when sent one by one
BATCHES = 6  # of a turn
BATCH = 1_000
USERS_OF_A_BATCH = 100

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
    options = parser.parse_args(arguments)
    console = Console()
    with migrated_database() as url, _environment(url):
        with connect(url) as admin:
            populate(admin)
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
        _compare_ceilings(console, url, options.rounds)
        _compare_thresholds(console, url, database, options.rounds)
        console.print(_written(database))
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


def _accepting(database: Database, times: int, size: int, users: int) -> float:
    prepared = [events(size, users) for _ in range(times)]
    return _per_second(size, partial(accept, database), prepared)


def _handling(times: int, size: int, users: int, kind: str = "usr") -> float:
    prepared = []
    for _ in range(times):
        sent = [
            {
                "user_id": event.user_id,
                "feature": event.feature,
                "quantity": "1",
                "idempotency_key": event.idempotency_key,
            }
            for event in events(size, users, kind)
        ]
        prepared.append(json.dumps(sent[0] if size == 1 else {"events": sent}))
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        return _per_second(size, partial(_handle, size), prepared)


def _handle(size: int, body: str) -> None:
    from functions.track_usage import app

    answer = app.handler(_request(body), _Context())
    if answer["statusCode"] != 202 or f'"accepted":{size}' not in answer["body"]:
        raise RuntimeError(answer["body"][:500])


def _inserting(database: Database, times: int, users: int) -> float:
    prepared = []
    for _ in range(times):
        sent = events(BATCH, users)
        prepared.append(
            [
                [event.user_id for event in sent],
                [event.idempotency_key for event in sent],
                [event.feature for event in sent],
                [int(event.user_id.removeprefix("usr_")) + 1 for event in sent],
            ]
        )
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


# --- the ceiling --------------------------------------------------------------------------------

# The condition on which accept_usage reads what was spent.
_IS_BEYOND = "v_total > v_beyond[v_pair]"


def _compare_ceilings(console: Console, url: str, rounds: int) -> None:
    """Prints what a spending ceiling costs the handler, and what other users cost."""
    without = database_beside(url, "bench_unread")
    routine = without.value("select pg_get_functiondef('accept_usage'::regproc)")
    if routine.count(_IS_BEYOND) != 1:
        raise RuntimeError(f"accept_usage has no `{_IS_BEYOND}`, or has it twice.")
    without.execute(routine.replace(_IS_BEYOND, "false"))
    for size, times in ((1, EVENTS), (BATCH, BATCHES)):
        of = partial(_handling, times, size, USERS_OF_A_BATCH)
        ways = [Way("overage, what was spent is not read", partial(_elsewhere, without, of))]
        ways += [Way(name, partial(of, kind)) for name, kind in CEILINGS.items()]
        with console.status(f"the ceiling, {size:,} events at a time"):
            reached = _in_turns(ways, rounds)
        title = f"What the ceiling costs, {size:,} events at a time"
        console.print(_table(title, reached, ways[0].name))
    console.print(f"Target: with a ceiling the handler reaches {TARGET_CEILING} of the first line.")
    without.close()


def _elsewhere(database: Database, handling: Callable[[str], float]) -> float:
    """A turn of the handler with users who pay for overage, in another database."""
    from billing import wiring

    usual = wiring.database
    wiring.database = lambda: database  # type: ignore[assignment]
    try:
        return handling(CEILINGS[OVERAGE])
    finally:
        wiring.database = usual


# --- thresholds ---------------------------------------------------------------------------------

# The condition on which accept_usage evaluates thresholds of usage.
_IS_NEAR = "v_totals[i] >= v_look_at[i]"


def _compare_thresholds(console: Console, url: str, defaults: Database, rounds: int) -> None:
    """Prints what thresholds cost while none is near. `defaults` is the database at `url`."""
    without, many = (database_beside(url, name) for name in ("bench_without", "bench_many"))
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


# --- the function's environment ------------------------------------------------------------------


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


if __name__ == "__main__":
    raise SystemExit(main())
