"""What is done about one user reads the rows of that user, however many others there are."""

from collections import Counter
from collections.abc import Iterator

import pytest

from billing.accounts import erasing, export
from billing.audit import trail
from billing.database.connection import Connection, Database
from billing.deadline import Deadline
from billing.operations import erasure_watch
from tests.integration.billing.conftest import _connect, empty
from tests.integration.billing.racing import OneTransaction
from tests.integration.billing.reading import rows_read

USER = "usr_07"
USERS = 99
ROWS = 30  # of each user in each table
# These hold a row for each plan, currency or day, and none for each user.
SMALL = {"alarm_once", "charged_currency"}

# Rows of every table that grows with the number of users. a and g: the user's number, also the id
# of the user's period; b and n: the row's number.
FILLED = {
    "users": "id, email, own_account, created_at, commet_customer_id, person"
    " select 'usr_' || g, g || '@example.com', true, now(), 'cus_' || g, sha256(g::bytea)",
    "passwords": "user_id, hash, changed_at select 'usr_' || g, 'x', now()",
    "sessions": "token_sha256, id, user_id, created_at, last_seen_at, expires_at"
    " select sha256((g || '-' || n)::bytea), g || '-' || n, 'usr_' || g, now(), now(), now()",
    "known_networks": "user_id, network, last_seen_at select 'usr_' || g, n, now()",
    "account_tokens": "id, user_id, purpose, email, email_key, created_at, expires_at"
    " select 'tok_' || g, 'usr_' || g, 'verify_email', 'x', 'x', now(), now()",
    "mails": "user_id, address, kind, fields, queued_at, expires_at"
    " select 'usr_' || g, 'x', 'password_changed', '{}', now(), now()",
    "mail_preferences": "user_id, thresholds select 'usr_' || g, false",
    "attempts": "key, window_start, count"
    " select 'portal:usr_' || g, now() - b * interval '1 hour', 1",
    "customers": "id, external_id, approved_for select 'cus_' || g, 'usr_' || g, 'usr_' || g",
    "subscriptions": "id, user_id, status, created_at, changed_at"
    " select 'sub_' || g || '-' || n, 'usr_' || g, 'canceled', now(), now()",
    "entitlements": "user_id, feature, name, type, allowed, changed_at"
    " select 'usr_' || g, 'f' || n, 'x', 'usage', true, now()",
    "plan_change": "id, user_id, subscription_id, plan_id, old_plan_id, currency, is_immediate,"
    " due_now, credit, expires_at"
    " select 'pc_' || g || '-' || n, 'usr_' || g, 'x', 'x', 'x', 'usd', true, 0, 0, now()",
    "contact_change": "user_id select 'usr_' || g",
    "usage_period": "user_id, subscription_id, starts_at, ends_at, closed_at"
    " select 'usr_' || g, 'x', now(), now() + interval '1 day', now()",
    "usage_total": "period, feature, total select a, 'f' || n, 1",
    "usage_daily": "period, feature, day, quantity select a, 'f' || n, now(), 1",
    "usage_event": "user_id, idempotency_key, fingerprint, feature, quantity, occurred_at,"
    " booked_at, period, late"
    " select 'usr_' || g, 'k' || n, 'x', 'f', 1, now(), now(), a, false",
    "usage_credit": "user_id, idempotency_key, feature, quantity"
    " select 'usr_' || g, 'k' || n, 'f', 1",
    "usage_reservation": "id, user_id, idempotency_key, fingerprint, feature, quantity, created_at,"
    " expires_at, state select 'res_' || g || '-' || n, 'usr_' || g, 'k' || n, 'x', 'f', 1, now(),"
    " now(), case when b > 20 then 'held' else 'expired' end",
    "usage_delivery": "period, feature, seq, user_id, quantity, event_id, body, state,"
    " billed_period select a, 'f', b, 'usr_' || g, 1, g || '-' || n, '', 'sent',"
    " a",
    "threshold": "id, user_id, set_by, measure, feature, percent, created_at"
    " select 'thr_' || g || n, 'usr_' || g, 'user', 'usage', 'f' || n, b, now()",
    "threshold_reached": "period, measure, feature, mark, value, reached_at"
    " select a, 'usage', 'f' || n, '80%%', 1, now()",
    "usage_drift": "period, feature, user_id, ours, theirs, found_at, checked_at"
    " select a, 'f' || n, 'usr_' || g, 1, 1, now(), now()",
    "payment_trouble": "user_id, kind, about, opened_at, changed_at"
    " select 'usr_' || g, 'refund', n, now(), now()",
    "debt": "user_id, kind, source, opened_at, ended_at, ended_by"
    " select 'usr_' || g, 'lost_usage', g || '-' || n, now(), now(), 'forgiven'",
    "debt_link": "user_id, debts, net, currency, state, created_at"
    " select 'usr_' || g, '{}', 1, 'usd', 'canceled', now()",
    "invoice_search": "subscription_id, user_id, due_at"
    " select 'sub_' || g || '-' || n, 'usr_' || g, now()",
    "webhooks": "id, type, customer, user_id, payload, status"
    " select 'whev_' || g || '-' || n, 'x', 'usr_' || g, 'usr_' || g, 'x', 'applied'",
    "outgoing_event": "user_id, type, occurred_at, data, place, sequence"
    " select 'usr_' || g, 'user.registered', now(), '{}', a * 1000 + b, b",
    "told": "user_id select 'usr_' || g",
    "audit": "id, actor_kind, actor, user_id, action, outcome"
    " select gen_random_uuid(), 'user', 'usr_' || g, 'usr_' || g, 'a.b', 'done'",
}  # fmt: skip
ONCE = {
    "users", "passwords", "account_tokens", "customers", "contact_change", "mail_preferences",
    "usage_period", "told",
}  # fmt: skip


