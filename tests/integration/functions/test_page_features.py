"""The numbers of several features at once: overage, included only, unlimited, in two currencies."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from billing.pages import formats
from standin.testing import Receiver, StandIn, standin
from tests.integration.functions.calling import Answer, call
from tests.integration.functions.test_api import environment  # noqa: F401 - fixture
from tests.integration.functions.test_debts import KEY, _shop, box  # noqa: F401 - fixtures
from tests.integration.functions.test_pages import Person

pytestmark = pytest.mark.handlers

# Code, name, unit, terms. Unit prices are in ten-thousandths of the currency.
FEATURES: tuple[tuple[str, str, str | None, dict[str, Any]], ...] = (
    ("calls", "Calls", "request", {"included": 1000, "price": 12345}),
    ("storage", "Storage", "GB", {"included": 50, "price": 1000}),
    ("mails", "Mails", None, {"included": 300, "price": None}),
    ("frames", "Frames", "image", {"included": None, "price": None}),
)
CODES = sorted(code for code, *_ in FEATURES)

quantities = st.one_of(
    st.decimals(min_value=Decimal("0.000001"), max_value=Decimal(3), places=6),
    st.integers(1, 900).map(Decimal),
    st.decimals(min_value=Decimal(1), max_value=Decimal(400), places=2),
)


def catalogue(folder: Path) -> Path:
    """Plans with all features: one that sells overage, and one without a price."""
    sold, free = [], []
    for code, _, _, terms in FEATURES:
        amount = {"unlimited": True} if terms["included"] is None else {}
        amount = amount or {"includedAmount": terms["included"]}
        price = terms["price"]
        overage = {"overage": {"enabled": True, "unitPrice": price}} if price else {}
        sold.append({"code": code} | amount | overage)
        free.append({"code": code} | amount)
    usage_pro = {
        "id": "pln_pro", "code": "usage_pro", "name": "Usage Pro", "features": sold,
        "prices": [{"id": "pp", "billingInterval": "monthly", "price": 2900, "isDefault": True}],
    }  # fmt: skip
    free_plan = {"id": "pln_free", "code": "free", "name": "Free", "isFree": True}
    content = {
        "features": [
            {"id": f"ftr_{code}", "code": code, "name": name, "type": "usage", "unitName": unit}
            for code, name, unit, _ in FEATURES
        ],
        "plans": [usage_pro, free_plan | {"features": free, "prices": []}],
    }
    file = folder / "catalogue.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


class Free(Person):
    """Somebody who pays for nothing."""

    def checkout(self, plan: str = "free") -> Answer:
        return super().checkout(plan)

    def pay(self) -> None:
        """There is nothing to pay."""


@pytest.fixture(params=["usd", "jpy"])
def remote(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StandIn]:
    """The yen has no decimals."""
    with standin(currency=request.param, catalogue=catalogue(tmp_path)) as running:
        yield running


@pytest.fixture(params=[Person, Free])
def person(
    request: pytest.FixtureRequest,
    remote: StandIn,
    box: Receiver,  # noqa: F811
) -> Person:
    found: Person = request.param(remote, box)
    return found


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    used=st.lists(st.tuples(st.sampled_from(CODES), quantities), min_size=1, max_size=8),
    hours=st.integers(1, 40),
)
# The costs of two features that are each rounded to nothing, and together are not: in dollars, yen.
@example(used=[("calls", Decimal("1000.0035")), ("storage", Decimal("50.04"))], hours=1)
@example(used=[("calls", Decimal("0.3465")), ("storage", Decimal("3.96"))], hours=1)
def test_all_features_agree_to_the_last_digit(
    person: Person, used: list[tuple[str, Decimal]], hours: int
) -> None:
    """Each example uses more in the same period: JSON, page, table, picture and files agree."""
    if hours * 3600 < _left(person):
        person._remote.control.advance(seconds=3600 * hours)
        person.sign_in()
        person.browser.cookies["__Host-session"] = person._token
    for code, quantity in used:
        event(f"{code}: {_report(person, code, quantity)}")
    board = person.board
    assert [each["feature"] for each in board["usage"]] == CODES
    span = _span(board)
    of_all = _by_day(person.browser.get(f"/app/usage.csv?{span}").html)
    for feature in board["usage"]:
        code = feature["feature"]
        daily = {day["date"]: Decimal(day["quantity"]) for day in feature["daily"]}
        assert sum(daily.values(), Decimal(0)) == Decimal(feature["used"])
        page = person.browser.get(f"/app?feature={code}").html
        assert _meter(page, code) == _expected_meter(feature)
        assert _table(page) == daily
        assert _picture(page) == daily
        if daily:
            said = f'<desc id="c-d">{formats.quantity(feature["used"])} '
            assert said in page
        assert _by_day(person.browser.get(f"/app/usage.csv?feature={code}&{span}").html) == (
            {code: daily} if daily else {}
        )
        assert of_all.get(code, {}) == daily
        lines = person.browser.get(f"/app/usage?feature={code}&{span}").html
        assert _lines(lines) == daily
    pages = [person.browser.get(f"/app{path}").html for path in ("", "/billing", "/billing/cancel")]
    _check_money(board, *pages)


def _check_money(board: dict[str, Any], page: str, billing: str, cancel: str) -> None:
    """The cost of each feature and their sum are those of the API, with the currency's decimals."""
    spending = board["spending"]
    if spending is None:
        assert "Nothing to pay for usage." in page
        assert "h-inv" not in page
        return
    currency = spending["currency"]
    costs = {
        name: Decimal(each["overage"]["cost"])
        for each in board["usage"]
        for name in [each["name"]]
        if each["overage"]["enabled"]
    }
    assert len(costs) == 2
    shown = dict(
        re.findall(r'<tr><th scope="row">([^<]+)<br>.*?</th><td class="end">([^<]+)</td>', page)
    )
    assert shown.pop("Usage Pro") == formats.money("2900" if currency == "jpy" else "29", currency)
    assert shown == {name: formats.money(cost, currency) for name, cost in costs.items()}
    # Each line of the invoice is rounded. The limit applies to the sum, which is rounded once.
    total = sum(costs.values(), Decimal(0))
    assert abs(total - Decimal(spending["spent"])) <= (1 if currency == "jpy" else Decimal("0.01"))
    so_far = formats.money(total, currency)
    told = re.findall(r"so far</dt><dd(?: class=\"big\")?>([^<]+)</dd>", page + billing)
    assert told == [so_far, so_far]
    assert (f"{so_far} so far, is on the last invoice" in cancel) == bool(total)
    assert ("." in so_far) == (currency == "usd")


