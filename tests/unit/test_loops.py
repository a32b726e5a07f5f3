"""A test that asserts in a loop asserts first that there is something to loop over.

Over an empty list the loop, or `all(...)`, would pass whatever is wrong. A literal, a range, a
constant of a module, a parameter of the test and whatever is made of these are not empty as far as
the text says; of anything else an `assert` has to speak before the loop.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Functions that give as many as they are given; and methods of a mapping or text that do.
_KEEPS = {
    "enumerate",
    "zip",
    "sorted",
    "reversed",
    "list",
    "tuple",
    "set",
    "dict",
    "map",
    "pairwise",
}
_VIEWS = {"items", "keys", "values", "split", "splitlines"}


def is_something(node: ast.expr, known: frozenset[str] = frozenset()) -> bool:
    """Whether it is not empty, as far as the text says; the names in `known` are not."""
    found = False
    match node:
        case ast.Name(id=name) if name in known:
            found = True
        case ast.List(elts=elts) | ast.Tuple(elts=elts) | ast.Set(elts=elts):
            found = any(
                not isinstance(e, ast.Starred) or is_something(e.value, known) for e in elts
            )
        case ast.Dict(keys=keys):
            found = bool(keys)
        case ast.Constant(value=str() | bytes() as text):
            found = bool(text)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name.isupper():
            found = True
        case ast.Call(func=ast.Name(id="range"), args=args):
            found = not any(isinstance(part, ast.Call) for arg in args for part in ast.walk(arg))
        case ast.Call(func=ast.Name(id=name), args=[*args]) if name in _KEEPS and args:
            found = all(is_something(a, known) for a in (args[1:] if name == "map" else args))
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _VIEWS:
            found = is_something(value, known)
        case ast.BinOp(left=left, op=ast.Add() | ast.BitOr(), right=right):
            found = is_something(left, known) or is_something(right, known)
        case ast.BinOp(left=left, op=ast.Mult()):
            found = is_something(left, known)
        case ast.ListComp(generators=[one]) | ast.GeneratorExp(generators=[one]) if not one.ifs:
            found = is_something(one.iter, known)
    return found


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What is in it, functions and classes within it left out."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield child
            yield from own_nodes(child)


def held_over(function: Function) -> Iterator[ast.expr]:
    """What the function asserts something of each of."""
    for node in own_nodes(function):
        if isinstance(node, ast.For) and any(isinstance(n, ast.Assert) for n in own_nodes(node)):
            yield node.iter
        if isinstance(node, ast.Assert):
            for part in ast.walk(node.test):
                match part:
                    case ast.Call(func=ast.Name(id="all"), args=[ast.GeneratorExp() as each]):
                        yield each.generators[0].iter


def spoken_of(function: Function, line: int) -> set[str]:
    """Expressions in the asserts of the function up to this line, `all(...)` left out."""
    return {
        ast.unparse(part)
        for node in own_nodes(function)
        if isinstance(node, ast.Assert) and node.lineno <= line
        for part in outside_of_all(node.test)
    }


def outside_of_all(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "all":
        return
    if isinstance(node, ast.expr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from outside_of_all(child)


def not_empty(function: Function) -> frozenset[str]:
    """Names that are never given anything empty: parameters, and what is made of them."""
    names = {
        name
        for decorator in function.decorator_list
        for part in ast.walk(decorator)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
        for name in part.value.split(", ")
        if ast.unparse(decorator).startswith("pytest.mark.parametrize")
    }
    given: dict[str, list[ast.expr]] = {}
    for node in own_nodes(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                given.setdefault(name, []).append(value)
    for name, values in given.items():  # in the order of the text
        if all(is_something(value, frozenset(names)) for value in values):
            names.add(name)
    return frozenset(names)


def empty_loops(text: str) -> list[str]:
    """Line and expression of each that may be over nothing."""
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function) and node.name.startswith("test")
    ]
    return [
        f"{iterable.lineno}: {ast.unparse(iterable)}"
        for function in functions
        for iterable in held_over(function)
        if not is_something(iterable, not_empty(function))
        and not spoken_of(function, iterable.lineno) & {*parts(iterable)}
    ]


def parts(iterable: ast.expr) -> Iterator[str]:
    """The expression, and what it is made of by what keeps the number."""
    yield ast.unparse(iterable)
    match iterable:
        case ast.Call(func=ast.Name(id=name), args=[*args]) if name in _KEEPS:
            for arg in args:
                yield from parts(arg)
        case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in _VIEWS:
            yield from parts(value)


def test_there_are_tests() -> None:
    assert len(FILES) > 100


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("for row in rows(): assert row", ["2: rows()"]),
        ("rows = list(found())\n for row in rows: assert row", ["3: rows"]),
        ("rows = list(found())\n assert rows\n for row in rows: assert row", []),
        ("rows = found()\n assert len(rows) == 2\n for a, b in zip(rows, ONE): assert a", []),
        ("for row in (1, 2): assert row", []),
        ("rows = [make(n) for n in range(9)]\n for row in rows: assert row", []),
        ("rows = [n for n in range(9) if odd(n)]\n for row in rows: assert row", ["3: rows"]),
        ("rows = []\n fill(rows)\n for row in rows: assert row", ["4: rows"]),
        ("for row in rows(): print(row)", []),
        ("assert all(row for row in rows)", ["2: rows"]),
        ("assert rows and all(row for row in rows)", []),
        ("assert all(row for row in rows)\n assert rows", ["2: rows"]),
        ("for row in range(len(rows())): assert row", ["2: range(len(rows()))"]),
        ("with loop(): \n  for row in rows(): assert row", ["3: rows()"]),
    ],
)
def test_what_is_found(body: str, found: list[str]) -> None:
    assert empty_loops(f"def test_it():\n {body}") == found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(TESTS).as_posix())
def test_no_loop_over_nothing(file: Path) -> None:
    assert empty_loops(file.read_text(encoding="utf-8")) == []
