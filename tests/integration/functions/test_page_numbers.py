"""One truth in four forms: the dashboard's JSON, the page, its table of days, and the CSV agree."""

import csv
import io
import re
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.pages import formats
from tests.integration.functions.calling import call
from tests.integration.functions.test_api import environment  # noqa: F401 - fixture
from tests.integration.functions.test_debts import KEY, _shop, box, remote  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import Person, person  # noqa: F401 - fixture

pytestmark = pytest.mark.handlers

quantities = st.decimals(
    min_value=Decimal("0.000001"), max_value=Decimal(200_000), places=6, allow_nan=False
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    used=st.lists(st.tuples(quantities, st.sampled_from(["eu", "us", ""])), max_size=4),
    hours=st.integers(1, 12),
)
def test_all_forms_agree_to_the_last_digit(
    person: Person,  # noqa: F811
    used: list[tuple[Decimal, str]],
    hours: int,
) -> None:
    """Each example uses more, in the same period, so that the sums grow."""
    person._remote.control.advance(seconds=3600 * hours)
    for quantity, region in used:
        _report(person, quantity, region)
    board = person.board
    (feature,) = (each for each in board["usage"] if each["feature"] == "storage")
    page = person.browser.get("/app")
    assert _told(page.text, rf"([\d,.]+) of {formats.quantity(feature['included'])}") == Decimal(
        feature["used"]
    )
    if feature["overage"]["quantity"] != "0":
        cost = formats.money(feature["overage"]["cost"], feature["overage"]["currency"])
        assert f"beyond: {cost}" in page.text
        assert _told(page.text, r"([\d,.]+) GB beyond:") == Decimal(feature["overage"]["quantity"])
    days = _days(page.html)
    assert [quantity for _, quantity, _ in days] == [
        Decimal(day["quantity"]) for day in feature["daily"]
    ]
    if days:
        assert days[-1][2] == Decimal(feature["used"])
    start = date.fromisoformat(feature["period"]["start"][:10])
    span = f"from={start}&to={start + timedelta(days=31)}"
    file = person.browser.get(f"/app/usage.csv?feature=storage&{span}")
    rows = list(csv.DictReader(io.StringIO(file.html)))
    assert sum((Decimal(row["quantity"]) for row in rows), Decimal(0)) == Decimal(feature["used"])
    by_region = person.browser.get(f"/app/usage.csv?feature=storage&by=region&{span}")
    rows = list(csv.DictReader(io.StringIO(by_region.html)))
    assert sum((Decimal(row["quantity"]) for row in rows), Decimal(0)) == Decimal(feature["used"])


_keys = iter(range(1_000_000))


def _report(person: Person, quantity: Decimal, region: str) -> None:  # noqa: F811
    body: dict[str, Any] = {
        "user_id": person.id,
        "feature": "storage",
        "quantity": format(quantity.normalize(), "f"),
        "idempotency_key": f"n-{next(_keys)}",
    }
    if region:
        body["properties"] = {"region": region}
    answer = call("POST", "/usage", body, token=KEY)
    assert answer.status == 202, answer.text


def _told(text: str, pattern: str) -> Decimal:
    found = re.search(pattern, text)
    assert found, text
    return Decimal(found[1].replace(",", ""))


def _days(html: str) -> list[tuple[str, Decimal, Decimal]]:
    """The rows of the table under the chart."""
    table = html.partition("<details>")[2].partition("</details>")[0]
    rows = re.findall(
        r'datetime="([\d-]+)".*?<td class="end">([\d,.]+)</td><td class="end">([\d,.]+)</td>', table
    )
    return [
        (day, Decimal(one.replace(",", "")), Decimal(two.replace(",", "")))
        for day, one, two in rows
    ]
