"""One gateway for the whole session, serving the fixture template."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.gateway.logs import Log
from local.gateway.server import Gateway
from local.gateway.template import Template, load_template

FIXTURES = Path(__file__).with_name("fixtures")


def asking(do: str, **arguments: object) -> dict[str, str]:
    """The query that makes the fixture function do something."""
    return {"do": do} | {name: str(value) for name, value in arguments.items()}


def answering(answer: object) -> dict[str, str]:
    """The query that makes the fixture function return exactly this."""
    return asking("answer", answer=base64.urlsafe_b64encode(json.dumps(answer).encode()).decode())


@dataclass
class Served:
    gateway: Gateway
    http: httpx.Client
    output: io.StringIO
    secrets: dict[str, str]

    def get(self, path: str = "/probe", **arguments: Any) -> httpx.Response:
        return self.http.get(path, **arguments)


def serve(template: Template, **settings: Any) -> Iterator[Served]:
    output = io.StringIO()
    secrets = {"one": "first"}
    gateway = Gateway(template, log=Log(output), secrets=secrets, **settings)
    with gateway, httpx.Client(base_url=gateway.url, timeout=30) as http:
        yield Served(gateway, http, output, secrets)


@pytest.fixture(scope="session")
def template() -> Template:
    return load_template(FIXTURES / "template.yaml", {"Origins": "http://a.example,http://b"})


@pytest.fixture(scope="session")
def served(template: Template) -> Iterator[Served]:
    yield from serve(template, clock=lambda: "2030-01-02T03:04:05+00:00", max_workers=4)


@pytest.fixture(scope="session", params=["awslambdaric", "own client"])
def either_client(
    request: pytest.FixtureRequest, template: Template, served: Served
) -> Iterator[Served]:
    """The same, under AWS's runtime client and under ours."""
    if request.param == "awslambdaric":
        yield served
    else:
        yield from serve(template, clock=lambda: "x", max_workers=4, own_client=True)
