"""Records in SQLite: one table per kind. A row has the record as JSON, and the fields for
searching.

The stand-in runs on one event loop and never awaits inside a transaction. So transactions need no
locks, and requests cannot interleave in a transaction.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from standin.deadlines import next_deadline
from standin.models import (
    ClockRun,
    Customer,
    Delivery,
    Endpoint,
    Event,
    Invoice,
    Meter,
    Payment,
    PortalSession,
    Record,
    Refund,
    StoredAnswer,
    Subscription,
    Transaction,
    UsageRecord,
)

R = TypeVar("R", bound=Record)
_PARSED_KEPT = 4096
Column = Callable[[R], Any]


def stamp(moment: datetime | None) -> str | None:
    """Returns a moment as text that sorts by time. Every moment here is in UTC."""
    return None if moment is None else moment.isoformat(timespec="microseconds")


class Sharing:
    """Whether records are only read, so that reads may return the same objects each time."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


class Table(Generic[R]):
    """All records of one kind. Newer records have a higher `seq`."""

    def __init__(
        self,
        db: sqlite3.Connection,
        name: str,
        model: type[R],
        columns: dict[str, Column[R]] | None = None,
        *,
        sharing: Sharing | None = None,
        unique: tuple[str, ...] = (),
        indexes: tuple[str, ...] | None = None,
    ) -> None:
        """Creates one index per column, or the given ones (`a` or `a, b`)."""
        self._db = db
        self.name = name
        self._model = model
        self._sharing = sharing or Sharing()
        self._parsed = lru_cache(maxsize=_PARSED_KEPT)(model.model_validate_json)
        self._columns = columns or {}
        self._create(unique, tuple(self._columns) if indexes is None else indexes)
        names = ["id", *self._columns, "doc"]
        changes = ", ".join(f"{c}=excluded.{c}" for c in names[1:])
        self._upsert = (
            f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
            f" ON CONFLICT(id) DO UPDATE SET {changes}"
        )

    def _create(self, unique: tuple[str, ...], indexes: tuple[str, ...]) -> None:
        extra = "".join(f"{column}, " for column in self._columns)
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {self.name} (seq INTEGER PRIMARY KEY,"
            f" id TEXT NOT NULL UNIQUE, {extra}doc TEXT NOT NULL)"
        )
        self._add_missing_columns()
        for columns in indexes:
            kind = "UNIQUE INDEX" if columns in unique else "INDEX"
            name = f"{self.name}_{columns.replace(', ', '_')}"
            self._db.execute(f"CREATE {kind} IF NOT EXISTS {name} ON {self.name}({columns})")

    def _add_missing_columns(self) -> None:
        """Add the columns that an older version did not have, and fill them from the records."""
        known = {row[1] for row in self._db.execute(f"PRAGMA table_info({self.name})")}
        missing = [column for column in self._columns if column not in known]
        for column in missing:
            self._db.execute(f"ALTER TABLE {self.name} ADD COLUMN {column}")
            rows = self._db.execute(f"SELECT id, doc FROM {self.name}").fetchall()  # noqa: S608
            read, value = self._model.model_validate_json, self._columns[column]
            self._db.executemany(
                f"UPDATE {self.name} SET {column} = ? WHERE id = ?",  # noqa: S608
                [(value(read(doc)), record_id) for record_id, doc in rows],
            )

    def put(self, record: R) -> R:
        """Insert the record, or replace the one with its id."""
        columns = [column(record) for column in self._columns.values()]
        self._db.execute(self._upsert, [record.id, *columns, record.model_dump_json()])
        return record

    def get(self, record_id: str) -> R | None:
        """The record with that id."""
        return self.first("id = ?", record_id)

    def first(self, condition: str = "1", *values: Any, newest: bool = True) -> R | None:
        """Returns the newest (or oldest) record that matches."""
        return next(iter(self.find(condition, *values, limit=1, newest=newest)), None)

    def find(
        self,
        condition: str = "1",
        *values: Any,
        limit: int = -1,
        newest: bool = True,
        order: str = "",
    ) -> list[R]:
        """Returns records that match a condition on the indexed columns, newest first by
        default.
        """
        order = order or f"seq {'DESC' if newest else 'ASC'}"
        rows = self._db.execute(
            f"SELECT doc FROM {self.name} WHERE {condition} ORDER BY {order} LIMIT ?",  # noqa: S608
            [*values, limit],
        )
        return [self._record(row[0]) for row in rows]

    def page(
        self, condition: str, values: list[Any], *, before: int | None, limit: int
    ) -> tuple[list[R], int | None]:
        """Returns one page, newest first, and where the next page begins; None if there is none."""
        rows = self._db.execute(
            f"SELECT seq, doc FROM {self.name} WHERE ({condition}) AND seq < ?"  # noqa: S608
            " ORDER BY seq DESC LIMIT ?",
            [*values, before if before is not None else 2**62, limit + 1],
        ).fetchall()
        records = [self._record(doc) for _, doc in rows[:limit]]
        return records, rows[limit - 1][0] if len(rows) > limit else None

    def _record(self, doc: str) -> R:
        return self._parsed(doc) if self._sharing.on else self._model.model_validate_json(doc)

    def count(self, condition: str = "1", *values: Any) -> int:
        """Returns how many records match."""
        row = self._db.execute(
            f"SELECT count(*) FROM {self.name} WHERE {condition}",  # noqa: S608
            values,
        ).fetchone()
        return int(row[0])

    def delete(self, condition: str, *values: Any) -> None:
        """Delete the records that match."""
        self._db.execute(f"DELETE FROM {self.name} WHERE {condition}", values)  # noqa: S608


