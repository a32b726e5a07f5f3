"""What a stack of this process looks like from outside while it works: memory, connections, usage
that Commet does not have yet, and errors.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psycopg
from psycopg.rows import dict_row

from bench.processes import Process, family, open_files
from local.gateway.logs import Access, Log, Report
from local.gateway.template import FunctionSpec

_KEPT = 5

# Deliveries of a total are claimed in order, so what was booked after the newest delivery that was
# sent, and has none unsent before it, is not at Commet yet.
_STATE = """
select (select numbackends from pg_stat_database where datname = current_database()) as connections,
       coalesce(max(extract(epoch from now() - first.booked_at)), 0)::float as undelivered
from usage_total t
cross join lateral (
    select coalesce(max(d.claimed_at), '-infinity') as until
    from usage_delivery d
    where d.period = t.period and d.feature = t.feature and d.state = 'sent'
      and not exists (
          select from usage_delivery o
          where o.period = d.period and o.feature = d.feature and o.seq < d.seq
            and o.state <> 'sent'
      )
) as delivered
cross join lateral (
    select e.booked_at from usage_event e
    where e.period = t.period and e.feature = t.feature and e.booked_at > delivered.until
    order by e.booked_at limit 1
) as first
"""


@dataclass(frozen=True, slots=True)
class Part:
    """The processes of a part of the stack. Memory is in MB: of all, and of the largest."""

    processes: int
    memory: float
    largest: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The stack at one moment, `at` seconds after the load began.

    `connections`: to the database. `files`: open files and connections of the gateway.
    `undelivered`: the age in seconds of the oldest usage that Commet does not have.
    """

    at: float
    parts: Mapping[str, Part]
    connections: int
    files: int
    undelivered: float


class Observer:
    """Looks at the stack of this process. `url` is that of its database."""

    def __init__(self, url: str) -> None:
        self.database = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def close(self) -> None:
        """Closes the connection."""
        self.database.close()

    def look(self, at: float) -> Sample:
        """Returns the present state. `at` is the second of the run."""
        state = self.database.execute(_STATE).fetchone()
        assert state is not None
        return Sample(
            at=at,
            parts=_parts(family(os.getpid())),
            connections=int(state["connections"]),
            files=open_files(os.getpid()),
            undelivered=float(state["undelivered"]),
        )


class Trouble(Log):
    """Prints nothing. Keeps what went wrong: server errors, and errors that functions logged."""

    def __init__(self, nowhere: TextIO) -> None:
        super().__init__(nowhere, colour=False)
        self.count = 0
        self.first: list[str] = []

    def access(self, access: Access) -> None:
        """Takes the line of a request."""
        super().access(access)
        if access.status >= 500:
            self._keep(str(access))

    def output(
        self, function: str, text: str, *, routine: bool = False, ids: Sequence[str] = ()
    ) -> None:
        """Takes lines that a function wrote."""
        super().output(function, text, routine=routine, ids=ids)
        for line in text.splitlines():
            if "ERROR" in line:
                self._keep(f"{function}: {line}")

    def report(self, spec: FunctionSpec, report: Report, ids: Sequence[str] = ()) -> None:
        """Takes the summary of an invocation."""
        super().report(spec, report, ids)
        if report.error:
            self._keep(f"{spec.name}: {report.error}")

    def _keep(self, line: str) -> None:
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(line[:500])


def _part_of(process: Process) -> str | None:
    """Returns which part of the stack a process belongs to; None if to none that is measured."""
    if process.pid == os.getpid():
        return "gateway"
    if process.name == "postgres":
        return "Postgres"
    if "standin" in process.command:
        return "stand-in"
    if any(word == "awslambdaric" or Path(word).name == "client.py" for word in process.command):
        return "functions"
    return None


def _parts(processes: Iterable[Process]) -> dict[str, Part]:
    memory: dict[str, list[float]] = defaultdict(list)
    for process in processes:
        if part := _part_of(process):
            memory[part].append(process.memory)
    return {part: Part(len(each), sum(each), max(each)) for part, each in memory.items()}
