"""The page of usage: its columns, and the way to earlier periods."""

import json
import re
from datetime import datetime, timedelta

import pytest

from billing.accounts import export
from billing.pages import usage
from standin.testing import StandIn
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import environment  # noqa: F401 - fixture
from tests.integration.functions.test_debts import KEY, _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import Person, person  # noqa: F401 - fixture
from tests.integration.functions.visiting import Shown

pytestmark = pytest.mark.handlers


def report(person: Person, quantity: str, key: str, region: str) -> None:  # noqa: F811
    body = {
        "user_id": person.id, "feature": "storage", "quantity": quantity, "idempotency_key": key,
        "properties": {"region": region},
    }  # fmt: skip
    assert call("POST", "/usage", body, token=KEY).status == 202


def table(shown: Shown) -> list[list[str]]:
    """The cells of the page's table, without the days."""
    rows = re.findall(r"<tr>(.*?)</tr>", shown.html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [row[1:] for row in cells if row]


class TestByProperty:
    def test_the_sums_of_the_day_stand_beside_those_of_the_values(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        report(person, "7", "k1", "eu")
        report(person, "2.5", "k2", "us")
        remote.control.advance(days=1)
        report(person, "4", "k3", "us")
        correction = {
            "user_id": person.id, "feature": "storage", "quantity": "-1", "reason": "a test",
            "idempotency_key": "k4", "corrects": "k3",
        }  # fmt: skip
        corrected = call("POST", "/usage/corrections", correction, token=KEY)
        assert corrected.status in (200, 201, 202), corrected.text
        head, first, second = table(person.browser.get("/app/usage?feature=storage&by=region"))
        assert head[:3] == ["Quantity", "Corrected", "Total so far"]
        assert head[3:5] == ["eu", "us"]
        assert first == ["9.5", "", "9.5", "7", "2.5", *[""] * (len(head) - 5)]
        assert second[:3] == ["3", "\N{MINUS SIGN}1", "12.5"]


class TestEarlierPeriods:
    def test_a_link_leads_to_the_period_before(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
    ) -> None:
        report(person, "7", "k1", "eu")
        period = person.board["usage"][0]["period"]
        start = period["start"][:10]
        last = datetime.fromisoformat(period["end"]) - timedelta(microseconds=1)
        remote.control.advance(days=31)
        person.hear()
        person.sign_in()
        person.browser.cookies["__Host-session"] = person._token
        report(person, "3", "k2", "eu")
        shown = person.browser.get("/app/usage?feature=storage")
        assert "7 GB" not in shown.text
        (link,) = [each for each in shown.links if f"from={start}" in each and "usage?" in each]
        assert f"to={last.date()}" in link
        before = person.browser.get(link)
        assert ("7 GB" in before.text, "3 GB" in before.text) == (True, False)
        assert "Period before" not in before.text
        assert "Period before" in shown.text


class TestLongFiles:
    def test_the_rest_of_the_csv_is_a_link(
        self,
        person: Person,  # noqa: F811
        remote: StandIn,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for day in range(5):
            report(person, str(day + 1), f"k{day}", "eu")
            remote.control.advance(days=1)
        asked = "/app/usage?feature=storage"
        assert "/app/usage/next?" not in person.browser.get(asked).html
        monkeypatch.setattr(usage, "MOST_ROWS", 1)
        monkeypatch.setattr(usage, "_CSV_ROWS", 2)
        shown = person.browser.get(asked)
        (link,) = [each for each in shown.links if "/usage/next?" in each]
        (first,) = [each for each in shown.links if "/usage.csv?" in each]
        files = [person.browser.get(first).html]
        while True:
            shown = person.browser.get(link)
            found = [each for each in shown.links if "/usage.csv?" in each]
            if not found:
                break
            files.append(person.browser.get(found[0]).html)
            (link,) = [each for each in shown.links if "/usage/next?" in each]
        assert "There is no further part." in shown.text
        rows = [line.split(",") for file in files for line in file.splitlines()[1:]]
        assert [row[3] for row in rows] == ["1", "2", "3", "4", "5"]
        assert len(files) == 3

    def test_the_rest_of_the_export_is_a_link(
        self,
        person: Person,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        person.use(7)
        whole = json.loads(person.browser.get("/app/account/export").html)
        assert whole["next_cursor"] is None
        monkeypatch.setattr(export, "MAX_BYTES", 2_000)
        assert "/app/account/export/next" in person.browser.get("/app/account").links
        parts = [json.loads(person.browser.get("/app/account/export").html)]
        link = "/app/account/export/next"
        while True:
            shown = person.browser.get(link)
            found = [each for each in shown.links if "/export?" in each]
            if not found:
                break
            parts.append(json.loads(person.browser.get(found[0]).html))
            (link,) = [each for each in shown.links if "/export/next?" in each]
        assert "There is no further part." in shown.text
        assert len(parts) > 2
        rows = [row for part in parts for row in part["sections"].get("ledger", [])]
        assert rows == whole["sections"]["ledger"] != []
        assert [each["next_cursor"] is None for each in parts].index(True) == len(parts) - 1
