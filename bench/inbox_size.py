"""Measures whether a full inbox slows anything down: ten million received webhooks against none.

There are two databases on one server, which differ only in the inbox. A whole webhook, and each
statement that the webhook and `reconcile` send to the inbox, run in both databases by turns. The
result is the ratio of the medians.

    PYTHONPATH=.:layers/common python -m bench.inbox_size [--rows N] [--rounds N]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from psycopg import sql
from rich.console import Console
from rich.table import Table

from bench.database import USERS, connect, migrated_databases
from bench.webhooks import KINDS, body
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database
from billing.database.statements import Statements
from billing.deadline import Deadline
from billing.operations import housekeeping
from billing.operations import reconcile as healing
from billing.subscriptions import inbox, mirror
from standin.testing import standin

TARGET = 1.2
_PRUNE = Statements(housekeeping.__file__)
_AT_ONCE = 500_000
_SETTINGS = from_env({"COMMET_MODE": "sandbox"})
_PAYLOAD_AGE, _ID_AGE = timedelta(days=30), timedelta(days=400)

# The webhooks of a year. Most were applied long ago and have lost their payload. A few failed, are
# dead or have an unknown customer. The ids are unordered, as Commet's are.
_FILL = """
insert into webhooks
    (id, type, mode, customer, occurred_at, received_at, payload, status, attempts, due_at, error)
select 'whev_' || md5(n::text),
       (array['invoice.created', 'payment.received', 'customer.state_changed',
              'subscription.updated'])[1 + n %% 4],
       'sandbox', 'usr_' || (hashint4(n) & 1048575), at, at,
       case when at > now() - interval '3 days' then convert_to(repeat('x', 600), 'UTF8') end,
       case when n %% 1000 = 1 then 'ignored' when n %% 200000 = 2 then 'dead'
            when n %% 200000 = 3 then 'failed' else 'applied' end,
       1,
       case when n %% 200000 = 3 then now() + interval '1 hour' end,
       case when n %% 1000 = 1 then 'unknown_customer' when n %% 200000 in (2, 3) then 'a bug' end
from generate_series(%(first)s::int, %(last)s::int) as n
cross join lateral (
    select now() - interval '365 days' * (1 - n / %(rows)s::float8) as at
) as moment
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.inbox_size",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of the full inbox (10,000,000)"
    )
    parser.add_argument("--rounds", type=int, default=300, help="runs of each kind of work (300)")
    options = parser.parse_args(arguments)
    console = Console()
    with migrated_databases("empty", "full") as (empty_url, full_url):
        with console.status(f"filling the inbox with {options.rows:,} webhooks"):
            fill(full_url, options.rows)
        empty, full = (Database(partial(connect, url)) for url in (empty_url, full_url))
        with console.status("measuring"), standin() as remote:
            commet = Commet(
                remote.base_url,
                lambda *, fresh=False: remote.api_key,  # noqa: ARG005
                live=False,
            )
            work = {"reconcile": partial(reconcile, commet)} | WORK
            figures = {
                name: _by_turns(partial(act, empty), partial(act, full), options.rounds)
                for name, act in sorted(work.items(), key=lambda item: item[0] not in MAIN)
            }
        empty.close()
        full.close()
    console.print(_table(figures))
    console.print(
        f"Medians of {options.rounds} runs by turns. The full inbox has {options.rows:,} rows;"
        " fsync is on."
    )
    return 0


def fill(url: str, rows: int) -> None:
    """Inserts webhooks of the last year. Creating the indexes afterwards takes a tenth as long."""
    with connect(url) as db:
        db.execute("set synchronous_commit = off")
        db.execute("set maintenance_work_mem = '512MB'")
        indexes = db.execute(
            "select indexname, indexdef from pg_indexes"
            " where tablename = 'webhooks' and indexname <> 'webhooks_pkey'"
        ).fetchall()
        for index in indexes:
            db.execute(sql.SQL("drop index {}").format(sql.Identifier(index["indexname"])))
        db.execute("alter table webhooks drop constraint webhooks_pkey")
        for first in range(1, rows + 1, _AT_ONCE):
            last = min(first + _AT_ONCE - 1, rows)
            db.execute(_FILL, {"first": first, "last": last, "rows": rows})
        db.execute("alter table webhooks add primary key (id)")
        for index in indexes:
            db.execute(index["indexdef"].encode())
        db.execute("vacuum analyze webhooks")
        db.execute("checkpoint")


def receive(db: Database) -> None:
    """Receives a new webhook, from its body to the row that it changes."""
    chosen = time.perf_counter_ns()
    signed = body(chosen % KINDS, 1 + chosen // KINDS % USERS, uuid4().hex)
    outcome = inbox.receive(db, signed, mode="sandbox", now=datetime.now(UTC)).outcome
    if outcome != "applied":
        raise RuntimeError(outcome)


def repeat(db: Database) -> None:
    """Receives a webhook that is already in the inbox."""
    signed = body(0, 1, "repeated")
    inbox.receive(db, signed, mode="sandbox", now=datetime.now(UTC))


def reconcile(commet: Commet, db: Database) -> None:
    """Runs `reconcile` once, which finds nothing to do."""
    now = datetime.now(UTC)
    healing.run(db, commet, _SETTINGS, clock=lambda: now, deadline=Deadline.after(60))


def retry(db: Database) -> None:
    """Looks for failed webhooks that are due, and ignored ones that can be applied now."""
    inbox.retry_failed(
        db, mode="sandbox", clock=lambda: datetime.now(UTC), deadline=Deadline.after(60)
    )


def prune(db: Database) -> None:
    """Prunes the inbox from the place where the last run stopped."""
    since = datetime.now(UTC) - _PAYLOAD_AGE
    where = {"received_at": since, "id": "", "age": _PAYLOAD_AGE, "limit": 5000}
    db.all(_PRUNE["prune_payloads"], where)
    db.all(_PRUNE["delete_old_webhooks"], {"age": _ID_AGE, "limit": 5000})


def health(db: Database) -> None:
    """Counts the failed and the dead webhooks."""
    inbox.health(db)


def due_rows(db: Database) -> None:
    """Claims the users about whom Commet has to be asked."""
    mirror.lease_refreshes(db, datetime.now(UTC), limit=8)


MAIN = ("a webhook", "a repeated webhook", "reconcile")
WORK: dict[str, Callable[[Database], None]] = {
    "a webhook": receive,
    "a repeated webhook": repeat,
    "  failed webhooks": retry,
    "  prune": prune,
    "  counts": health,
    "  claim of users": due_rows,
}


def _by_turns(
    one: Callable[[], None], other: Callable[[], None], rounds: int
) -> tuple[float, float]:
    """The median milliseconds of each; the order changes from round to round."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 10):
        order = ((0, one), (1, other)) if number % 2 else ((1, other), (0, one))
        for which, act in order:
            began = time.perf_counter()
            act()
            if number >= 10:  # the first rounds connect and plan the statements
                times[which].append((time.perf_counter() - began) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def _table(figures: dict[str, tuple[float, float]]) -> Table:
    table = Table(title="Inbox", title_justify="left")
    for heading in ("work", "empty ms", "full ms", "ratio"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for name, (empty, full) in figures.items():
        verdict = ""
        if name in MAIN:
            verdict = f" of {TARGET} " + ("[green]✓[/]" if full <= empty * TARGET else "[red]✗[/]")
        table.add_row(name, f"{empty:.3f}", f"{full:.3f}", f"{full / empty:.2f}{verdict}")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