def next_due(sub: Subscription) -> str | None:
    """Returns the index entry of a subscription's next deadline. Code that changes a
    subscription sets it.
    """
    deadline = next_deadline(sub)
    return stamp(deadline.at) if deadline else None


class Store:
    """All tables of one data file."""

    def __init__(self, path: str) -> None:
        """Raises sqlite3.Error if the file cannot be used, or is in use."""
        self._db = sqlite3.connect(path, isolation_level=None)
        # One process per file, because two would deliver every webhook twice.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA busy_timeout = 1000")
        self._db.execute("PRAGMA journal_mode = WAL")
        # Every commit reaches the operating system. It survives a crash of this process, but not a
        # power failure.
        self._db.execute("PRAGMA synchronous = NORMAL")
        # How many pages (of 4 KB) the log may have before it is copied into the file and synced,
        # which takes long.
        self._db.execute("PRAGMA wal_autocheckpoint = 8000")
        self._db.execute("CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT)")
        db = self._db
        self._sharing = sharing = Sharing()
        self.customers = Table(
            db,
            "customers",
            Customer,
            {"external_id": lambda c: c.external_id, "email": lambda c: c.email},
            unique=("external_id",),
            sharing=sharing,
        )
        self.subscriptions = Table(
            db,
            "subscriptions",
            Subscription,
            {
                "customer_id": lambda s: s.customer_id,
                "status": lambda s: s.status,
                "checkout_token": lambda s: s.checkout_token,
                "due_at": next_due,
            },
            sharing=sharing,
        )
        self.meters = Table(db, "meters", Meter, sharing=sharing)
        self.usage = Table(
            db,
            "usage_records",
            UsageRecord,
            {
                "event_id": lambda u: u.event_id,
                "meter_id": lambda u: u.meter_id,
                "created_at": lambda u: stamp(u.created_at),
            },
            unique=("event_id",),
            indexes=("event_id", "meter_id, created_at"),
        )
        self.invoices = Table(
            db,
            "invoices",
            Invoice,
            {
                "customer_id": lambda i: i.customer_id,
                "subscription_id": lambda i: i.subscription_id,
                "status": lambda i: i.status,
                "recovery_token": lambda i: i.recovery_token,
                "overdue_at": lambda i: stamp(i.overdue_at),
            },
            sharing=sharing,
        )
        self.transactions = Table(
            db,
            "transactions",
            Transaction,
            {
                "invoice_id": lambda t: t.invoice_id,
                "subscription_id": lambda t: t.subscription_id,
                "customer_id": lambda t: t.customer_id,
                "customer_email": lambda t: t.customer_email,
                "status": lambda t: t.status,
            },
        )
        self.refunds = Table(db, "refunds", Refund, {"transaction_id": lambda r: r.transaction_id})
        self.payments = Table(
            db,
            "payments",
            Payment,
            {"customer_id": lambda p: p.customer_id, "token": lambda p: p.token},
        )
        self.portal_sessions = Table(db, "portal_sessions", PortalSession)
        self.endpoints = Table(db, "endpoints", Endpoint, {"is_active": lambda e: e.is_active})
        self.events = Table(
            db,
            "events",
            Event,
            {"name": lambda e: e.name, "customer_id": lambda e: e.customer_id},
            indexes=("customer_id",),
        )
        self.deliveries = Table(
            db,
            "deliveries",
            Delivery,
            {
                "status": lambda d: d.status,
                "next_at": lambda d: stamp(d.next_at),
                "event_id": lambda d: d.event_id,
                "endpoint_id": lambda d: d.endpoint_id,
            },
        )
        self.clock_runs = Table(db, "clock_runs", ClockRun, {"status": lambda r: r.status})
        self.answers = Table(
            db, "answers", StoredAnswer, {"created_at": lambda a: stamp(a.created_at)}
        )

    @property
    def _tables(self) -> list[Table[Any]]:
        return [value for value in vars(self).values() if isinstance(value, Table)]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. A transaction inside another one joins it."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def shared_reads(self) -> Iterator[None]:
        """Records that are read in here must not be changed, because later reads get the same
        objects.

        This saves parsing them, which is a large part of the time of an answer. Never await in
        here.
        """
        before, self._sharing.on = self._sharing.on, True
        try:
            yield
        finally:
            self._sharing.on = before

    def kept(self, name: str) -> str | None:
        """Returns a small value that is stored under a name."""
        row = self._db.execute("SELECT value FROM kept WHERE name = ?", [name]).fetchone()
        return None if row is None else str(row[0])

    def keep(self, name: str, value: str) -> str:
        """Store a small value."""
        self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", [name, value])
        return value

    def next_number(self, name: str) -> int:
        """1, 2, 3 … per name."""
        number = int(self.kept(name) or "0") + 1
        self.keep(name, str(number))
        return number

    def forget_everything(self) -> None:
        """Empty all tables, but not the stand-in's identity (API key, organization)."""
        with self.transaction():
            for table in self._tables:
                table.delete("1")
            self._db.execute("DELETE FROM kept WHERE name LIKE 'number:%'")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
