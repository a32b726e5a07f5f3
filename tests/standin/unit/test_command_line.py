"""Flags of `python -m standin`."""

import re
from dataclasses import fields
from decimal import Decimal
from pathlib import Path

import pytest

from standin.__main__ import build_parser, settings_from
from standin.settings import Settings

README = Path(__file__).parents[3] / "standin" / "README.md"

TURNED = Settings(
    data="commet.sqlite",
    api_key="rk_sandbox_1",
    public_url="https://pay.example.com",
    allow_hosts=("commet", "192.168.7.7"),
    catalogue=Path("plans.json"),
    currency="eur",
    tax_percent=Decimal("7.7"),
    speed=2.5,
    retry_scale=0.5,
    webhook_timeout=3.5,
    usage_lag=4.5,
    rate_limit=5,
    shuffle_seed=6,
    repeated_event_id="replay",
    usage_period="timestamp",
    repeated_email="link",
    access_without_subscription="feature_not_in_plan",
    pending_access="denied",
    declined_checkout="event",
    payment_link_days=1.5,
    active_lookup="live",
    state_snapshot="emission",
)


def as_flags(settings: Settings) -> list[str]:
    flags = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        name = "--allow-host" if field.name == "allow_hosts" else f"--{field.name}"
        for each in value if isinstance(value, tuple) else [value]:
            flags += [name.replace("_", "-"), str(each)]
    return flags


def test_every_setting_has_a_flag_that_turns_it() -> None:
    """All of them at once, each to something that is not its default."""
    unturned = [f.name for f in fields(Settings) if getattr(TURNED, f.name) == f.default]
    assert unturned == []
    assert settings_from(build_parser().parse_args(as_flags(TURNED))) == TURNED


def test_without_flags_the_settings_are_the_defaults() -> None:
    assert settings_from(build_parser().parse_args([])) == Settings()


def test_a_currency_may_be_in_capitals() -> None:
    assert settings_from(build_parser().parse_args(["--currency", "EUR"])).currency == "eur"


def test_the_readme_lists_every_flag() -> None:
    """And none that there is not."""
    table = README.read_text(encoding="utf-8").split("## Flags")[1].split("\n## ")[0]
    listed = {
        name for row in table.splitlines() if row.startswith("| `--")
        for name in re.findall(r"--[a-z-]+", row.split("|")[1])
    }  # fmt: skip
    known = {name for name in build_parser()._option_string_actions if name.startswith("--")}
    assert listed == known - {"--help"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tax-percent", "a tenth"],
        ["--tax-percent", "NaN"],
        ["--tax-percent", "-1"],
        ["--tax-percent", "101"],
        ["--payment-link-days", "-1"],
        ["--payment-link-days", "inf"],
        ["--currency", "euro"],
    ],
)
def test_an_amount_that_cannot_be_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the name of the flag, before anything starts."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(arguments)
    assert f"argument {arguments[0]}: must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    "host", ["http://commet", "commet:3001", "commet/", "", "*", "[::1", "a b"]
)
def test_a_host_to_allow_is_a_bare_name(host: str) -> None:
    """A host that no request can name would be closed without a word."""
    with pytest.raises(ValueError, match="without a port"):
        settings_from(build_parser().parse_args(["--allow-host", host]))


@pytest.mark.parametrize(
    "url",
    ["commet", "pay.example.com:80", "ftp://pay.example.com", "http://", "http://a b", "https://x?y",
     "http://user@pay.example.com", "http://pay.example.com:port"],
)  # fmt: skip
def test_a_public_url_is_one_that_a_browser_opens(url: str) -> None:
    """Every checkout address would begin with it."""
    with pytest.raises(ValueError, match="is not an address such as"):
        settings_from(build_parser().parse_args(["--public-url", url]))


def test_the_help_says_what_each_flag_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of the command that was typed."""
    with pytest.raises(SystemExit) as done:
        build_parser().parse_args(["--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m standin ")
    silent = [a.dest for a in build_parser()._actions if not a.help]
    assert silent == []
