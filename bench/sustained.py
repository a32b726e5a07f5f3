"""Measures whether the local stack sustains a load: 80 % of what it reaches, for ten minutes.

A stack of its own runs with temporary data, with Postgres on disk (`fsync` on) and the stand-in for
Commet. First, a few clients measure how many requests a second the gateway answers. Then requests
come at a fixed rate, and the latency of each is counted from the time at which it was due. They are
those of a product's backend (bench/product.py). Every few seconds somebody becomes a customer, so
Commet's webhooks come too. A user's usage is delivered every 30 seconds instead of every five
minutes, and a minute of the schedules takes 10 seconds.

Each minute is printed. At the end, the last third of the run is compared with the first, the ledger
with what was sent, and Commet's totals with the ledger. The exit code is 1 if a promise was broken.

    python -m bench.sustained [--minutes N] [--share SHARE]
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.driving import CLIENTS, Began, Ended, Reached, drive
from bench.load import MINUTE, Minute
from bench.observing import Observer, Sample, Trouble
from bench.product import Place
from bench.promises import Promise, Series, all_kept, same_sums, stays_flat, thirds
from local.stack import LocalStack
from standin.testing import Control

SHARE = 0.8
USERS = 100
PLAN, FEATURE = "usage_max", "storage"
INTERVAL_SECONDS = 30
RUN_EVERY_SECONDS = 10
RUN_SECONDS = 5
"""How long a run of `deliver_usage` may take."""
LIMIT_SECONDS = INTERVAL_SECONDS + RUN_SECONDS + RUN_EVERY_SECONDS + RUN_SECONDS
"""How old undelivered usage may become: its interval is over when a run has just begun, so the run
after that one sends it."""
KEPT_RATE = 0.98
"""The least share of the planned rate that each minute has to reach."""
SAMPLE_SECONDS = 5
SHORTEST_MINUTES = 0.5
PARAMETERS = {
    "DeliveryIntervalSeconds": str(INTERVAL_SECONDS),
    "CommetCallsPerSecond": "20",  # as in the template
}


@dataclass(slots=True)
class Run:
    """Everything that was measured while the load ran."""

    rate: float
    minutes: list[Minute] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.sustained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long the load lasts (10)")
    parser.add_argument(
        "--share", type=float, default=SHARE, help=f"of the measured rate ({SHARE})"
    )
    options = parser.parse_args(arguments)
    if options.minutes < SHORTEST_MINUTES:
        parser.error(f"--minutes is at least {SHORTEST_MINUTES}, so that each third has samples.")
    console = Console(highlight=False)
    busy = os.getloadavg()[0]
    console.print(f"{os.cpu_count()} cores; the load of the machine was {busy:.1f} before.")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        promises = _measured(console, Trouble(nowhere), options.minutes * MINUTE, options.share)
    console.print(_table(promises))
    return 0 if all_kept(promises) else 1


def _measured(console: Console, trouble: Trouble, seconds: float, share: float) -> list[Promise]:
    with _stack(trouble) as (stack, control, observer):
        with console.status(f"{USERS} users buy a plan"):
            place = Place(
                api=stack.api,
                service_key=stack.service_key,
                control=f"{_standin(stack)}/_standin",
                plan=PLAN,
                feature=FEATURE,
                users=_customers(stack, control),
            )
        run, ended = _watched(console, observer, place, share, seconds)
        with console.status("the last usage is delivered"):
            caught_up = _catch_up(observer)
        control.settle(timeout=60)
        _print_kinds(console, ended)
        return [
            *_promises_about_answers(run, ended, trouble),
            *_promises_about_growth(run.samples, ended, seconds),
            *_promises_about_usage(run.samples, ended, observer, control, caught_up=caught_up),
        ]


# --- the stack ------------------------------------------------------------------------------------


@contextmanager
def _stack(log: Trouble) -> Iterator[tuple[LocalStack, Control, Observer]]:
    with LocalStack(
        log=log, parameters=PARAMETERS, schedule_minute_seconds=RUN_EVERY_SECONDS
    ) as stack:
        control = Control(_standin(stack))
        observer = Observer(stack.database_url)
        try:
            yield stack, control, observer
        finally:
            observer.close()
            control.close()


def _standin(stack: LocalStack) -> str:
    return stack.commet.removesuffix("/api/v1")


def _customers(stack: LocalStack, control: Control) -> tuple[str, ...]:
    """Registers users who pay for the plan. Returns their ids."""
    users = tuple(f"bench-{number}" for number in range(USERS))
    key = {"authorization": f"Bearer {stack.service_key}"}
    with httpx.Client(base_url=stack.api, headers=key, timeout=60, trust_env=False) as http:
        for user in users:
            email = {"email": f"{user}@example.com"}
            http.put(f"/users/{user}", json=email).raise_for_status()
            wanted = {"user_id": user, "plan_code": PLAN}
            made = http.post("/checkout", json=wanted).raise_for_status().json()
            control.pay(str(made["subscription"]["id"]))
        control.settle(timeout=60)
        for user in users:
            if not http.get(f"/users/{user}/dashboard").raise_for_status().json()["access"]:
                raise RuntimeError(f"{user} has paid and has no access.")
    return users


# --- the run --------------------------------------------------------------------------------------


def _watched(
    console: Console, observer: Observer, place: Place, share: float, seconds: float
) -> tuple[Run, Ended]:
    """Has another process send the load, and looks at the stack meanwhile."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    sender = context.Process(target=drive, args=(theirs, place, share, seconds), daemon=True)
    sender.start()
    theirs.close()  # else the end of the sender would not end the pipe
    run, began = Run(0), 0.0
    while True:
        if run.rate:
            run.samples.append(observer.look(time.perf_counter() - began))
        if not ours.poll(SAMPLE_SECONDS):
            continue
        try:
            told = ours.recv()
        except EOFError:
            raise RuntimeError("The process that sends the load has failed: see above.") from None
        match told:
            case Reached() as reached:
                console.print(
                    f"{reached.kind}: {reached.rate:,.0f} a second, with {CLIENTS} clients"
                )
            case Began(rate=rate):
                run.rate, began = rate, time.perf_counter()
                console.print(f"{share:.0%} of that for {seconds / MINUTE:g} minutes.\n")
                console.print(_HEADINGS, soft_wrap=True)
            case Minute() as minute:
                run.minutes.append(minute)
                oldest = _oldest(run.samples, minute.number)
                console.print(_line(minute, run.samples[-1], oldest), soft_wrap=True)
            case Ended() as ended:
                sender.join()
                return run, ended


