"""Transactions and pages of the store."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from standin.models import OVERDUE_AFTER, Customer, Invoice
from standin.store import Store, stamp

NOW = datetime(2026, 9, 1, tzinfo=UTC)


def _customer(number: int) -> Customer:
    return Customer(
        id=f"cus_{number}",
        external_id=f"usr_{number}",
        email="a@example.com",
        created_at=NOW,
        updated_at=NOW,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "s.sqlite"))


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    """Not even what was written before the failure."""

    def fail() -> None:
        with store.transaction():
            store.customers.put(_customer(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.customers.count() == 0
    store.customers.put(_customer(2))
    assert store.customers.count() == 1
    store.close()


def test_putting_again_replaces(store: Store) -> None:
    """One record per id, in its old place."""
    for number in (1, 2):
        store.customers.put(_customer(number))
    store.customers.put(_customer(1).model_copy(update={"email": "new@example.com"}))
    assert [c.email for c in store.customers.find()] == ["a@example.com", "new@example.com"]
    store.close()


def test_pages_cover_everything(store: Store) -> None:
    """Newest first, and the last page says so."""
    for number in range(5):
        store.customers.put(_customer(number))
    first, more = store.customers.page("1", [], before=None, limit=3)
    rest, end = store.customers.page("1", [], before=more, limit=3)
    assert [c.id for c in first + rest] == [f"cus_{n}" for n in (4, 3, 2, 1, 0)]
    assert end is None
    store.close()


def test_forgetting_everything_keeps_who_we_are(store: Store) -> None:
    """The key stays, invoice numbers start anew."""
    store.keep("api_key", "ck_sandbox_1")
    store.customers.put(_customer(1))
    assert [store.next_number("number:invoice") for _ in range(2)] == [1, 2]
    store.forget_everything()
    assert store.customers.count() == 0
    assert store.kept("api_key") == "ck_sandbox_1"
    assert store.next_number("number:invoice") == 1
    store.close()


def test_a_file_of_an_older_version_gets_new_columns(tmp_path: Path) -> None:
    """Filled from the records; nothing is lost, and new records are found by them."""
    file = str(tmp_path / "s.sqlite")
    old = Store(file)
    old.invoices.put(_invoice("inv_1"))
    old.close()
    with closing(sqlite3.connect(file)) as db:
        db.execute("DROP INDEX invoices_overdue_at")
        db.execute("ALTER TABLE invoices DROP COLUMN overdue_at")
    new = Store(file)
    new.invoices.put(_invoice("inv_2"))
    found = new.invoices.find("overdue_at = ?", stamp(NOW + OVERDUE_AFTER), newest=False)
    assert [invoice.id for invoice in found] == ["inv_1", "inv_2"]
    new.close()


def _invoice(invoice_id: str) -> Invoice:
    return Invoice(
        id=invoice_id,
        number="INV-0001",
        customer_id="cus_1",
        subscription_id=None,
        status="outstanding",
        invoice_type="recurring",
        currency="usd",
        lines=[],
        plan_name=None,
        period_start=NOW,
        period_end=NOW,
        issue_date=NOW,
        due_date=NOW,
        created_at=NOW,
        updated_at=NOW,
        recovery_token="tok_1",
    )


def test_shared_reads_find_one_object_until_it_changes(store: Store) -> None:
    """Outside of them everybody has a copy to change; a change is seen by all."""
    store.customers.put(_customer(1))
    with store.shared_reads():
        first = store.customers.get("cus_1")
        assert store.customers.get("cus_1") is first
    own = store.customers.get("cus_1")
    assert own == first
    assert own is not first
    assert own is not None
    store.customers.put(own.model_copy(update={"email": "new@example.com"}))
    with store.shared_reads(), store.shared_reads():
        changed = store.customers.get("cus_1")
    assert changed is not None
    assert changed.email == "new@example.com"
    store.close()
