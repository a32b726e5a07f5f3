"""What `show` finds, as tables: all of it, and nothing that is empty."""

from typing import Any

from billing.pages.inspected import Table, tables

EMPTY: dict[str, Any] = {
    "user": {"id": "usr_1", "email": None},
    "subscriptions": [], "entitlements": [], "periods": [], "deliveries": [], "drift": [],
    "payments": [], "debts": [], "debt_links": [], "webhooks": [], "outgoing_events": [],
    "audit": [], "contact": None, "checkout": None,
}  # fmt: skip


def table(title: str, **parts: Any) -> Table:
    (found,) = [each for each in tables(EMPTY | parts) if each.title == title]
    return found


def test_every_part_has_a_table() -> None:
    assert len(tables(EMPTY)) == len(EMPTY)
    assert table("debt links") == Table("debt links", [], [])
    assert table("contact") == Table("contact", [], [])


def test_a_column_without_any_value_is_left_out() -> None:
    rows = [{"id": "a", "reason": None, "note": None}, {"id": "b", "reason": "x", "note": None}]
    assert table("drift", drift=rows) == Table("drift", ["id", "reason"], [["a", ""], ["b", "x"]])


def test_one_row_is_a_table_too() -> None:
    assert table("user") == Table("user", ["id"], [["usr_1"]])


def test_values_are_texts() -> None:
    row = {
        "allowed": False, "own_account": True, "found_at": "2026-11-20T14:05:06.123+00:00",
        "usage": {"calls": {"total": "3", "claimed": "2"}}, "same_address": ["usr_2", "usr_3"],
        "debt": 7,
    }  # fmt: skip
    assert table("drift", drift=[row]).rows == [
        ["no", "yes", "2026-11-20 14:05:06", "calls: total: 3, claimed: 2", "usr_2, usr_3", "7"]
    ]
    assert table("drift", drift=[row]).columns[1:3] == ["own account", "found at"]
