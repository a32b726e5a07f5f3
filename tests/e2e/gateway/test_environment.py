"""A worker sees what Lambda would show it, and nothing of the developer's shell."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from billing.credentials.secrets import SecretsManagerStore
from billing.errors import Unavailable
from local.gateway.template import Template
from tests.e2e.gateway.conftest import Served, asking, serve


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, template: Template) -> Iterator[Served]:
    """A gateway started from a shell that has things in it."""
    for name in ("AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "COMMET_API_KEY", "GREETING"):
        monkeypatch.setenv(name, "from the shell")
    yield from serve(template)


def test_the_shell_does_not_leak_into_functions(shell: Served) -> None:
    """Not even where the template has a variable of the same name."""
    environment = shell.get().json()["environment"]
    assert "from the shell" not in environment.values()
    assert environment["GREETING"] == "hello"
    assert environment["AWS_ACCESS_KEY_ID"] == "AKIALOCALLOCALLOCAL0"
    assert not list(Path(environment["HOME"]).iterdir())
    assert "CLOCK_URL" not in environment  # this gateway was given no clock


def test_lambdas_own_variables_are_there(served: Served) -> None:
    """Those a function can read in AWS."""
    seen = served.get().json()
    environment = seen["environment"]
    assert environment["_HANDLER"] == "app.handler"
    assert environment["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.13"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "Probe"
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128"
    assert environment["AWS_LAMBDA_LOG_FORMAT"] == "JSON"
    assert environment["LAMBDA_TASK_ROOT"] == seen["cwd"]
    assert environment["TZ"] == ":UTC"
    assert environment["ORIGINS"] == "http://a.example,http://b"
    assert environment["FLAG"] == "true"


def test_a_variable_may_hold_the_url_of_a_function(served: Served) -> None:
    """`!GetAtt ProbeUrl.FunctionUrl` is the address at which this gateway serves it."""
    url = served.get().json()["environment"]["PROBE_URL"]
    assert url == served.gateway.function_url("Probe")
    assert httpx.get(url).status_code == 200


class TestSecrets:
    def test_a_function_reads_a_secret_by_the_extensions_protocol(self, served: Served) -> None:
        """A rotated one is seen at once."""
        read = served.get(params=asking("fetch", secret="one")).json()
        assert read["SecretString"] == "first"
        served.secrets["one"] = "second"
        read = served.get(params=asking("fetch", secret="one")).json()
        assert read["SecretString"] == "second"

    def test_the_token_is_asked_for(self, served: Served) -> None:
        """Any program can reach the port; only a function knows the token."""
        url = f"{served.gateway.lambda_url}/secretsmanager/get"
        for headers in ({}, {"X-Aws-Parameters-Secrets-Token": "wrong"}):
            response = httpx.get(url, params={"secretId": "one"}, headers=headers)
            assert response.status_code == 401
            assert "SecretString" not in response.text

    def test_an_unknown_secret_is_a_400(self, served: Served) -> None:
        """As Secrets Manager answers it."""
        token = served.get().json()["environment"]["AWS_SESSION_TOKEN"]
        response = httpx.get(
            f"{served.gateway.lambda_url}/secretsmanager/get",
            params={"secretId": "none"},
            headers={"X-Aws-Parameters-Secrets-Token": token},
        )
        assert response.status_code == 400
        assert response.json()["__type"] == "ResourceNotFoundException"


class TestSecretsManager:
    """Its own protocol, which a function needs that writes a secret."""

    @pytest.fixture
    def store(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> SecretsManagerStore:
        """Ours, as a function has it."""
        environment = served.get().json()["environment"]
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "DEFAULT_REGION"):
            monkeypatch.setenv(f"AWS_{name}", environment[f"AWS_{name}"])
        monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it remembers credentials
        return SecretsManagerStore(environment["SECRETS_ENDPOINT_URL"])

    def test_what_is_written_is_read(self, served: Served, store: SecretsManagerStore) -> None:
        """Here, through the extension, and by whoever runs the gateway."""
        store.put("written", "by a function")
        assert store.get("written") == served.secrets["written"] == "by a function"
        read = served.get(params=asking("fetch", secret="written")).json()
        assert read["SecretString"] == "by a function"

    def test_refusals(self, store: SecretsManagerStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is not there, at no stage but the current one, and for nobody without the token."""
        store.put("written", "first")
        with pytest.raises(Unavailable):
            store.get("nowhere")
        with pytest.raises(Unavailable):
            store.get("written", "AWSPENDING")
        with pytest.raises(Unavailable):
            store._call("describe_secret", SecretId="written")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "wrong")
        monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
        for act in (lambda: store.get("written"), lambda: store.put("written", "second")):
            with pytest.raises(Unavailable):
                act()


def test_the_clock_is_the_one_the_gateway_was_given(served: Served) -> None:
    """CLOCK_URL answers the simulated present."""
    response = served.get(params=asking("fetch"))
    assert response.json() == {"now": "2030-01-02T03:04:05+00:00"}


class TestInvokeApi:
    """Lambda's own Invoke, for functions without a route."""

    def url(self, served: Served, name: str = "Timer") -> str:
        return f"{served.gateway.lambda_url}/2015-03-31/functions/{name}/invocations"

    def test_a_function_is_called_by_name(self, served: Served) -> None:
        """The answer is the function's, as it is."""
        response = httpx.post(self.url(served), json={"do": "echo", "x": 1})
        assert response.status_code == 200
        assert "X-Amz-Function-Error" not in response.headers
        assert json.loads(response.json()["body"])["event"] == {"do": "echo", "x": 1}

    def test_an_arn_will_do(self, served: Served) -> None:
        """Lambda takes both."""
        arn = "arn:aws:lambda:us-east-1:123456789012:function:Timer"
        assert httpx.post(self.url(served, arn), json={}).status_code == 200

    def test_a_failure_is_a_200_with_a_header(self, served: Served) -> None:
        """And Lambda's error document."""
        response = httpx.post(self.url(served), json={"do": "fail"})
        assert (response.status_code, response.headers["X-Amz-Function-Error"]) == (
            200,
            "Unhandled",
        )
        assert response.json()["errorMessage"] == "asked to fail"

    def test_what_cannot_be_invoked_is_refused(self, served: Served) -> None:
        """An unknown name, and a payload that is no JSON."""
        assert httpx.post(self.url(served, "Nobody"), json={}).status_code == 404
        assert httpx.post(self.url(served), content=b"{").status_code == 400

    def test_a_web_page_cannot_invoke(self, served: Served) -> None:
        """Neither by a cross-site request nor by a name rebound to loopback."""
        evil = {"Origin": "https://evil.example"}
        assert httpx.post(self.url(served), json={}, headers=evil).status_code == 403
        rebound = {"Host": "evil.example"}
        assert httpx.post(self.url(served), json={}, headers=rebound).status_code == 403
