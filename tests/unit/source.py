"""The functions' source, for tests that hold the template against it."""

import ast
from functools import cache
from pathlib import Path

from tests.unit.cloudformation import ROOT

BILLING = ROOT / "layers" / "common" / "billing"


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules_of(path: Path) -> frozenset[Path]:
    """A module, and every one of the package that it imports, however far down and late."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for node in ast.walk(parse(module)):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module == "billing":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("billing."):
                names = [str(node.module).split(".")[1]]
            waiting += [p for n in names if (p := BILLING / f"{n}.py").exists()]
    return frozenset(found)