def _oldest(samples: list[Sample], minute: int) -> float:
    """Returns how old undelivered usage became in a minute. The first minute is 1."""
    of_minute = [each.undelivered for each in samples if int(each.at // MINUTE) + 1 >= minute]
    return max(of_minute, default=0)


def _catch_up(observer: Observer) -> bool:
    """Waits until Commet has all usage. Returns whether that came in time."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while observer.look(0).undelivered:
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


# --- promises -------------------------------------------------------------------------------------


def _promises_about_answers(run: Run, ended: Ended, trouble: Trouble) -> list[Promise]:
    slowest = min(minute.rate for minute in run.minutes)
    sent = sum(each.requests for each in ended.kinds.values())
    return [
        Promise(
            "Every answer is the expected one.",
            f"{sent:,} requests, {ended.customers} new customers; {_few(ended.errors)}",
            not ended.errors,
        ),
        Promise(
            "No function logs an error, and no webhook or schedule fails.",
            _few(trouble.first, trouble.count),
            not trouble.count,
        ),
        Promise(
            "The planned rate is reached in every minute.",
            f"{slowest:,.1f} of {run.rate:,.1f} a second",
            slowest >= KEPT_RATE * run.rate,
        ),
    ]


def _promises_about_growth(samples: list[Sample], ended: Ended, seconds: float) -> list[Promise]:
    promises = [stays_flat("The 99th percentile of latency stays flat.", "ms", ended.p99)]
    for part in samples[0].parts:
        found = [(each.at, each.parts[part]) for each in samples if part in each.parts]
        memory: list[Series] = [
            [(at, one.memory) for at, one in found],
            [(at, one.largest) for at, one in found],
        ]
        promises.append(
            stays_flat(
                f"Memory stays flat, in all and of the largest process: {part}.",
                "MB",
                *(_medians(series, seconds) for series in memory),
            )
        )
    connections = _medians([(each.at, each.connections) for each in samples], seconds)
    promises.append(stays_flat("Connections to Postgres stay flat.", "", connections))
    files = _medians([(each.at, each.files) for each in samples], seconds)
    promises.append(stays_flat("Open files of the gateway stay flat.", "", files))
    return promises


def _medians(series: Series, seconds: float) -> tuple[float, float]:
    """Returns the medians of the first and of the last third."""
    first, last = thirds(series, seconds)
    return statistics.median(first), statistics.median(last)


def _promises_about_usage(
    samples: list[Sample],
    ended: Ended,
    observer: Observer,
    control: Control,
    *,
    caught_up: bool,
) -> list[Promise]:
    oldest = max(each.undelivered for each in samples)
    found = observer.database.execute(
        "select user_id, sum(quantity) as quantity from usage_event group by user_id"
    )
    ledger = {str(row["user_id"]): Decimal(row["quantity"]) for row in found}
    commet = {user: _at_commet(control, user) for user in ledger}
    return [
        Promise(
            "Undelivered usage is no older than its interval and one run.",
            f"{oldest:.0f} of {LIMIT_SECONDS} s",
            oldest <= LIMIT_SECONDS,
        ),
        same_sums("The ledger has what was sent, once.", ended.booked, ledger),
        Promise(
            "At the end, all usage is delivered in time.", "yes" if caught_up else "no", caught_up
        ),
        same_sums("Commet's totals are the ledger's.", ledger, commet),
    ]


def _at_commet(control: Control, user: str) -> Decimal:
    """Returns how much of the feature a user has used, as Commet counts."""
    for feature in control.customer(user)["features"]:
        if feature["code"] == FEATURE:
            return Decimal(str(feature["consumption"]["unitsUsed"]))
    raise RuntimeError(f"The stand-in has no {FEATURE} of {user}.")


# --- what is printed ------------------------------------------------------------------------------

_HEADINGS = (
    "minute   a second    p50     p99     max ms  errors |"
    " gateway  functions   Postgres  stand-in MB | connections  files | oldest undelivered"
)


def _line(minute: Minute, sample: Sample, oldest: float) -> str:
    memory = {part: f"{each.memory:,.0f}/{each.processes}" for part, each in sample.parts.items()}
    gateway, functions, postgres, standin = (
        memory.get(part, "") for part in ("gateway", "functions", "Postgres", "stand-in")
    )
    return (
        f"{minute.number:6} {minute.rate:10,.1f} {minute.p50:6.1f} {minute.p99:7.1f}"
        f" {minute.longest:10,.0f} {minute.errors:7} |"
        f" {gateway:>7} {functions:>10} {postgres:>10} {standin:>12} |"
        f" {sample.connections:11} {sample.files:6} | {oldest:.0f} s"
    )


def _print_kinds(console: Console, ended: Ended) -> None:
    table = Table(title="All answers, by request", title_justify="left")
    for heading in ("", "requests", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, each in sorted(ended.kinds.items()):
        table.add_row(
            kind.replace("_", " "), f"{each.requests:,}", f"{each.p50:.1f}", f"{each.p99:.1f}"
        )
    console.print()
    console.print(table)


def _table(promises: list[Promise]) -> Table:
    table = Table(title="The last third beside the first third, and the sums", title_justify="left")
    for heading in ("promise", "measured", ""):
        table.add_column(heading)
    for each in promises:
        table.add_row(each.text, each.measured, "[green]✓[/]" if each.kept else "[red]✗[/]")
    return table


def _few(errors: list[str], count: int | None = None) -> str:
    """Says how many errors there are, and what the first are."""
    count = len(errors) if count is None else count
    return "\n".join([f"{count} errors", *(escape(each) for each in errors[:3])])


if __name__ == "__main__":
    raise SystemExit(main())
