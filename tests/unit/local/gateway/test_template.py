"""The contract with SAM CLI's private API, and what we refuse to serve."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.gateway.template import (
    Cors,
    FunctionUrl,
    HttpApi,
    Route,
    Schedule,
    Template,
    UnsupportedTemplateError,
    load_template,
    rate_seconds,
)

ROOT = Path(__file__).parents[4]
FIXTURE = ROOT / "tests/e2e/gateway/fixtures/template.yaml"


class TestSamCli:
    """Each of these names one private thing we lean on, so that an upgrade says what moved."""

    def test_the_stack_provider_takes_a_file_and_parameters(self) -> None:
        """`get_stacks` returns stacks and what it could not reach."""
        module = importlib.import_module("samcli.lib.providers.sam_stack_provider")
        parameters = inspect.signature(module.SamLocalStackProvider.get_stacks).parameters
        assert {"template_file", "parameter_overrides", "global_parameter_overrides"} <= set(
            parameters
        )

    def test_the_function_provider_lists_functions_with_the_fields_we_read(self) -> None:
        """A NamedTuple, so a field that goes missing is seen here first."""
        module = importlib.import_module("samcli.lib.providers.provider")
        assert set(module.Function._fields) >= {
            "name",
            "runtime",
            "memory",
            "timeout",
            "handler",
            "packagetype",
            "codeuri",
            "environment",
            "layers",
            "events",
            "inlinecode",
            "function_url_config",
            "logging_config",
        }
        assert isinstance(module.LayerVersion.codeuri, property)
        assert isinstance(module.Stack.resources, property)


@pytest.fixture(scope="module")
def fixture() -> Template:
    return load_template(FIXTURE, {"Origins": "http://a,http://b", "Greeting": "salut"})


class TestLoadTemplate:
    def test_functions_come_with_code_layers_limits_and_environment(
        self, fixture: Template
    ) -> None:
        """Parameters are applied, paths are absolute, values are text."""
        probe = fixture.functions["Probe"]
        assert probe.code == FIXTURE.parent / "functions/probe"
        assert probe.layers == (FIXTURE.parent / "layer",)
        assert (probe.handler, probe.timeout_seconds, probe.memory_mb) == ("app.handler", 5, 128)
        assert probe.environment == {
            "GREETING": "salut",
            "ORIGINS": "http://a,http://b",
            "RECORD": "",
            "FLAG": "true",
            "PROBE_URL": "",
        }
        assert probe.url_variables == {"PROBE_URL": "Probe"}

    def test_the_api_has_its_routes_and_cors(self, fixture: Template) -> None:
        """Both as the template says, parameters applied."""
        api = fixture.api
        assert api is not None
        assert Route("GET", "/items/{id}", "Probe") in api.routes
        assert Route("ANY", "/any", "Probe") in api.routes
        assert api.cors == Cors(
            allow_origins=("http://a", "http://b"),
            allow_methods=("GET", "POST"),
            allow_headers=("content-type",),
            max_age_seconds=600,
        )

    def test_an_api_may_do_without_paths_and_cors(self, tmp_path: Path) -> None:
        """Its one route is then $default."""
        event = {"Type": "HttpApi", "Properties": {"ApiId": {"Ref": "A"}}}
        path = template_with(tmp_path, A={"Type": HTTP_API}, Elsewhere=function(event))
        assert load_template(path).api == HttpApi((Route("ANY", "$default", "Elsewhere"),))

    def test_a_template_may_have_no_api(self, tmp_path: Path) -> None:
        """Only functions, to be invoked by name."""
        assert load_template(template_with(tmp_path, F=function())).api is None

    def test_function_urls_and_enabled_schedules_are_found(self, fixture: Template) -> None:
        """A disabled schedule is not."""
        assert fixture.urls == (FunctionUrl("Probe"),)
        assert fixture.schedules == (
            Schedule("TimerOften", "Timer", "rate(1 minute)", "aws.scheduler", '{"do": "record"}'),
            Schedule("TimerRule", "Timer", "rate(1 hour)", "aws.events"),
        )

    def test_the_products_own_template_is_served(self) -> None:
        """Every function of it, a function URL, and schedules."""
        template = load_template(ROOT / "template.yaml", {"AllowedOrigins": "http://a"})
        assert {"SignupFunction", "WebhookFunction", "MigrateFunction"} <= set(template.functions)
        assert FunctionUrl("WebhookFunction") in template.urls
        assert template.schedules


def template_with(tmp_path: Path, **resources: Any) -> Path:
    path = tmp_path / "template.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "AWSTemplateFormatVersion": "2010-09-09",
                "Transform": "AWS::Serverless-2016-10-31",
                "Resources": resources,
            }
        )
    )
    return path


def function(event: dict[str, Any] | None = None, **properties: Any) -> dict[str, Any]:
    base = {"Runtime": "python3.13", "Handler": "app.handler", "CodeUri": "code"}
    if event:
        base["Events"] = {"E": event}  # type: ignore[assignment]
    return {"Type": "AWS::Serverless::Function", "Properties": base | properties}


HTTP_API = "AWS::Serverless::HttpApi"
JWT = {"J": {"IdentitySource": "$request.header.A", "JwtConfiguration": {"issuer": "i"}}}


class TestRefusals:
    """Serving these half would be worse than not serving them."""

    def refused(self, path: Path, because: str) -> None:
        with pytest.raises(UnsupportedTemplateError, match=because):
            load_template(path)

    def test_a_jwt_authorizer_is_refused_rather_than_skipped(self, tmp_path: Path) -> None:
        """SAM CLI leaves such a route open."""
        event = {
            "Type": "HttpApi",
            "Properties": {"ApiId": {"Ref": "A"}, "Path": "/", "Method": "GET"},
        }
        api = {
            "Type": HTTP_API,
            "Properties": {"Auth": {"Authorizers": JWT, "DefaultAuthorizer": "J"}},
        }
        self.refused(template_with(tmp_path, A=api, F=function(event)), "not enforced")

    def test_an_authorizer_of_one_route_is_refused(self, tmp_path: Path) -> None:
        """Also where the API has no default."""
        event = {
            "Type": "HttpApi",
            "Properties": {
                "ApiId": {"Ref": "A"},
                "Path": "/",
                "Method": "GET",
                "Auth": {"Authorizer": "J"},
            },
        }
        api = {"Type": HTTP_API, "Properties": {"Auth": {"Authorizers": JWT}}}
        self.refused(template_with(tmp_path, A=api, F=function(event)), "authorizer J")

    def test_a_rest_api_is_refused(self, tmp_path: Path) -> None:
        """Its events look different."""
        event = {"Type": "Api", "Properties": {"Path": "/", "Method": "GET"}}
        self.refused(template_with(tmp_path, F=function(event)), "only HTTP APIs")

    def test_a_second_http_api_is_refused(self, tmp_path: Path) -> None:
        """Both have their routes at `/`. An API that no resource declares counts as one."""
        route = {"Type": "HttpApi", "Properties": {"Path": "/", "Method": "GET"}}
        api = {"Type": HTTP_API}
        self.refused(template_with(tmp_path, A=api, B=api, F=function()), "A, B")
        self.refused(template_with(tmp_path, A=api, F=function(route)), "A, ServerlessHttpApi")

    def test_an_old_payload_format_is_refused(self, tmp_path: Path) -> None:
        """We build format 2.0 only."""
        event = {
            "Type": "HttpApi",
            "Properties": {"Path": "/", "Method": "GET", "PayloadFormatVersion": "1.0"},
        }
        self.refused(template_with(tmp_path, F=function(event)), "payload format 2.0")

    def test_a_function_url_with_iam_is_refused(self, tmp_path: Path) -> None:
        """It would be open here."""
        broken = function(FunctionUrlConfig={"AuthType": "AWS_IAM"})
        self.refused(template_with(tmp_path, F=broken), "would be open")


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("rate(1 minute)", 60), ("rate(2 hours)", 7200), ("cron(0 3 * * ? *)", 86400)],
)
def test_rates_are_read_and_the_rest_is_daily(expression: str, seconds: int) -> None:
    """Only rates can be scaled down to a laptop's patience."""
    assert rate_seconds(expression) == seconds
