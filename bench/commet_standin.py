"""Measures how many requests a second the Commet stand-in answers, in memory and on a file.

The stand-in and the client that drives it are separate processes. For comparison, the same client
drives an aiohttp handler that does nothing, in the same run: absolute numbers depend on the
machine.

    python -m bench.commet_standin [--rounds N]
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import httpx
from aiohttp import web
from rich.console import Console
from rich.table import Table

from standin.testing import Control

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1_000
"""The requests a second that reads and usage events should reach."""
REQUESTS = 2_000
"""Requests of each kind and round."""
CONNECTIONS = 16
WARM_UP = 200
CUSTOMER = "usr_bench"
TRIVIAL = "nothing"


@dataclass(frozen=True, slots=True)
class Job:
    """A request that the client sends repeatedly, over `connections` connections."""

    name: str
    method: str
    url: str
    requests: int
    connections: int
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    """Each request has its own `eventId` and Idempotency-Key. None: a request without body."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job: requests a second, and latencies in milliseconds.

    `cpu_ms` is the server's CPU time per request.
    """

    rate: float
    p50: float
    p99: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure, and the jobs to measure it with."""

    name: str
    pid: int
    jobs: tuple[Job, ...]


def drive(job: Job) -> tuple[float, list[float]]:
    """The seconds that the job took, and the seconds of each of its requests.

    Raises RuntimeError where a request is not answered with success.
    """
    return asyncio.run(_drive(job))


async def _drive(job: Job) -> tuple[float, list[float]]:
    took: list[float] = []
    numbers = iter(range(job.requests))
    run = uuid4().hex
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=job.connections),
        timeout=aiohttp.ClientTimeout(total=10),
        headers=job.headers,
    ) as session:

        async def keep_asking() -> None:
            for number in numbers:
                options = _options(job, f"{run}-{number}")
                began = time.perf_counter()
                async with session.request(job.method, job.url, **options) as answer:
                    text = await answer.read()
                took.append(time.perf_counter() - began)
                if not answer.ok:
                    raise RuntimeError(f"{job.url}: {answer.status} {text[:500]!r}")

        began = time.perf_counter()
        await asyncio.gather(*(keep_asking() for _ in range(job.connections)))
        return time.perf_counter() - began, took


def _options(job: Job, key: str) -> dict[str, Any]:
    if job.body is None:
        return {}
    return {"json": job.body | {"eventId": key}, "headers": {"Idempotency-Key": key}}


def measure(client: ProcessPoolExecutor, server: Server, job: Job) -> Result:
    """Measures one round of a job, after a few requests that do not count."""
    client.submit(drive, replace(job, requests=WARM_UP)).result()
    cpu = _cpu_seconds(server.pid)
    seconds, took = client.submit(drive, job).result()
    cpu = _cpu_seconds(server.pid) - cpu
    cuts = statistics.quantiles(took, n=100)
    return Result(
        rate=job.requests / seconds,
        p50=cuts[49] * 1000,
        p99=cuts[98] * 1000,
        cpu_ms=cpu / job.requests * 1000,
    )


