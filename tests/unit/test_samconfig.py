"""The environments of samconfig.toml fit the template."""

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from billing.config import from_env
from billing.credentials.secrets import Secrets, SecretsManagerStore
from billing.credentials.service_keys import ServiceKeys
from local import function_url, sam_local
from local.gateway.template import load_template
from standin.__main__ import build_parser, settings_from
from standin.schemas import CreateWebhook, read
from tests.conftest import SecretsManager
from tests.unit.cloudformation import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environments() -> dict[str, Any]:
    return tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """What SAM CLI gives each function that has a variable of that name."""
    document = json.loads((ROOT / "sam-local.env.json").read_text(encoding="utf-8"))
    given: dict[str, str] = document["Parameters"]
    return given


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


class TestLocal:
    def test_it_makes_settings_for_every_function(
        self, told: dict[str, str], compose: dict[str, Any]
    ) -> None:
        """Nothing stays an intrinsic or a parameter's name, as SAM leaves what is not given."""
        template = load_template(ROOT / "template.yaml")
        parameters = load(ROOT / "template.yaml")["Parameters"]
        assert template.functions
        for spec in template.functions.values():
            environment = dict(spec.environment) | {
                n: v for n, v in told.items() if n in spec.environment
            }
            assert not set(environment.values()) & set(parameters)
            settings = from_env(environment)
            assert settings.database.host in compose["services"]
            assert urlsplit(settings.secrets_endpoint or "").hostname in compose["services"]
            assert settings.secrets_extension_port is None

    def test_it_names_no_variable_that_is_not_there(self, told: dict[str, str]) -> None:
        """SAM CLI leaves those out without a word."""
        template = load_template(ROOT / "template.yaml")
        assert told.keys() <= {n for spec in template.functions.values() for n in spec.environment}

    def test_the_containers_meet(
        self, environments: dict[str, Any], compose: dict[str, Any]
    ) -> None:
        """One network and one env file for all commands."""
        for command in ("local_start_api", "local_start_lambda", "local_invoke"):
            parameters = environments["local"][command]["parameters"]
            assert parameters["docker_network"] == compose["networks"]["default"]["name"]
            assert (ROOT / parameters["env_vars"]).exists()

    def test_the_stand_in_takes_the_webhook_address_and_finds_it(
        self, environments: dict[str, Any], told: dict[str, str], compose: dict[str, Any]
    ) -> None:
        """By the rule that requests for endpoints are held against, and from its container."""
        url = urlsplit(told["WEBHOOK_URL"])
        read(CreateWebhook, {"url": url.geturl(), "events": ["customer.state_changed"]})
        assert f"{url.hostname}:host-gateway" in compose["services"]["commet"]["extra_hosts"]
        served = environments["local"]["local_start_api"]["parameters"]
        assert (served["host"], served["port"]) == ("0.0.0.0", url.port)  # noqa: S104 - its own
        api = load_template(ROOT / "template.yaml").api
        assert api is not None
        assert url.path in {route.path for route in api.routes}

    def test_no_port_is_used_twice(
        self, environments: dict[str, Any], compose: dict[str, Any]
    ) -> None:
        """By SAM CLI, the function URL or a container."""
        ports = [
            int(port.split(":")[1]) for s in compose["services"].values() for port in s["ports"]
        ]
        ports += [environments["local"][f"local_start_{n}"]["parameters"]["port"]
                  for n in ("api", "lambda")]  # fmt: skip
        assert len({*ports, function_url.PORT}) == len(ports) + 1

    def test_up_waits_for_every_service(self, compose: dict[str, Any]) -> None:
        """`--wait` asks the health check, and is content with a process where there is none."""
        assert compose["services"]
        for service in compose["services"].values():
            assert service["healthcheck"]["test"][0] == "CMD"

    def test_the_stand_in_of_compose_answers_by_the_name_that_functions_call_it(
        self, told: dict[str, str], compose: dict[str, Any]
    ) -> None:
        """On its port, and with the key of the secret that `local.sam_local` makes."""
        called = urlsplit(told["COMMET_BASE_URL"])
        script = shlex.split(compose["services"][called.hostname]["command"])[-1]
        flags = shlex.split(script.partition("python -m standin ")[2])
        given = build_parser().parse_args(flags)
        assert called.hostname in settings_from(given).allow_hosts
        assert (given.port, given.api_key) == (called.port, sam_local.COMMET_KEY)

    def test_compose_has_the_passwords_that_are_filled_in(self, compose: dict[str, Any]) -> None:
        postgres = compose["services"]["postgres"]["environment"]
        assert postgres["POSTGRES_USER"] == sam_local.DATABASE_OWNER["username"]
        assert postgres["POSTGRES_PASSWORD"] == sam_local.DATABASE_OWNER["password"]
        roles = compose["configs"]["roles"]["content"]
        assert sam_local.DATABASE["username"] in roles
        assert sam_local.DATABASE["password"] in roles
        assert sam_local.COMMET_KEY in compose["services"]["commet"]["command"]

    def test_it_listens_to_this_machine_alone(self, compose: dict[str, Any]) -> None:
        ports = [port for s in compose["services"].values() for port in s.get("ports", ())]
        assert len(ports) == 4
        assert all(port.startswith("127.0.0.1:") for port in ports)

    def test_every_secret_is_filled_in(
        self, told: dict[str, str], secrets_manager: SecretsManager
    ) -> None:
        """Again without forgetting what Commet has shown only once."""
        key = sam_local.fill(secrets_manager.client)
        names = [v for n, v in told.items() if n.endswith("_SECRET_ARN")]
        assert names
        for name in names:
            assert secrets_manager.text(name)
        keys = ServiceKeys(Secrets(SecretsManagerStore(secrets_manager.url)), "local/service-keys")
        assert keys.authenticate(key).name == "local"
        secrets_manager.put("local/webhook", '{"secrets": ["whsec_1"]}')
        before = secrets_manager.text("local/app")
        assert sam_local.fill(secrets_manager.client) != key
        assert secrets_manager.text("local/webhook") == '{"secrets": ["whsec_1"]}'
        assert secrets_manager.text("local/app") == before

    def test_nobody_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert sam_local.main(["--endpoint", "http://127.0.0.1:1"]) == 1
        assert "docker compose up" in capsys.readouterr().err


class TestDeployed:
    @pytest.mark.parametrize("name", ["staging", "production"])
    def test_it_asks_before_it_changes_anything(
        self, environments: dict[str, Any], name: str
    ) -> None:
        """And takes back what failed."""
        deploy = environments[name]["deploy"]["parameters"]
        assert deploy["confirm_changeset"] is True
        assert deploy["on_failure"] == "ROLLBACK"
        assert f"environment={name}" in deploy["tags"]

    def test_each_is_a_stack_of_its_own(self, environments: dict[str, Any]) -> None:
        stacks = [
            environments[name]["deploy"]["parameters"]["stack_name"]
            for name in ("staging", "production")
        ]
        assert len(stacks) == len(set(stacks))
