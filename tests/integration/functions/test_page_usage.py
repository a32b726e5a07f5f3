"""The page of usage: its columns, and the way to earlier periods."""

import re
from datetime import datetime, timedelta

import pytest

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