def _cpu_seconds(pid: int) -> float:
    """The CPU seconds that a process has used so far; 0 where the system is not Linux."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        used = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except OSError:
        return 0.0
    return used / 1e9


@contextmanager
def stand_in(name: str, job: Job, *arguments: str) -> Iterator[Server]:
    """Runs the stand-in as a process, with one subscriber."""
    with _started("standin", "--port", "0", "--json", *arguments) as (pid, facts):
        base, headers = facts["base_url"], {"x-api-key": facts["api_key"]}
        _subscribe(facts)
        ask = replace(job, headers=headers)
        event = {"customerId": CUSTOMER, "featureCode": "storage", "value": 1}
        yield Server(
            name,
            pid,
            (
                replace(ask, name="GET /plans", url=f"{base}/plans"),
                replace(
                    ask,
                    name="GET …/active",
                    url=f"{base}/subscriptions/active?customerId={CUSTOMER}",
                ),
                replace(
                    ask,
                    name="GET …/storage",
                    url=f"{base}/feature-access/storage?customerId={CUSTOMER}",
                ),
                replace(
                    ask,
                    name="POST …/events",
                    method="POST",
                    url=f"{base}/usage/events",
                    body=event,
                ),
            ),
        )


@contextmanager
def trivial(job: Job) -> Iterator[Server]:
    """Runs the handler that does nothing, as a process."""
    with _started("bench.commet_standin", "--serve-nothing") as (pid, facts):
        ask = replace(job, url=facts["base_url"])
        yield Server(
            TRIVIAL,
            pid,
            (replace(ask, name="GET"), replace(ask, name="POST", method="POST", body={"value": 1})),
        )


@contextmanager
def _started(module: str, *arguments: str) -> Iterator[tuple[int, dict[str, str]]]:
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError(f"{module} did not start")
            yield process.pid, json.loads(line)
        finally:
            process.terminate()


def _subscribe(facts: dict[str, str]) -> None:
    with httpx.Client(
        base_url=facts["base_url"],
        headers={"x-api-key": facts["api_key"]},
        timeout=10,
        trust_env=False,
    ) as http:
        http.post("/customers", json={"id": CUSTOMER, "email": "bench@example.com"})
        order = http.post(
            "/subscriptions", json={"customerId": CUSTOMER, "planCode": "usage_pro"}
        ).raise_for_status()
    control = Control(facts["public_url"])
    control.pay(order.json()["id"])
    control.close()


async def _serve_nothing() -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_route("*", "/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"base_url": f"http://127.0.0.1:{runner.addresses[0][1]}/"}), flush=True)
    await asyncio.Event().wait()


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns 1 where a rate is below the target, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.commet_standin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (3)")
    parser.add_argument("--serve-nothing", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.serve_nothing:
        asyncio.run(_serve_nothing())
        return 0
    job = Job("", "GET", "", REQUESTS, CONNECTIONS)
    results = _measure_all(job, asked.rounds)
    console = Console()
    console.print(_table(results))
    console.print(
        f"Medians of {asked.rounds} rounds of {REQUESTS:,} requests over"
        f" {CONNECTIONS} connections, latencies in ms. The target is {TARGET:,} a second.\n"
        "CPU: the server's, per request. Ratio: to the CPU of the handler that does nothing."
    )
    missed = [
        name for name, result in results.items() if name[0] != TRIVIAL and result.rate < TARGET
    ]
    return 1 if missed else 0


def _measure_all(job: Job, rounds: int) -> dict[tuple[str, str], Result]:
    """The medians by server and kind of request. Each round measures everything once."""
    found: dict[tuple[str, str], list[Result]] = defaultdict(list)
    # The client is a new interpreter, which stays warm from job to job.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as place,
        ProcessPoolExecutor(1, mp_context=context) as client,
        trivial(job) as nothing,
        stand_in("in memory", job) as memory,
        stand_in("on a file", job, "--data", f"{place}/commet.sqlite") as file,
    ):
        for _ in range(rounds):
            for server in (nothing, memory, file):
                for each in server.jobs:
                    found[server.name, each.name].append(measure(client, server, each))
    return {name: _median(results) for name, results in found.items()}


def _median(results: list[Result]) -> Result:
    return Result(
        rate=statistics.median(r.rate for r in results),
        p50=statistics.median(r.p50 for r in results),
        p99=statistics.median(r.p99 for r in results),
        cpu_ms=statistics.median(r.cpu_ms for r in results),
    )


def _table(results: dict[tuple[str, str], Result]) -> Table:
    table = Table(title="The Commet stand-in", title_justify="left")
    for heading in ("server", "request"):
        table.add_column(heading, no_wrap=True)
    for heading in ("per s", "", "p50", "p99", "CPU ms", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    shown = ""
    for (server, request), result in results.items():
        if shown and shown != server:
            table.add_section()
        nothing = results[TRIVIAL, request.split()[0]]
        verdict = "[green]✓[/]" if result.rate >= TARGET else "[red]✗[/]"
        table.add_row(
            "" if shown == server else server,
            request,
            f"{result.rate:,.0f}",
            "" if server == TRIVIAL else verdict,
            f"{result.p50:.1f}",
            f"{result.p99:.1f}",
            f"{result.cpu_ms:.2f}" if result.cpu_ms else "",
            f"{result.cpu_ms / nothing.cpu_ms:.1f}" if nothing.cpu_ms else "",
        )
        shown = server
    return table


if __name__ == "__main__":
    sys.exit(main())
