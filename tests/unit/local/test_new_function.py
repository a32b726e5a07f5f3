"""What `make function` writes, without writing it (tests/e2e/test_build_your_own.py does)."""

import ast
import importlib
from pathlib import Path

import pytest

FILES = Path(__file__).parents[3] / "local" / "function_files"


@pytest.mark.parametrize("name", ["app.py.txt", "test.py.txt"])
def test_what_it_imports_is_there(name: str) -> None:
    """A name of the layer that moves is missed in the texts, which no type checker reads."""
    tree = ast.parse((FILES / name).read_text(encoding="utf-8"))
    imports = [
        (node.module, each.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and "NAME" not in node.module
        for each in node.names
    ]
    assert len(imports) > 3
    missing = []
    for module, wanted in imports:
        found = importlib.import_module(module)
        if not hasattr(found, wanted):
            try:
                importlib.import_module(f"{module}.{wanted}")
            except ModuleNotFoundError:
                missing.append((module, wanted))
    assert missing == []
