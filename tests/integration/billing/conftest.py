"""What tests put into the database. The fixtures are in the conftest.py of the folder above."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.client import Commet
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.subscriptions.checkout import Checkouts
from billing.usage.rules import Rules

START = datetime(2026, 9, 1, tzinfo=UTC)
NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
STATUSES = frozenset({"active", "trialing", "past_due"})
# Nothing limits what users spend.
RULES = Rules(STATUSES, ceilings={"usd": None}, at_once={"usd": None})

Subscribe = Callable[..., str]


def _connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True, prepare_threshold=1, row_factory=dict_row)


def empty(connection: Connection) -> None:
    """Deletes every row and has identities begin anew.

    One statement for all tables, so that foreign keys are checked when all rows are gone. A
    `truncate`, which gives each table and index a new file, takes 50 times as long.
    """
    tables = connection.execute(
        "select tablename from pg_tables"
        " where schemaname = 'public' and tablename <> 'schema_migrations'"
    ).fetchall()
    assert tables
    parts = [
        sql.SQL("{} as (delete from {})").format(
            sql.Identifier(f"of_{row['tablename']}"), sql.Identifier(row["tablename"])
        )
        for row in tables
    ]
    connection.execute(sql.SQL("with {} select").format(sql.SQL(", ").join(parts)))
    connection.execute(
        "select setval(format('%I.%I', schemaname, sequencename), start_value, false)"
        " from pg_sequences where schemaname = 'public'"
    )


def keep(connection: Connection, warm: list[Connection]) -> None:
    """Keeps a connection for the tests that follow, as new; closes it if it is of no use."""
    if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
        connection.close()
        return
    try:
        connection.execute("reset role")
        connection.execute("reset all")
        connection.execute("select pg_advisory_unlock_all()")
    except psycopg.Error:
        connection.close()
    else:
        warm.append(connection)


@contextmanager
def own_database(url: str) -> Iterator[Database]:
    """A connection of a thread's own, as each Lambda environment has."""
    database = Database(lambda: _connect(url))
    try:
        yield database
    finally:
        database.close()


def add_user(db: Database, user_id: str | None = None, *, customer: str | None = None) -> str:
    """Inserts a user; answers the id."""
    user_id = user_id or f"usr_{uuid4().hex[:12]}"
    db.execute(
        "insert into users (id, email, commet_customer_id, created_at) values (%s, %s, %s, %s)",
        [user_id, f"{user_id}@example.com", customer, START],
    )
    return user_id


def start_checkout(db: Database, commet: Commet, user_id: str) -> str:
    """Begins to buy `usage_pro`, and does not pay; answers the subscription's id."""
    started = Checkouts(db, commet, wall_clock).start(
        User(user_id, f"{user_id}@example.com", None),
        plan_code="usage_pro",
        billing_interval="monthly",
        success_url="https://app.example/",
        deadline=Deadline.after(20),
    )
    return started.subscription.id


def subscriber(db: Database) -> Subscribe:
    """Makes users as `subscribe` does, in this database."""

    def make(
        user_id: str = "usr_ana",
        *,
        status: str = "active",
        interval: str | None = "monthly",
        starts_at: datetime | None = START,
        ends_at: datetime = datetime(2026, 10, 1, tzinfo=UTC),
        feature: str | None = "storage",
        **entitlement: Any,
    ) -> str:
        db.execute(
            "insert into users (id, email, created_at) values (%s, %s, %s) on conflict do nothing",
            [user_id, f"{user_id}@example.com", START],
        )
        subscription = f"sub_{user_id}"
        db.execute(
            "insert into subscriptions"
            " (id, user_id, status, billing_interval, period_end, created_at, changed_at)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [subscription, user_id, status, interval, ends_at if starts_at else None, START, START],
        )
        if starts_at is not None:
            db.execute(
                "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
                " values (%s, %s, %s, %s) on conflict do nothing",
                [user_id, subscription, starts_at, ends_at],
            )
        if feature is not None:
            grant_feature(db, user_id, feature, **entitlement)
        return user_id

    return make


def grant_feature(db: Database, user_id: str, feature: str, **columns: Any) -> None:
    """Entitles a user to a feature: metered, 100 included, overage at 0.10, unless told."""
    row = {
        "user_id": user_id,
        "feature": feature,
        "name": feature.title(),
        "unit": "GB",
        "type": "usage",
        "model": "metered",
        "allowed": True,
        "included": Decimal(100),
        "unlimited": False,
        "overage_enabled": True,
        "unit_price": Decimal(1000),
        "currency": "usd",
        "changed_at": START,
    } | columns
    db.execute(
        f"insert into entitlements ({', '.join(row)})"  # noqa: S608 - column names of our own
        f" values ({', '.join(f'%({c})s' for c in row)})"
        " on conflict (user_id, feature) do update set allowed = excluded.allowed,"
        " included = excluded.included, overage_enabled = excluded.overage_enabled",
        row,
    )


def booked(db: Database, user_id: str, feature: str = "storage") -> dict[str, Decimal]:
    """What each place says was used of a feature, over all periods. They must agree."""
    row = db.one(
        "select"
        " (select coalesce(sum(quantity), 0) from usage_event"
        "   where user_id = %(user)s and feature = %(feature)s) as ledger,"
        " (select coalesce(sum(total), 0) from usage_total join usage_period p on p.id = period"
        "   where user_id = %(user)s and feature = %(feature)s) as total,"
        " (select coalesce(sum(quantity), 0) from usage_daily join usage_period p on p.id = period"
        "   where user_id = %(user)s and feature = %(feature)s) as daily",
        {"user": user_id, "feature": feature},
    )
    assert row is not None
    return row


def after(**delta: float) -> datetime:
    """A moment later than NOW."""
    return NOW + timedelta(**delta)
