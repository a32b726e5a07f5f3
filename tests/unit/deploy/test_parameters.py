"""What a deployment is told, and by whom."""

from pathlib import Path

import pytest

from deploy.build_id import ROOT
from deploy.errors import DeployError
from deploy.parameters import (
    Parameter,
    as_words,
    changes,
    choose_values,
    environment,
    given,
    of_template,
)


def parameter(name: str, default: str | None = None, *, pattern: str = "") -> Parameter:
    return Parameter(name, "", default, pattern, ())


KNOWN = {p.name: p for p in (parameter("Host"), parameter("Mode", "live"), parameter("Url"))}


class TestOfTemplate:
    def test_the_templates_own(self) -> None:
        """All but the build id, with what CloudFormation would hold against a value."""
        known = of_template(ROOT / "template.yaml")
        assert "BuildId" not in known
        assert known["DatabaseHost"].default is None
        assert known["DatabasePort"].default == "5432"
        with pytest.raises(DeployError, match="live, sandbox"):
            known["CommetMode"].check("test")
        with pytest.raises(DeployError, match="AppUrl must match"):
            known["AppUrl"].check("app.example")

    @pytest.mark.parametrize(
        ("name", "value", "told"),
        [
            ("DatabasePort", "five", "must be a number"),
            ("DatabasePort", "", "must be a number"),
            ("LedgerDays", "61", "at least 62"),
            ("DeliveryWorkers", "21", "at most 20"),
            ("WebhookSecretRotation", "x" * 101, "at most 100 characters"),
        ],
    )
    def test_numbers_and_lengths(self, name: str, value: str, told: str) -> None:
        """CloudFormation would refuse them after minutes of building."""
        with pytest.raises(DeployError, match=f"{name} .*{told}"):
            of_template(ROOT / "template.yaml")[name].check(value)

    def test_every_default_will_do(self) -> None:
        for each in of_template(ROOT / "template.yaml").values():
            if each.default is not None:
                each.check(each.default)


class TestEnvironment:
    @pytest.fixture
    def samconfig(self, tmp_path: Path) -> Path:
        path = tmp_path / "samconfig.toml"
        path.write_text(
            "[default.build.parameters]\ncached = true\n"
            '[one.deploy.parameters]\nstack_name = "s"\nregion = "eu-central-1"\n'
            'parameter_overrides = ["A=1", "B=x=y"]\n'
            '[two.deploy.parameters]\nstack_name = "t"\nparameter_overrides = "A=1 B=\\"x y\\""\n'
        )
        return path

    def test_both_ways_to_write_overrides(self, samconfig: Path) -> None:
        one, two = environment(samconfig, "one"), environment(samconfig, "two")
        assert (one.stack, one.region, one.parameters) == (
            "s",
            "eu-central-1",
            {"A": "1", "B": "x=y"},
        )
        assert (two.region, two.parameters) == (None, {"A": "1", "B": "x y"})

    @pytest.mark.parametrize("name", ["three", "default"])
    def test_one_that_cannot_be_deployed(self, samconfig: Path, name: str) -> None:
        """The message names those that can."""
        with pytest.raises(DeployError, match="one, two"):
            environment(samconfig, name)

    def test_ours_can_be_deployed(self) -> None:
        assert environment(ROOT / "samconfig.toml", "production").stack == "usage-billing"


class TestGiven:
    @pytest.mark.parametrize("word", ["Mode", "=live", "Mode live", "-x=1", ""])
    def test_anything_else(self, word: str) -> None:
        with pytest.raises(DeployError, match="Name=value"):
            given([word])


class TestChooseValues:
    def test_who_comes_first(self) -> None:
        """What is said now, then what was deployed, then what is asked; the rest is the default."""
        values = choose_values(
            KNOWN, {"Host": "new"}, {"Host": "old", "Mode": "sandbox"}, lambda p: f"asked {p.name}"
        )
        assert values == {"Host": "new", "Mode": "sandbox", "Url": "asked Url"}

    def test_nobody_to_ask(self) -> None:
        """Everything that is missing is said at once."""
        with pytest.raises(DeployError, match="Host, Url"):
            choose_values(KNOWN, {}, {}, None)

    def test_a_name_that_is_wrong(self) -> None:
        """It would be a change that does not happen."""
        with pytest.raises(DeployError, match="no parameter Hots"):
            choose_values(KNOWN, {"Hots": "x"}, {}, None)
        with pytest.raises(DeployError, match="is computed"):
            choose_values(KNOWN, {"BuildId": "0"}, {}, None)

    def test_a_value_that_is_wrong(self) -> None:
        known = {"Url": parameter("Url", pattern="https?://.+")}
        with pytest.raises(DeployError, match="Url must match"):
            choose_values(known, {"Url": "app.example"}, {}, None)


def test_words_are_what_sam_reads_back() -> None:
    """With spaces, commas and quotes in them."""
    from samcli.cli.types import CfnParameterOverridesType

    values = {"A": "a b", "B": "x,y", "C": 'say "hi"', "D": "", "E": "back\\slash", "F": "k=v"}
    read = CfnParameterOverridesType().convert(tuple(as_words(values)), None, None)
    assert read == values


def test_changes() -> None:
    """New ones and different ones."""
    assert changes({"A": "1", "B": "2"}, {"A": "1", "B": "3", "C": "4"}) == {
        "B": ("2", "3"),
        "C": (None, "4"),
    }
