"""Node's tools for the OpenAPI document, where `make node-tools` has installed them."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "node" / "node_modules"


def tool(name: str) -> str:
    """The path of a tool. Skips the test where Node's tools are missing; fails it in CI."""
    return str(_installed(FOLDER / ".bin" / name))


def package(name: str) -> Path:
    """The folder of a package, like `tool`."""
    return _installed(FOLDER / name)


def _installed(path: Path) -> Path:
    if not path.exists():
        reason = "Node's tools are missing: install Node 20.19 or newer, then `make node-tools`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