@pytest.fixture(scope="module")
def transaction(migrated_url: str) -> Iterator[Connection]:
    """One transaction that finds many users, and reads a table as a whole only if it must."""
    with _connect(migrated_url) as connection:
        connection.execute("begin")
        empty(connection)
        connection.execute("set local session_replication_role = replica")  # no triggers here
        for table, rows in FILLED.items():
            each = 1 if table in ONCE else ROWS
            connection.execute(
                f"insert into {table} ({rows.replace(' select ', ') select ', 1)}"  # noqa: S608
                f" from generate_series(1, {USERS}) a, lpad(a::text, 2, '0') g,"
                f" generate_series(1, {each}) b, lpad(b::text, 2, '0') n"
            )
        connection.execute("set local session_replication_role = origin")
        connection.execute("analyze")
        connection.execute("set local enable_seqscan = off")
        yield connection
        connection.execute("rollback")


@pytest.fixture
def filled(transaction: Connection) -> Iterator[Database]:
    """The transaction as it was filled."""
    transaction.execute("savepoint filled")
    yield OneTransaction(transaction)
    transaction.execute("rollback to savepoint filled")


def too_many(read: Counter[str]) -> dict[str, int]:
    """The tables of which more was read than a few times what one user has there."""
    return {
        table: count for table, count in read.items() if count > 8 * ROWS and table not in SMALL
    }


@pytest.mark.parametrize("section", export.SECTIONS)
def test_a_section_of_the_export(filled: Database, section: str) -> None:
    start = export._Position(section)
    read = rows_read(filled, lambda: export._rows(filled, USER, start))
    assert too_many(read) == {}
    # And from the middle of the section on.
    found = export._rows(filled, USER, start)
    if len(found) > 10:
        middle = export._Position(section, export._padded(found[10]["key"]))
        assert too_many(rows_read(filled, lambda: export._rows(filled, USER, middle))) == {}
        assert export._rows(filled, USER, middle) == found[11:]


def test_the_export_has_rows_of_each_section(filled: Database) -> None:
    """So that the test above is about something."""
    empty = {
        name for name in export.SECTIONS
        if not export._rows(filled, USER, export._Position(name))
    }  # fmt: skip
    assert empty == {"identities", "checkouts", "alarms"}  # each by its primary key, or small


def test_the_first_step_of_an_erasure(filled: Database) -> None:
    read = rows_read(filled, lambda: erasing.erase(filled, USER, by=trail.SOMEBODY))
    assert too_many(read) == {}


def test_whether_everything_is_closed(filled: Database) -> None:
    erasing.erase(filled, USER, by=trail.SOMEBODY)
    filled.execute("update erasure set ended_at = asked_at, renamed_at = asked_at")
    filled.execute("update erasure set asked_at = asked_at - interval '2 days'")
    query = {"user_id": USER}
    read = rows_read(filled, lambda: filled.value(erasure_watch._sql["is_closed"], query))
    assert too_many(read) == {}


@pytest.mark.parametrize("pseudonym", [USER, "usr_new"])
def test_the_second_step_of_an_erasure(filled: Database, pseudonym: str) -> None:
    """Of a user with an id of ours, and of one whose id is replaced."""
    erasing.erase(filled, USER, by=trail.SOMEBODY)
    filled.execute("update erasure set pseudonym = %s", [pseudonym])
    done: list[bool] = []
    read = rows_read(filled, lambda: done.append(erasing.replace(filled, USER, Deadline.after(60))))
    assert done == [True]
    assert too_many(read) == {}


def test_a_large_ledger_is_read_once(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each statement goes on behind the last one, also where the id stays; none comes twice."""
    monkeypatch.setattr(erasing, "_AT_ONCE", 4)
    filled.execute(
        "update usage_event set idempotency_key = 'erased:' || idempotency_key"
        " where user_id = %s and idempotency_key > 'k20'",
        [USER],
    )
    erasing.erase(filled, USER, by=trail.SOMEBODY)
    read = rows_read(filled, lambda: erasing.replace(filled, USER, Deadline.after(60)))
    assert read["usage_event"] < 8 * ROWS
    left = "select count(*) from usage_event where user_id = %s and fingerprint <> ''"
    assert filled.value(left, [USER]) == 0
