"""Node's tools for the OpenAPI document, where `make node-tools` has installed them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "node" / "node_modules"


def tool(name: str) -> str:
    """The path of a tool. Skips the test where Node's tools are missing. In CI, where Node is new
    enough, it fails.
    """
    return str(_installed(FOLDER / ".bin" / name))


def package(name: str) -> Path:
    """The folder of a package, like `tool`."""
    return _installed(FOLDER / name)


def _installed(path: Path) -> Path:
    if not path.exists():
        reason = "Node's tools are missing: install Node 20.19 or newer, then `make node-tools`"
        if os.environ.get("CI") and _node() >= (20, 19):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def _node() -> tuple[int, ...]:
    """Major and minor version of the machine's Node; empty without one."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return ()
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.removeprefix("v").split(".")[:2])
