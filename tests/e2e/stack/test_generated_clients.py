"""Clients that generators make of docs/openapi.json work against the running stack."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from local.stack import LocalStack
from tests.e2e.stack.conftest import Person
from tests.node import FOLDER, tool
from tests.unit.cloudformation import ROOT

DOCUMENT = ROOT / "docs" / "openapi.json"
SOURCES = ROOT / "tests" / "openapi"

# Of three events: one is new, one is the same again, and one has a quantity of 0.
EXPECTED = {
    "verdicts": [["accepted", None], ["duplicate", None], ["refused", "invalid_event"]],
    "wrong": "quantity",
    "allowed": True,
    "remaining": "97",
    "problem": "invalid_request",
}


@pytest.fixture
def user(person: Person, subscribe: Callable[..., dict[str, Any]]) -> str:
    subscribe(person)
    return person.id


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """The last line that a program prints."""
    ran = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.strip().rpartition("\n")[2]


def said(line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line)
    return found


def of_stack(stack: LocalStack, user: str) -> dict[str, str]:
    return {"BILLING_URL": stack.api, "BILLING_KEY": stack.service_key, "BILLING_USER": user}


def test_python(stack: LocalStack, user: str, tmp_path: Path) -> None:
    """openapi-python-client: a batch, a check and a problem. It must not leave a route out."""
    if importlib.util.find_spec("openapi_python_client") is None:
        pytest.fail("openapi-python-client is missing: `make setup`")
    (tmp_path / "config.yaml").write_text("post_hooks: []\n", encoding="utf-8")
    generated = subprocess.run(
        [
            sys.executable, "-m", "openapi_python_client", "generate", "--path", DOCUMENT,
            "--meta", "none", "--output-path", "generated", "--config", "config.yaml",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "warning" not in (generated.stdout + generated.stderr).lower()
    variables = of_stack(stack, user) | {"PYTHONPATH": str(tmp_path)}
    assert said(run(sys.executable, SOURCES / "use.py", cwd=tmp_path, **variables)) == EXPECTED


def test_typescript(stack: LocalStack, user: str, tmp_path: Path) -> None:
    """@hey-api/openapi-ts: the same, and its types fit how it is used."""
    openapi_ts, tsc = tool("openapi-ts"), tool("tsc")
    for name in ("use.ts", "tsconfig.json", "openapi-ts.config.mjs"):
        shutil.copy(SOURCES / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(FOLDER)
    run(openapi_ts, cwd=tmp_path, DOCUMENT=str(DOCUMENT))
    run(tsc, "--project", ".", cwd=tmp_path)
    node = shutil.which("node") or "node"
    assert said(run(node, "out/use.js", cwd=tmp_path, **of_stack(stack, user))) == EXPECTED
