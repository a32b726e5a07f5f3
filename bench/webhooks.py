"""Measures how many webhooks a second the function takes, compared with pgbench.

The whole handler runs: signature, parsing, the database, logging and metrics. Each client has its
own process, as in Lambda. pgbench calls the same SQL function on the same server with the same
kinds of webhooks, which is the most that Postgres allows. Both take turns, in several rounds. A
ratio is computed within each round, and the median of these ratios is shown.

    PYTHONPATH=.:layers/common python -m bench.webhooks [--rounds N]
"""

import argparse
import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.database import USERS, migrated_database
from billing.subscriptions import from_webhook
from local.postgres.binaries import find_binaries

SECRET = "whsec_bench"  # noqa: S105 - valid in this benchmark only
KINDS = 4
EVENTS = 4000  # of a turn
CONCURRENCY = (1, 8)
TARGET = 0.6  # of pgbench, one client


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: its wall time, each request's time, and the CPU time of the function's processes.

    All times are in seconds.
    """

    seconds: float
    latencies: list[float]
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """The latency in milliseconds that `percent` of the requests do not exceed."""
        return sorted(self.latencies)[(len(self.latencies) - 1) * percent // 100] * 1000


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.webhooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (5)")
    options = parser.parse_args(arguments)
    console = Console()
    ours: dict[int, list[Measured]] = {clients: [] for clients in CONCURRENCY}
    theirs: dict[int, list[Measured]] = {clients: [] for clients in CONCURRENCY}
    with migrated_database() as url:
        for number in range(1, options.rounds + 1):
            for clients in CONCURRENCY:
                with console.status(f"round {number} of {options.rounds}, {clients} at once"):
                    ours[clients].append(run_handlers(url, clients, EVENTS))
                    theirs[clients].append(run_pgbench(url, clients, EVENTS))
    console.print(_table(ours, theirs))
    console.print(
        f"Medians of {options.rounds} rounds of {EVENTS} webhooks, each new and applied;"
        " fsync is on. CPU is the function's processes' own, without Postgres."
    )
    return 0


def _table(ours: dict[int, list[Measured]], theirs: dict[int, list[Measured]]) -> Table:
    table = Table(title="Webhooks", title_justify="left")
    for heading in (
        "at once", "per second", "pgbench", "ratio", "p50 ms", "p99 ms", "CPU s per 1,000"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for clients in CONCURRENCY:
        pairs = list(zip(ours[clients], theirs[clients], strict=True))
        ratio = statistics.median(one.per_second / other.per_second for one, other in pairs)
        verdict = ""
        if clients == 1:
            verdict = f" of {TARGET} " + ("[green]✓[/]" if ratio >= TARGET else "[red]✗[/]")
        table.add_row(
            str(clients),
            f"{statistics.median(one.per_second for one, _ in pairs):,.0f}",
            f"{statistics.median(other.per_second for _, other in pairs):,.0f}",
            f"{ratio:.2f}{verdict}",
            f"{statistics.median(one.percentile_ms(50) for one, _ in pairs):.2f}",
            f"{statistics.median(one.percentile_ms(99) for one, _ in pairs):.2f}",
            f"{statistics.median(1000 * m.cpu_seconds / len(m.latencies) for m, _ in pairs):.2f}",
        )
    return table


def body(kind: int, user: int, number: int | str) -> bytes:
    """The body of a webhook that occurs now, of one of the kinds that Commet sends in a month."""
    event, data = (
        ("invoice.created", _invoice()),
        ("subscription.activated", _activated()),
        ("customer.state_changed", _state()),
        ("subscription.cancellation_revoked", {"status": "active", "currentPeriodEnd": _END}),
    )[kind]
    envelope = {
        "id": f"whev_{number}",
        "event": event,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "organizationId": "2f0c6a52-7a0e-4a35-9c1f-0d3f8f3f1b77",
        "mode": "sandbox",
        "apiVersion": "2026-08-27",
        "data": {"customerId": f"usr_{user}", "subscriptionId": f"sub_{user}"} | data,
    }
    return json.dumps(envelope, separators=(",", ":")).encode()


_START, _END = "2026-09-01T00:00:00.000Z", "2026-10-01T00:00:00.000Z"


def _invoice() -> dict[str, Any]:
    return {
        "invoiceId": "inv_a1", "invoiceNumber": "INV-0042", "invoiceStatus": "outstanding",
        "periodStart": _START, "periodEnd": _END, "issueDate": _START, "dueDate": _START,
        "currency": "usd", "subtotal": 2900, "total": 2900,
    }  # fmt: skip


def _activated() -> dict[str, Any]:
    return {
        "status": "active", "currentPeriodStart": _START, "currentPeriodEnd": _END, "name": "Pro",
        "invoiceId": "inv_a1", "invoiceNumber": "INV-0042", "invoiceTotal": 2900,
        "invoiceCurrency": "usd", "provider": "stripe",
    }  # fmt: skip


def _state() -> dict[str, Any]:
    overage = {
        "enabled": True,
        "units": 0,
        "unitPrice": {"amount": 1000, "currency": "usd", "scale": 10000},
    }
    consumption = {
        "model": "metered", "period": {"start": _START, "end": _END}, "unitsUsed": 0,
        "includedUnits": 100, "remainingUnits": 100, "unlimited": False, "overage": overage,
    }  # fmt: skip
    features = [
        {"code": "storage", "name": "Storage", "unitName": "GB", "allowed": True, "type": "usage",
         "consumption": consumption},
        {"code": "priority_support", "name": "Support", "allowed": True, "type": "boolean",
         "enabled": True},
    ]  # fmt: skip
    return {
        "trigger": "subscription_activated", "status": "active",
        "plan": {"id": "pln_pro", "name": "Pro"}, "billingInterval": "monthly",
        "consumptionModel": "metered", "features": features, "seats": [], "credits": None,
        "balance": None,
    }  # fmt: skip


def run_handlers(url: str, clients: int, count: int) -> Measured:
    """Sends `count` webhooks through the handler, shared by `clients` processes."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(clients)
    with ProcessPoolExecutor(
        clients, mp_context=spawn, initializer=_become_function, initargs=(url, ready)
    ) as pool:
        runs = list(pool.map(_take, [count // clients] * clients))
    began, ended = min(run[0] for run in runs), max(run[1] for run in runs)
    latencies = list(chain.from_iterable(run[2] for run in runs))
    return Measured(ended - began, latencies, sum(run[3] for run in runs))


_all_ready: Barrier


def _become_function(url: str, ready: Barrier) -> None:
    """Sets the new process up as an environment of the webhook function; its log is discarded."""
    global _all_ready  # noqa: PLW0603 - the process has one task only
    _all_ready = ready
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    parts = urlsplit(url)
    os.environ |= {
        "APP_URL": "http://127.0.0.1",
        "COMMET_MODE": "sandbox",
        "DATABASE_HOST": str(parts.hostname),
        "DATABASE_PORT": str(parts.port),
        "DATABASE_NAME": parts.path[1:],
        "DATABASE_SSLMODE": "disable",
        "DATABASE_SECRET_ARN": "database",
        "WEBHOOK_SECRET_ARN": "webhook",
        "POWERTOOLS_SERVICE_NAME": "webhook",
        "POWERTOOLS_METRICS_NAMESPACE": "UsageBilling",
    }
    from billing import wiring
    from billing.credentials.secrets import Secrets

    known = {
        "database": {"username": parts.username, "password": parts.password},
        "webhook": {"secrets": [SECRET]},
    }

    class Store:
        def get(self, secret_id: str, *_: str) -> str:
            return json.dumps(known[secret_id])

    secrets = Secrets(Store())
    wiring.secrets = lambda: secrets  # type: ignore[assignment]


def _take(count: int) -> tuple[float, float, list[float], float]:
    """Sends webhooks in the new process.

    Returns its begin and end on the monotonic clock, each request's seconds, and the CPU seconds.
    """
    from functions.webhook import app

    class Context:
        aws_request_id = "bench"
        function_name = "webhook"

        def get_remaining_time_in_millis(self) -> int:
            return 9000

    context = Context()
    app.handler(_request(0), context)  # connects, reads the secrets
    _all_ready.wait(120)
    latencies = []
    spent = -_cpu()
    began = time.monotonic()
    for number in range(1, count + 1):
        request = _request(number)
        asked = time.perf_counter()
        answer = app.handler(request, context)
        latencies.append(time.perf_counter() - asked)
        if answer["body"] != '{"received": true, "outcome": "applied"}':
            raise RuntimeError(answer["body"])
    ended = time.monotonic()
    return began, ended, latencies, spent + _cpu()


def _request(number: int) -> dict[str, Any]:
    """The event of a request to a function URL."""
    unique = f"{os.getpid()}_{time.time_ns()}_{number}"
    signed = body(number % KINDS, 1 + number // KINDS % USERS, unique)
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    return {
        "rawPath": "/",
        "requestContext": {"requestId": unique, "routeKey": "$default", "http": {"method": "POST"}},
        "headers": {"x-commet-signature": signature, "content-type": "application/json"},
        "body": base64.b64encode(signed).decode(),
        "isBase64Encoded": True,
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run_pgbench(url: str, clients: int, count: int) -> Measured:
    """Has pgbench call the same SQL function `count` times, with `clients` clients."""
    with tempfile.TemporaryDirectory(prefix="pgbench-") as name:
        place = Path(name)
        scripts = list(_scripts(place))
        began = time.monotonic()
        done = subprocess.run(
            [
                *(find_binaries() / "pgbench", "--no-vacuum", "--protocol=prepared"),
                *(f"--client={clients}", f"--jobs={min(clients, 2)}"),
                *(f"--transactions={count // clients}", "--log", f"--log-prefix={place}/log"),
                *(f"--file={script}" for script in scripts),
                url,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(f"pgbench: {done.stderr}")
        tps = next(line for line in done.stdout.splitlines() if line.startswith("tps"))
        lines = [line.split() for log in place.glob("log*") for line in log.open()]
    latencies = [int(line[2]) / 1e6 for line in lines]
    # pgbench's own figure leaves out the time to connect, as our own measurement does.
    return Measured(min(seconds, len(latencies) / float(tps.split()[2])), latencies, 0.0)


def _scripts(place: Path) -> Iterator[Path]:
    """One script for each kind of webhook and user, which contains the webhook."""
    for number in range(KINDS * USERS):
        payload = body(number % KINDS, 1 + number // KINDS, "bench")
        webhook = from_webhook.parse(payload)
        change = from_webhook.change_of(webhook)
        assert change is not None
        text = json.dumps(change.parameter().obj)
        script = place / f"{number}.sql"
        script.write_text(
            "\\set unique random(1, 9000000000000000000)\n"
            f"select receive_webhook('whev_' || :unique, '{webhook.type}', '{webhook.mode}',"
            f" '{webhook.customer}', clock_timestamp(), '\\x{payload.hex()}', 'ignored',"
            f" '{text}'::jsonb, now());\n",
            encoding="utf-8",
        )
        yield script


if __name__ == "__main__":
    raise SystemExit(main())
