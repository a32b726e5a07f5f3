"""`python -m local`: what its flags and environment mean."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from local.__main__ import build_parser, main
from local.ports import Port
from local.stack import LocalStack

ROOT = Path(__file__).parents[3]


class TestFlags:
    def test_without_any_the_usual_ports_are_a_wish(self) -> None:
        """They may move when taken."""
        asked = build_parser({}).parse_args([])
        assert asked.port == Port(3000, explicit=False)
        assert asked.commet_port == Port(3001, explicit=False)
        assert asked.data_dir == Path(".local")

    @pytest.mark.parametrize(
        ("flag", "name", "value"),
        [
            (["--port", "4000"], "port", Port(4000)),
            (["--commet-port", "4001"], "commet_port", Port(4001)),
            (["--data-dir", "here"], "data_dir", Path("here")),
            (["--catalogue", "plans.json"], "catalogue", Path("plans.json")),
            (["--currency", "EUR"], "currency", "eur"),
            (["--parameter", "DebtFloor=a=b"], "parameters", [("DebtFloor", "a=b")]),
            (["--commet-option=--tax-percent=19"], "commet_options", ["--tax-percent=19"]),
            (["--database-url", "postgresql://h/d"], "database_url", "postgresql://h/d"),
            (["--commet-api-key", "ck_sandbox_1"], "commet_api_key", "ck_sandbox_1"),
            (["--webhook-secret", "whsec_1"], "webhook_secret", "whsec_1"),
            (["--template", "t.yaml"], "template", Path("t.yaml")),
            (["--schedule-every", "0.5"], "schedule_minute_seconds", 0.5),
            (["--fast"], "fast", True),
            (["--built"], "built", True),
            (["--python", "python3.12"], "python", "python3.12"),
            (["--verbose"], "verbose", True),
        ],
        ids=lambda each: each[0] if isinstance(each, list) else "",
    )
    def test_a_flag_counts_before_and_after_the_command(
        self, flag: list[str], name: str, value: object
    ) -> None:
        """And wins over the environment."""
        environment = {
            "PORT": "5000", "COMMET_PORT": "5001", "DATA_DIR": "there", "CATALOGUE": "others.json",
        }  # fmt: skip
        assert getattr(build_parser(environment).parse_args([]), name) != value
        for arguments in (flag, [*flag, "run"], ["run", *flag]):
            assert getattr(build_parser(environment).parse_args(arguments), name) == value

    def test_every_option_of_a_stack_has_a_flag(self) -> None:
        """With its name. The log is `--verbose`, and steps are always said."""
        options = set(inspect.signature(LocalStack).parameters)
        flags = {action.dest for action in build_parser({})._actions}
        assert options - {"log", "say"} - flags == set()
        assert "verbose" in flags

    def test_a_flag_of_a_list_replaces_its_variable(self) -> None:
        """As every flag does. In the variables, words are as in a shell."""
        environment = {
            "PARAMETERS": "ProductName='My product' RefuseDebtors=false",
            "COMMET_OPTIONS": "--tax-percent 19",
            "CURRENCY": "EUR",
            "VERBOSE": "1",
        }
        asked = build_parser(environment).parse_args(["run"])
        assert asked.parameters == [("ProductName", "My product"), ("RefuseDebtors", "false")]
        assert asked.commet_options == ["--tax-percent", "19"]
        assert (asked.currency, asked.verbose) == ("eur", True)
        flag = ["run", "--parameter", "DebtFloor=eur=9", "--parameter", "SnapStart=None"]
        asked = build_parser(environment).parse_args(flag)
        assert asked.parameters == [("DebtFloor", "eur=9"), ("SnapStart", "None")]

    @pytest.mark.parametrize(
        "flag",
        [["--currency", "euro"], ["--parameter", "DebtFloor"], ["--parameter", "=9"]],
    )
    def test_what_cannot_be_meant(
        self, flag: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            build_parser({}).parse_args(flag)
        assert f"argument {flag[0]}: {flag[1]!r} is not" in capsys.readouterr().err

    def test_the_environment_is_an_explicit_choice_too(self) -> None:
        """So a taken port is an error, not a surprise."""
        environment = {"PORT": "5000", "COMMET_PORT": "5001", "DATA_DIR": "/elsewhere"}
        asked = build_parser(environment).parse_args(["run"])
        assert (asked.port, asked.commet_port) == (Port(5000), Port(5001))
        assert asked.data_dir == Path("/elsewhere")

    def test_a_catalogue_of_yours(self) -> None:
        """By flag, which wins, or by environment."""
        environment = {"CATALOGUE": "plans.json"}
        assert build_parser({}).parse_args(["run"]).catalogue is None
        assert build_parser(environment).parse_args(["run"]).catalogue == Path("plans.json")
        flag = ["run", "--catalogue", "others.json"]
        assert build_parser(environment).parse_args(flag).catalogue == Path("others.json")

    def test_a_catalogue_beside_commet_itself(self) -> None:
        """Refused: nobody would be sold what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "local", "run", "--catalogue", "plans.json"],
            cwd=ROOT, env=os.environ | {"COMMET_API_KEY": "ck_sandbox_not_used_here"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == (
            "Stopped: A catalogue is for the stand-in."
            " With COMMET_API_KEY the plans are Commet's.\n"
        )

    @pytest.mark.parametrize("port", ["x", "-1", "65536"])
    def test_nonsense_is_refused(
        self, port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Wherever it stands."""
        monkeypatch.setenv("PORT", port)
        assert main(["run"]) == 2
        assert "is not a port" in capsys.readouterr().err
