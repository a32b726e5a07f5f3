"""A stack that sells somebody's own plans, in another currency."""

import contextlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from local.stack import LocalStack
from standin.testing import Control

README = Path(__file__).parents[3] / "standin" / "README.md"


@pytest.fixture(scope="module", params=["eur", "kwd"])
def stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """It sells the plans of standin/README.md: in euros, and in a currency without amounts."""
    [plans] = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.getfixturevalue("tmp_path_factory").mktemp("catalogue"))
        Path("plans.yaml").write_text(plans, encoding="utf-8")
        with LocalStack(
            catalogue=Path("plans.yaml"),
            currency=request.param,
            commet_options=["--tax-percent", "19"],
            parameters={"DeliveryIntervalSeconds": "1"},
            schedule_minute_seconds=None,
            fast=True,
        ) as running:
            yield running


@pytest.fixture
def backend(stack: LocalStack) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {stack.service_key}"}
    with httpx.Client(base_url=stack.api, timeout=40, trust_env=False, headers=headers) as client:
        yield client


def test_it_is_sold(stack: LocalStack, backend: httpx.Client) -> None:
    """A trial, a price by the year and a limit, as the catalogue says."""
    assert stack.selling == f"the plans of plans.yaml, in {stack._currency.upper()}"
    free, team = backend.get("/plans").raise_for_status().json()["plans"]
    assert (free["code"], free["features"][0]["overage"]["enabled"]) == ("free", False)
    currency = stack._currency
    fields = ("interval", "amount", "currency", "trial_days")
    assert [tuple(price[field] for field in fields) for price in team["prices"]] == [
        ("monthly", "19.00" if currency == "eur" else "1.900", currency, 14),
        ("yearly", "190.00" if currency == "eur" else "19.000", currency, 0),
    ]


def test_it_is_bought_and_used(stack: LocalStack, backend: httpx.Client) -> None:
    """A year at once, without a trial; usage beyond what is included has its price."""
    backend.put("/users/buys", json={"email": "buys@example.com"}).raise_for_status()
    wish = {"user_id": "buys", "plan_code": "team", "billing_interval": "yearly"}
    made = backend.post("/checkout", json=wish).raise_for_status().json()
    with contextlib.closing(Control(stack.commet.removesuffix("/api/v1"))) as control:
        control.pay(made["subscription"]["id"])
        control.settle()
    usage = {"user_id": "buys", "feature": "storage", "quantity": "110", "idempotency_key": "one"}
    assert backend.post("/usage", json=usage).raise_for_status().json()["accepted"] == 1
    board = backend.get("/users/buys/dashboard").raise_for_status().json()
    overage = board["usage"][0]["overage"]
    currency = stack._currency
    assert (overage["quantity"], overage["currency"]) == ("10", currency)
    assert overage["cost"] == ("0.90" if currency == "eur" else "0.900")
    shown = stack.invoke("ReconcileFunction", {"command": "show", "user": "buys"})
    [storage] = [row for row in shown["entitlements"] if row["feature"] == "storage"]
    assert storage["unit_price"] == ("0.09" if currency == "eur" else "0.090")
    assert storage["included"] == "100"
    assert shown["periods"][0]["usage"]["storage"] == {"total": "110", "claimed": "0"}


def test_a_trial_shows_its_end(stack: LocalStack, backend: httpx.Client) -> None:
    """As soon as the webhooks are there, and nobody has asked Commet."""
    backend.put("/users/tries", json={"email": "tries@example.com"}).raise_for_status()
    wish = {"user_id": "tries", "plan_code": "team"}
    made = backend.post("/checkout", json=wish).raise_for_status().json()
    with contextlib.closing(Control(stack.commet.removesuffix("/api/v1"))) as control:
        control.pay(made["subscription"]["id"])
        control.settle()
        end = control.now() + timedelta(days=14)
    shown = stack.invoke("ReconcileFunction", {"command": "show", "user": "tries"})
    [subscription] = shown["subscriptions"]
    assert subscription["trial_ends_at"][:10] == f"{end:%Y-%m-%d}"
    board = backend.get("/users/tries/dashboard").raise_for_status().json()
    assert board["subscription"]["status"] == "trialing"
    assert board["subscription"]["trial_ends_at"][:10] == f"{end:%Y-%m-%d}"
    assert board["subscription"]["current_period"]["end"][:10] == f"{end:%Y-%m-%d}"


def test_a_limit_holds(backend: httpx.Client) -> None:
    """The free plan has five, and no price beyond."""
    backend.put("/users/free", json={"email": "free@example.com"}).raise_for_status()
    wish = {"user_id": "free", "plan_code": "free"}
    backend.post("/checkout", json=wish).raise_for_status()
    usage = {"user_id": "free", "feature": "storage", "quantity": "6", "idempotency_key": "one"}
    answer = backend.post("/usage", json=usage)
    assert (answer.status_code, answer.json()["code"]) == (402, "limit_reached")


def test_an_edited_catalogue_is_sold_at_once(tmp_path: Path) -> None:
    """Not only when the plans that an earlier run has read are a minute old."""
    [plans] = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "plans.yaml"
    names = []
    for text in (plans, plans.replace("name: Team", "name: Crew")):
        file.write_text(text, encoding="utf-8")
        with LocalStack(
            data_dir=tmp_path / "data", catalogue=file, currency="eur",
            schedule_minute_seconds=None, fast=True,
        ) as running:  # fmt: skip
            answer = httpx.get(f"{running.api}/plans", timeout=40, trust_env=False)
            names.append([plan["name"] for plan in answer.raise_for_status().json()["plans"]])
    assert names == [["Free", "Team"], ["Free", "Crew"]]
