"""Pages of the ledger as they are sent: nothing runs in a spreadsheet, and they fit an answer."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.http import usage_export
from billing.usage.ledger import Entry, Page, _Cursor

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
START = datetime(2026, 9, 1, tzinfo=UTC)


def entry(**changes: object) -> Entry:
    fields = {
        "user_id": "usr_ana", "idempotency_key": "k", "kind": "event", "feature": "storage",
        "quantity": Decimal("-2.500000"), "occurred_at": NOW, "booked_at": NOW, "period_id": "7",
        "period_start": START, "period_end": START + timedelta(days=30),
        "subscription_id": "sub_1", "plan_id": "pln_1", "late": False, "reason": None,
        "author": None, "needs_credit": False, "properties": {},
    } | changes  # fmt: skip
    return Entry(**fields)  # type: ignore[arg-type]


def page(*entries: Entry) -> Page:
    return Page(entries, None, _Cursor(NOW))


def csv_row(**changes: object) -> dict[str, str]:
    text, _ = usage_export.as_csv(page(entry(**changes)))
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    return row


class TestCsv:
    def test_reads_back(self) -> None:
        """Every field under its name, numbers plain, times in UTC."""
        row = csv_row(reason='"so", he\nsaid', properties={"bucket": "ü"})
        assert row["quantity"] == "-2.5"
        assert row["booked_at"] == "2026-09-10T12:00:00.000000Z"
        assert row["reason"] == '"so", he\nsaid'
        assert row["properties"] == '{"bucket": "ü"}'
        assert (row["late"], row["author"]) == ("false", "")
        assert (row["period_id"], row["subscription_id"], row["plan_id"]) == ("7", "sub_1", "pln_1")

    @pytest.mark.parametrize(
        "sign", [*"=+-@\t\r\n\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"]
    )
    @pytest.mark.parametrize("led", ["", " ", "\u3000", "\u200b", '"', "'", "\u201c", ' " '])
    def test_no_text_is_a_formula(self, led: str, sign: str) -> None:
        """What a spreadsheet would run is shown as text."""
        row = csv_row(idempotency_key=f"{led}{sign}cmd", reason=f"{led}{sign}1")
        assert row["idempotency_key"] == f"'{led}{sign}cmd"
        assert row["reason"] == f"'{led}{sign}1"

    @pytest.mark.parametrize("sign", [*"=+-@\uff1d\uff0b\uff0d\uff20"])
    @pytest.mark.parametrize("semicolon", [";", "\uff1b"])
    def test_no_part_of_a_text_is_a_formula(self, semicolon: str, sign: str) -> None:
        """In many countries a semicolon begins the next cell."""
        assert csv_row(reason=f"{semicolon}{sign}cmd")["reason"] == f"'{semicolon}'{sign}cmd"
        assert csv_row(reason=f'a{semicolon} "{sign}b')["reason"] == f"a{semicolon}' \"{sign}b"

    def test_properties_stay_json(self) -> None:
        """They hold what was reported, and no cell in them begins with a formula."""
        reported = {"a": ";=cmd|' /C calc'!A0", 'b;"': ';"\uff1d1', ";\\+c": "= 1"}
        text = csv_row(properties=reported)["properties"]
        assert json.loads(text) == reported
        assert [
            cell for cell in text.split(";") if cell.strip(" \"\\'")[:1] in {*"=+-@\uff1d"}
        ] == []

    @pytest.mark.parametrize(
        "text", ["a=b", "2026-09-10", "a;b", "a; b-c", "1", "user@example.com"]
    )
    def test_other_text_stays(self, text: str) -> None:
        assert csv_row(reason=text)["reason"] == text

    def test_nothing_is_a_header(self) -> None:
        """An empty page still says what would be in it."""
        text, _ = usage_export.as_csv(page())
        assert text.startswith("booked_at,occurred_at,user_id,")


class TestSize:
    @pytest.mark.parametrize("write", [usage_export.as_json, usage_export.as_csv])
    def test_a_page_ends_before_the_limit(
        self, write: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And goes on after the last entry in it; one that fits is whole."""
        monkeypatch.setattr(usage_export, "MAX_BYTES", 20_000)
        entries = [entry(idempotency_key=f"k{n}", properties={"a": '"🙂' * 100}) for n in range(30)]
        text, sent = write(page(*entries))  # type: ignore[operator]
        assert 0 < len(sent.entries) < 30
        assert len(json.dumps(text)) < 20_500
        cursor = _Cursor.read(str(sent.next_cursor))
        assert cursor.key == sent.entries[-1].idempotency_key
        _, whole = write(page(*entries[:3]))  # type: ignore[operator]
        assert whole.next_cursor is None
