"""The functions' source, for tests that hold the template against it."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from tests.unit.cloudformation import ROOT

LAYER = ROOT / "layers" / "common"
BILLING = LAYER / "billing"
WIRING = BILLING / "wiring.py"


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

    Of what `wiring` can build, only the modules of what is asked of it. Raises FileNotFoundError
    where an import names a module that the layer does not have.
    """
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here in found:
            continue
        found.add(here)
        if here == WIRING:
            waiting += _imported(n for n in parse(here).body if not isinstance(n, ast.If))
        else:
            waiting += _imported(ast.walk(parse(here)))
            for name in _asked_of_wiring(here):
                waiting += _imported(ast.walk(_builders()[name]))
    return frozenset(found)


@cache
def built_for(path: Path) -> frozenset[str]:
    """What a module, or any that it imports, has `wiring` build: the names of its functions."""
    return frozenset(name for each in modules_of(path) for name in _asked_of_wiring(each))


def _imported(nodes: Iterable[ast.AST]) -> Iterator[Path]:
    for node in nodes:
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
        yield from (module(f"{source}.{name}") for name in names)


@cache
def _builders() -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in parse(WIRING).body if isinstance(node, ast.FunctionDef)}


@cache
def _asked_of_wiring(path: Path) -> frozenset[str]:
    """The functions of `wiring` that a module names, and those that they call in turn."""
    waiting = [
        node.attr
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "wiring"
    ]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            named = (n.id for n in ast.walk(_builders()[name]) if isinstance(n, ast.Name))
            waiting += [n for n in named if n in _builders()]
    return frozenset(found)