def _left(person: Person) -> float:
    """The seconds until the period ends, less some, so that all examples are in one period."""
    period = person.board["usage"][0]["period"]
    end = datetime.fromisoformat(period["end"])
    return (end - person._remote.now()).total_seconds() - 3600


_keys = iter(range(1_000_000))


def _report(person: Person, code: str, quantity: Decimal) -> int:
    """Uses so much; what the API answers: 202, or 402 beyond what is included."""
    body = {
        "user_id": person.id, "feature": code, "quantity": format(quantity.normalize(), "f"),
        "idempotency_key": f"n-{next(_keys)}",
    }  # fmt: skip
    answer = call("POST", "/usage", body, token=KEY)
    assert answer.status in (202, 402), answer.text
    return answer.status


def _span(board: dict[str, Any]) -> str:
    start = date.fromisoformat(board["usage"][0]["period"]["start"][:10])
    return f"from={start}&to={start + timedelta(days=32)}"


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _expected_meter(feature: dict[str, Any]) -> list[str]:
    """What stands beside the feature's name."""
    overage, unit = feature["overage"], feature["unit"] or ""
    texts = [formats.quantity(feature["used"])]
    if feature["included"] is not None:
        texts.append(f"of {formats.quantity(feature['included'])}")
    if feature["unlimited"]:
        texts.append("as much as you like")
    elif Decimal(overage["quantity"]):
        cost = formats.money(overage["cost"], overage["currency"])
        texts.append(f"{formats.quantity(overage['quantity'])} {unit} beyond: {cost}")
    else:
        texts.append(f"{formats.quantity(feature['remaining'])} left")
    if overage["enabled"]:
        price = formats.unit_price(overage["unit_price"], overage["currency"])
        texts.append(f"then {price} per {unit}")
    elif not feature["unlimited"]:
        texts.append(f"stops at {formats.quantity(feature['included'])}")
    return texts


def _meter(page: str, code: str) -> list[str]:
    (block,) = re.findall(
        rf'<h3><a href="/app\?feature={code}">.*?(?=<div class="meter|<p class="row small after">)',
        page,
        re.DOTALL,
    )
    (used, rest) = re.findall(r"<strong>([^<]*)</strong>(.*?)</span>", block, re.DOTALL)[0]
    included = re.search(r"of [\d,.]+", rest)
    below = re.findall(r"<span>(.*?)</span>", block.partition("row small soft")[2], re.DOTALL)
    texts = [" ".join(unescape(re.sub("<[^>]+>", "", each)).split(" ")) for each in below]
    return [used, *([included[0]] if included else []), *texts]


def _table(page: str) -> dict[str, Decimal]:
    """The days of the table below the picture, whose totals must add up."""
    table = page.partition("<details>")[2].partition("</details>")[0]
    pattern = r'datetime="([\d-]+)".*?<td class="end">([\d,.]+)</td><td class="end">([\d,.]+)</td>'
    found, total = {}, Decimal(0)
    for day, quantity, so_far in re.findall(pattern, table):
        found[day] = _number(quantity)
        total += found[day]
        assert _number(so_far) == total
    return found


def _picture(page: str) -> dict[str, Decimal]:
    """What the picture says of each day with usage, when somebody points at it."""
    picture = page.partition('<svg class="chart"')[2].partition('<p class="key">')[0]
    days = dict(re.findall(r'<time datetime="([\d-]+)">([^<]+)</time>', page))
    named = {unescape(name): day for day, name in days.items()}
    told = re.findall(r"<title>([^<:]+): ([\d,.]+)[^<]*</title>", picture)
    return {named[unescape(name)]: _number(each) for name, each in told if _number(each)}


def _lines(page: str) -> dict[str, Decimal]:
    """The days of the page of usage."""
    rows = re.findall(
        r'<th scope="row"><time datetime="([\d-]+)">.*?<td class="end">([\d,.]+) ', page
    )
    return {day: _number(quantity) for day, quantity in rows}


def _by_day(text: str) -> dict[str, dict[str, Decimal]]:
    """The quantities of a file, by feature and day."""
    found: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for row in csv.DictReader(io.StringIO(text)):
        assert row["day"] not in found[row["feature"]]
        found[row["feature"]][row["day"]] = Decimal(row["quantity"])
    return dict(found)
