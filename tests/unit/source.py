"""The functions' source, for tests that hold the template against it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.unit.cloudformation import ROOT

LAYER = ROOT / "layers" / "common"
BILLING = LAYER / "billing"


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module(name: str) -> Path:
    """The file of a module or package of the layer, by its dotted name; raises where none is."""
    place = LAYER.joinpath(*name.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"The layer has no module {name}.")


@cache
def modules_of(path: Path) -> frozenset[Path]:
    """A module, and every one of the layer that it imports, however far down and late.

    Raises FileNotFoundError where an import names a module that the layer does not have.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += _imported(parse(here))
    return frozenset(found)


def _imported(tree: ast.Module) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (module(name) for name in names if name.split(".")[0] == "billing")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "billing":
            yield from _imported_from(str(node.module), [alias.name for alias in node.names])


def _imported_from(source: str, names: list[str]) -> Iterator[Path]:
    """`from package import module` names modules, `from module import thing` the one it is from."""
    path = module(source)
    yield path
    if path.name == "__init__.py":
        for name in names:
            try:
                yield module(f"{source}.{name}")
            except FileNotFoundError:
                if name not in _defined(parse(path)):
                    raise


def _defined(tree: ast.Module) -> set[str]:
    """What a package's own file holds beside modules."""
    stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    return stored | {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
