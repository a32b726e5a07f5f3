"""What the local stack says to the template."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from billing.config import from_env
from local.gateway.template import load_template
from local.stack import TEMPLATE, Database, LocalStack
from local.standin import StandIn
from tests.unit.cloudformation import load

DATABASE = Database(
    "127.0.0.1",
    5555,
    "billing",
    "disable",
    {"username": "o"},
    {"username": "a"},
    {"username": "s"},
)
AMOUNTS = ("OverageCeiling", "DeliverAtOnceFrom", "DebtFloor")
PARAMETERS = load(TEMPLATE)["Parameters"]


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, str]:
    """Of a stack that is not started."""
    return LocalStack(data_dir=tmp_path)._template_parameters(3999, DATABASE)


def test_each_is_a_parameter_of_the_template(parameters: dict[str, str]) -> None:
    """SAM CLI leaves others out without a word."""
    assert parameters.keys() <= PARAMETERS.keys()


def test_whatever_has_no_default_is_given(parameters: dict[str, str]) -> None:
    assert {name for name, p in PARAMETERS.items() if "Default" not in p} <= parameters.keys()


def test_the_functions_are_handed_them(parameters: dict[str, str]) -> None:
    """In the sandbox, with a pace at which a person can watch a delivery."""
    handed = load_template(TEMPLATE, parameters).functions["DeliverUsageFunction"].environment
    wanted = {
        "APP_URL": "http://127.0.0.1:3999",
        "ALLOWED_ORIGINS": "http://127.0.0.1:3999,http://localhost:3999",
        "DATABASE_HOST": "127.0.0.1",
        "DATABASE_PORT": "5555",
        "DATABASE_NAME": "billing",
        "DATABASE_SSLMODE": "disable",
        "DATABASE_SECRET_ARN": "local/database",
        "COMMET_SECRET_ARN": "local/commet",
        "COMMET_MODE": "sandbox",
        "COMMET_CALLS_PER_SECOND": "200",
        "DELIVERY_INTERVAL_SECONDS": "2",
    }
    assert {name: handed[name] for name in wanted} == wanted


def test_forms_of_pages_lead_to_the_stand_in(tmp_path: Path) -> None:
    """Where checkout and portal are. With Commet's sandbox they are Commet's own."""
    stack = LocalStack(data_dir=tmp_path)
    stack._standin = cast("StandIn", SimpleNamespace(public_url="http://127.0.0.1:3001/"))
    given = stack._template_parameters(3999, DATABASE)
    handed = load_template(TEMPLATE, given).functions["PagesFunction"].environment
    assert handed["HOSTED_ORIGINS"] == "http://127.0.0.1:3001"
    assert "HostedOrigins" not in LocalStack(data_dir=tmp_path)._template_parameters(3999, DATABASE)


def test_whoever_starts_it_may_say_otherwise(tmp_path: Path) -> None:
    stack = LocalStack(data_dir=tmp_path, parameters={"PastDueHasAccess": "false"})
    given = stack._template_parameters(3999, DATABASE)
    handed = load_template(TEMPLATE, given).functions["TrackUsageFunction"].environment
    assert handed["PAST_DUE_HAS_ACCESS"] == "false"


def test_the_stand_in_takes_any_port_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that was free a moment ago may be taken by now."""
    asked = []

    def started(port: int, *_: object) -> SimpleNamespace:
        asked.append(port)
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("local.stack.StandIn", started)
    stack = LocalStack(data_dir=tmp_path)
    stack.data_dir = tmp_path
    stack._start_standin()
    stack.stop()
    assert asked == [0]


class TestCurrency:
    def given(self, place: Path, currency: str, **parameters: str) -> dict[str, str]:
        stack = LocalStack(data_dir=place, currency=currency, parameters=parameters)
        return stack._template_parameters(3999, DATABASE)

    @pytest.mark.parametrize("currency", ["usd", "eur", "gbp"])
    def test_the_template_has_amounts_for_three(self, tmp_path: Path, currency: str) -> None:
        given = self.given(tmp_path, currency)
        assert given["BillingCurrency"] == currency
        assert given.keys().isdisjoint(AMOUNTS)
        for name in AMOUNTS:
            assert f"{currency}=" in PARAMETERS[name]["Default"]

    def test_any_other_has_no_limit_here(self, tmp_path: Path) -> None:
        """What 500 are worth differs from currency to currency, so no number is made up."""
        given = self.given(tmp_path, "jpy", DebtFloor="jpy=700")
        assert {name: given[name] for name in AMOUNTS} == {
            "OverageCeiling": "jpy=none",
            "DeliverAtOnceFrom": "jpy=none",
            "DebtFloor": "jpy=700",
        }
        handed = load_template(TEMPLATE, given).functions["TrackUsageFunction"].environment
        assert from_env(handed).overage_ceiling["jpy"] is None
