"""The SQL statements that a function's code can reach, found by reading the code.

Not every statement of the modules it imports: a module that many functions share has statements
that only some of them use.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from billing.database.statements import Statements
from tests.unit.source import BILLING, module, parse

Name = tuple[Path, str]  # a module, and a name at its top level

_PACKAGE = "billing"
_PAGES = BILLING / "pages"


@cache
def statements_of(app: Path) -> frozenset[Name]:
    """The modules and names of the statements that the code of a function can run."""
    found: set[Name] = set()
    seen: set[Name] = set()
    # A module of pages adds its routes when it is imported: no name of it is used.
    pages = [path for path, name in _imports(app).values() if name == "*" and path.parent == _PAGES]
    waiting = [(path, name) for path in [app, *pages] for name in _top_level(path)]
    while waiting:
        here = waiting.pop()
        if here in seen:
            continue
        seen.add(here)
        path, name = here
        for node in _top_level(path).get(name, []):
            found |= {(path, each) for each in _statements(node)}
            waiting += _names(path, node)
    return frozenset(found)


def text_of(statement: Name) -> str:
    path, name = statement
    return Statements(str(path))[name]


@cache
def _top_level(path: Path) -> dict[str, list[ast.stmt]]:
    """What a module has at its top level, by name. Statements without a name are under ''."""
    found: dict[str, list[ast.stmt]] = {}
    for node in parse(path).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                found.setdefault(node.name, []).append(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.setdefault(name, []).append(node)
            case _:
                found.setdefault("", []).append(node)
    return found


@cache
def _imports(path: Path) -> dict[str, Name]:
    """What each imported name means: a module of ours (its name is '*'), or a name in one."""
    found: dict[str, Name] = {}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _PACKAGE:
            source = module(str(node.module))
            for alias in node.names:
                if source.name == "__init__.py":
                    meaning = (module(f"{node.module}.{alias.name}"), "*")
                else:
                    meaning = (source, alias.name)
                found[alias.asname or alias.name] = meaning
    return found


def _names(path: Path, tree: ast.AST) -> Iterator[Name]:
    """The names that a piece of code uses, of its own module and of others."""
    imports, own = _imports(path), _top_level(path)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in imports:
                source, meaning = imports[name]
                yield (source, attr if meaning == "*" else meaning)
            case ast.Name(id=name) if name in imports and imports[name][1] != "*":
                yield imports[name]
            case ast.Name(id=name) if name in own:
                yield (path, name)
    yield (path, "")


def _statements(tree: ast.AST) -> Iterator[str]:
    """`_sql["name"]`."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id="_sql"), slice=ast.Constant(value=str(name))):
                yield name
