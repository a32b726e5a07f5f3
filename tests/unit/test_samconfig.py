"""The environments of samconfig.toml fit the template."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from billing.config import from_env
from local.gateway.template import load_template

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environments() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))


class TestLocal:
    def test_its_parameters_make_settings_for_every_function(
        self, environments: dict[str, Any]
    ) -> None:
        """Nothing stays an intrinsic or a parameter's name, as SAM leaves what is not given."""
        given = environments["local"]["local_start_api"]["parameters"]["parameter_overrides"]
        parameters = dict(each.split("=", 1) for each in given)
        template = load_template(ROOT / "template.yaml", parameters)
        assert len(template.functions) == 11
        for spec in template.functions.values():
            settings = from_env(spec.environment)
            assert settings.database.host == "host.docker.internal"
            assert settings.app_url == parameters["AppUrl"]
            assert settings.secrets_endpoint == parameters["SecretsEndpointUrl"]


class TestProduction:
    def test_it_asks_before_it_changes_anything(self, environments: dict[str, Any]) -> None:
        """And takes back what failed."""
        deploy = environments["production"]["deploy"]["parameters"]
        assert deploy["confirm_changeset"] is True
        assert deploy["on_failure"] == "ROLLBACK"
