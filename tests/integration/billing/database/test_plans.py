"""Hot statements read the rows that they are about, whatever else the tables hold.

They are run on tables full of others' rows, and every row that Postgres reads is counted: also
those that routines read, whose plans no `explain` shows. Before version 18 Postgres plans the
statements of a routine in SQL once, for no values in particular. So `make test-postgres` runs this
file on every version.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from billing.accounts import accounts, sessions
from billing.database.connection import Connection, Database
from billing.delivery import outbox
from billing.errors import Unauthenticated
from billing.mail import outbox as mails
from billing.subscriptions import inbox, mirror
from billing.usage import corrections, ledger, reservations, totals
from billing.usage.accepting import UsageEvent, accept, check
from billing.usage.corrections import Correction
from billing.usage.ledger import Query
from tests.integration.billing.conftest import NOW, RULES, START, Subscribe, after
from tests.integration.billing.racing import OneTransaction
from tests.integration.billing.signed import state

ROWS = 15_000
# A statement may read tables with a row for each of 30 users whole, and none of thousands.
FEW = 400
INTERVAL = timedelta(minutes=5)

Statement = Callable[[Database], object]


_OTHERS = "from usage_period p, generate_series(1, %(n)s) n where p.user_id <> 'usr_ana'"
OTHERS = (
    "insert into users (id, email, created_at)"
    " select 'usr_' || n, n || '@example.com', %(start)s from generate_series(1, %(users)s) n",
    "insert into subscriptions"
    " (id, user_id, status, billing_interval, period_end, created_at, changed_at)"
    " select 'sub_' || id, id, 'active', 'monthly', %(start)s::timestamptz + interval '30 days',"
    " %(start)s, %(start)s from users where id <> 'usr_ana'",
    "insert into usage_period (user_id, subscription_id, starts_at, ends_at)"
    " select user_id, id, %(start)s, period_end from subscriptions where user_id <> 'usr_ana'",
    "insert into entitlements (user_id, feature, name, unit, type, model, allowed, included,"
    " unlimited, overage_enabled, unit_price, currency, changed_at)"
    " select u.id, e.feature, e.name, e.unit, e.type, e.model, e.allowed, e.included,"
    " e.unlimited, e.overage_enabled, e.unit_price, e.currency, e.changed_at"
    " from entitlements e, users u where u.id <> 'usr_ana'",
    "insert into usage_event (user_id, idempotency_key, fingerprint, feature, quantity,"
    " occurred_at, booked_at, period, late)"
    " select p.user_id, 'k' || n, ''::bytea, 'storage', 1, %(start)s + n * interval '1 s',"
    " %(start)s + n * interval '1 s', p.id, false " + _OTHERS,
    "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
    " state, sent_at, answered_at, billed_period)"
    " select p.id, 'storage', n, p.user_id, 1, p.id || ':' || n, '', 'sent',"
    " %(start)s, %(start)s, p.id " + _OTHERS,
    "insert into usage_total (period, feature, total, claimed, seq, claimed_at)"
    " select id, 'storage', %(n)s, %(n)s, %(n)s, %(start)s"
    " from usage_period where user_id <> 'usr_ana'",
    "insert into usage_reservation (id, user_id, idempotency_key, fingerprint, feature,"
    " quantity, created_at, expires_at, state, concluded_at)"
    " select p.user_id || ':' || n, p.user_id, 'r' || n, ''::bytea, 'storage', 1, %(start)s,"
    " %(start)s, 'released', %(start)s " + _OTHERS,
    "insert into webhooks (id, type, mode, customer, occurred_at, received_at, status)"
    " select p.user_id || ':' || n, 'subscription.updated', 'sandbox', p.user_id, %(start)s,"
    " %(start)s, 'applied' " + _OTHERS,
    "insert into sessions (token_sha256, id, user_id, created_at, last_seen_at, expires_at)"
    " select sha256((p.user_id || ':' || n)::bytea), p.user_id || ':' || n, p.user_id, %(start)s,"
    " %(start)s, %(start)s::timestamptz + interval '30 days' " + _OTHERS,
    "insert into mails (user_id, address, kind, fields, queued_at, expires_at, state, ended_at)"
    " select p.user_id, 'x@example.com', 'password_changed', '{}', %(start)s, %(start)s, 'sent',"
    " %(start)s " + _OTHERS,
)


def event(key: str) -> UsageEvent:
    return UsageEvent("usr_ana", "storage", Decimal(1), key)


@pytest.fixture(params=[30, 3000], ids=["some with many", "many with some"])
def crowded(request: pytest.FixtureRequest, db: Database, subscribe: Subscribe) -> None:
    """Some other users with many rows, or many with some each; and one who has few."""
    subscribe("usr_ana")
    values = {"users": request.param, "n": ROWS // request.param, "start": START}
    for statement in OTHERS:
        db.execute(statement, values)
    accept(db, [event("first")], rules=RULES, now=NOW)
    db.execute("analyze")


def read_by(connection: Connection, statement: Statement) -> dict[str, int]:
    """How many rows of each table were read."""
    # What the session has counted until now is handed over, and not seen below.
    connection.execute("select pg_stat_force_next_flush()")
    with connection.transaction(force_rollback=True):
        statement(OneTransaction(connection))
        rows = connection.execute(
            "select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as read"
            " from pg_stat_xact_user_tables"
        ).fetchall()
    return {row["relname"]: row["read"] for row in rows if row["read"]}


def _session(db: Database) -> None:
    with pytest.raises(Unauthenticated):
        accounts.user_of_session(db, "ses_unknown", NOW)


def _delivery(db: Database) -> None:
    assert outbox.claim_of_user(db, "usr_ana", now=NOW, interval=INTERVAL) == 1
    (leased,) = outbox.lease(db, 5)
    sent = outbox.Result(leased, outbox.Outcome.SENT, remote_id="evt_1")
    outbox.record(db, [sent], now=after(seconds=1))


def _reservation(db: Database) -> None:
    made = reservations.reserve(db, event("reserved"), rules=RULES, now=NOW)
    assert made.reservation is not None
    reservations.confirm(db, made.reservation, Decimal(1), rules=RULES, now=NOW)


def _replacement(db: Database) -> None:
    db.execute("update usage_total set total = 0, claimed = 1 where period = %s", [_period(db)])
    begun = db.value(
        "select begin_replacement(%s, 'storage', %s, '0', '1 min', 'r')", [_period(db), NOW]
    )
    assert begun == "begun"


def _period(db: Database) -> int:
    return int(db.value("select id from usage_period where user_id = 'usr_ana'"))


STATEMENTS: dict[str, Statement] = {
    "a usage event": lambda db: accept(db, [event("new")], rules=RULES, now=NOW),
    "a usage event, again": lambda db: accept(db, [event("first")], rules=RULES, now=NOW),
    "a check": lambda db: check(
        db, user_id="usr_ana", feature="storage", quantity=Decimal(1), rules=RULES, now=NOW
    ),
    "a reservation": _reservation,
    "a correction": lambda db: corrections.correct(
        db, Correction("usr_ana", "storage", Decimal(-1), "c", "why"), author="a", rules=RULES,
        now=NOW,
    ),
    "a delivery": _delivery,
    "a replacement": _replacement,
    "the dashboard": lambda db: totals.usage_of_user(
        db, user_id="usr_ana", currency="usd", now=NOW
    ),
    "a page of a user's ledger": lambda db: ledger.page(db, Query(user_id="usr_ana"), now=NOW),
    "a webhook": lambda db: inbox.receive(
        db, state("usr_ana", "sub_usr_ana", 5), mode="sandbox", now=NOW
    ),
    "the state of the inbox": inbox.health,
    "the current subscription": lambda db: mirror.current(db, "usr_ana"),
    "subscriptions to ask about": lambda db: mirror.lease_refreshes(db, NOW, limit=10),
    "a session": _session,
    "the sessions of a user": lambda db: sessions.of_user(db, "usr_ana", token="t", now=NOW),
    "a mail to send": lambda db: mails.lease_next(db, NOW),
}  # fmt: skip


@pytest.mark.usefixtures("crowded")
def test_few_rows_are_read(connect: Callable[[], Database]) -> None:
    """Twice, because the second time a connection may use a plan that it has kept."""
    too_many = {}
    for name, statement in STATEMENTS.items():
        connection = connect()._usable()
        for _ in range(2):
            read = read_by(connection, statement)
            if max(read.values(), default=0) >= FEW:
                too_many[name] = read
    assert too_many == {}
