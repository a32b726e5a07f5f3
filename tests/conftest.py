"""What tests of every level may need: a real Postgres and a Secrets Manager, one per session."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from httpx._transports import default as _transports
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from local.postgres import EmbeddedPostgres

# How many seconds a test of these levels may take, its fixtures included, before it fails: far more
# than it needs, so that only a test that hangs is cut off. All others: `timeout` in pyproject.toml.
_LONGER = {
    "e2e": 600,  # builds, browsers, whole stacks
    "samlocal": 600,
    "proof": 3600 if os.environ.get("PROOF") == "full" else 600,
}


# How long an example takes says more about the machine than about the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# A client of httpx reads the certificates of all authorities, also where it speaks plain HTTP. This
# takes longer than most tests, so the clients of one process share what the first has read.
_transports.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]

# What takes longest comes first, so that no worker is left with it when the others are done.
_LONGEST_FIRST = (
    "tests/e2e/test_build.py",
    "tests/e2e/test_guides.py",
    "tests/e2e/stack/",
    "tests/proof/",
    "tests/e2e/",
    "tests/integration/local/",
    "tests/standin/unit/test_life_cycles.py",
    "tests/standin/contract/test_process.py",
    "tests/standin/pages/",
)
# Tests of one folder here use one stack, which takes seconds to start.
_TOGETHER = ("tests/e2e/stack/",)
# Tests of one file here share nothing, and each takes long.
_APART = (
    "tests/e2e/test_guides.py",
    "tests/integration/local/test_stack.py",
    "tests/proof/test_convergence.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives the levels that take longer a longer limit, and has the longest tests run first.

    Within a place tests keep their order.
    """
    for item in items:
        level = item.path.relative_to(Path(__file__).parent).parts[0]
        if level in _LONGER and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_LONGER[level]))
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    return next(
        (n for n, place in enumerate(_LONGEST_FIRST) if nodeid.startswith(place)),
        len(_LONGEST_FIRST),
    )


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands whole files to the workers, but for what is said above."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_APART):
            return nodeid
        folder = next((each for each in _TOGETHER if nodeid.startswith(each)), None)
        return folder or str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:  # noqa: ARG001 - pytest's names
    """Three workers for two cores: tests that wait for processes and timeouts leave cores idle."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) * 3 // 2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Ours in place of xdist's `loadfile`."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a server on which databases may be created: our own, or `TEST_DATABASE_URL`."""
    if named := os.environ.get("TEST_DATABASE_URL"):
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="postgres-") as place:
        Path(place).chmod(0o755)  # as root, Postgres runs as somebody else
        with EmbeddedPostgres(Path(place), fast=True) as server:
            yield server.url()


@dataclass(frozen=True)
class SecretsManager:
    """moto's, over HTTP. `url` is what SECRETS_ENDPOINT_URL names."""

    url: str
    client: Any

    def create(self, text: str) -> str:
        """The ARN of a new secret."""
        return str(self.client.create_secret(Name=f"s-{uuid4().hex}", SecretString=text)["ARN"])

    def put(self, arn: str, text: str, *stages: str) -> None:
        """Another value: current, or what the stages say."""
        chosen = {"VersionStages": list(stages)} if stages else {}
        self.client.put_secret_value(SecretId=arn, SecretString=text, **chosen)

    def text(self, arn: str) -> str:
        """The current value."""
        return str(self.client.get_secret_value(SecretId=arn)["SecretString"])


@pytest.fixture(scope="session")
def secrets_manager() -> Iterator[SecretsManager]:
    """An empty Secrets Manager; whoever asks AWS for credentials gets worthless ones."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield SecretsManager(url, boto3.client("secretsmanager", endpoint_url=url))
    server.stop()
