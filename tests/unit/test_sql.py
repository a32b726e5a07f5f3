"""SQL lies beside the module that runs it: each statement is used, by that module and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.database.statements import Statements
from tests.unit.cloudformation import ROOT
from tests.unit.source import BILLING, parse

DATABASE = BILLING / "database"
SQL = sorted(
    file
    for file in BILLING.rglob("*.sql")
    if file.parent not in {DATABASE / "tables", DATABASE / "routines"}
)
ROUTINES = sorted(DATABASE.glob("routines/*.sql"))
CODE = sorted([*BILLING.rglob("*.py"), *(ROOT / "functions").rglob("*.py")])

_OWN = "Statements(__file__)"
_BOTH = f'_sql = {_OWN}\n_sql["one"], _sql["two"]'  # an example
_ALL_COLUMNS = re.compile(
    r"[\w)\"]\s*\.\s*\*|\b(select|returning|distinct|all)\s+\*|,\s*\*", re.IGNORECASE
)
_NO_CODE = re.compile(r"--[^\n]*|'(?:[^']|'')*'")


def problems(module: Path) -> Iterator[str]:
    """What a module does with statements that this test cannot follow, or that is wrong.

    `_sql = Statements(__file__)` names the file beside it, `_sql["name"]` a statement in it.
    """
    tree = parse(module)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Statements"):
            assigned = parents[node]
            if ast.unparse(node) != _OWN:
                yield f"line {node.lineno}: {ast.unparse(node)} and not {_OWN}"
            elif not isinstance(assigned, ast.Assign) or [
                ast.unparse(each) for each in assigned.targets
            ] != ["_sql"]:
                yield f"line {node.lineno}: its name is not _sql"
        elif isinstance(node, ast.Attribute) and node.attr == "_sql":
            yield f"line {node.lineno}: {ast.unparse(node)} is another module's"
        elif isinstance(node, ast.ImportFrom) and "_sql" in {each.name for each in node.names}:
            yield f"line {node.lineno}: imports another module's _sql"
        elif isinstance(node, ast.Name) and node.id == "_sql" and isinstance(node.ctx, ast.Load):
            used = parents[node]
            if not isinstance(used, ast.Subscript) or _literal(used) is None:
                yield f"line {node.lineno}: {ast.unparse(used)} names no statement"
    names = Statements(str(module)).texts if module.with_suffix(".sql").exists() else {}
    for name in sorted(used_by(module) - names.keys()):
        yield f"{name} is not in the file beside it"
    for name in sorted(names.keys() - used_by(module)):
        yield f"{name} is not used"


def used_by(module: Path) -> set[str]:
    """The statements that a module names."""
    return {
        name
        for node in ast.walk(parse(module))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "_sql"
        if (name := _literal(node)) is not None
    }


def _literal(node: ast.Subscript) -> str | None:
    key = node.slice
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


class TestStatements:
    def test_all_are_looked_at(self) -> None:
        assert len(SQL) > 15
        assert len(CODE) > 60
        assert sum(len(used_by(module)) for module in CODE) > 100

    @pytest.mark.parametrize("module", CODE, ids=lambda path: str(path.relative_to(ROOT)))
    def test_each_is_used_by_its_own_module(self, module: Path) -> None:
        """And by no other, and all that are named are there."""
        assert list(problems(module)) == []

    @pytest.mark.parametrize("file", SQL, ids=lambda path: str(path.relative_to(BILLING)))
    def test_each_file_has_its_module(self, file: Path) -> None:
        assert file.with_suffix(".py").exists()

    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            ('_sql = Statements(__file__)\n_sql["one"]\n', "two is not used"),
            (f'{_BOTH}, _sql["six"]\n', "six is not in"),
            (f'{_BOTH}, _sql[n]\n', "names no statement"),
            (f'{_BOTH}, use(_sql)\n', "names no statement"),
            ('_sql = Statements("x")\n_sql["one"], _sql["two"]\n', "and not Statements(__file__)"),
            ('sql = Statements(__file__)\nsql["one"], sql["two"]\n', "its name is not _sql"),
            ('other._sql["one"]\n', "is another module's"),
            ("from billing.other import _sql\n", "imports another module's"),
        ],
    )  # fmt: skip
    def test_what_is_noticed(self, tmp_path: Path, code: str, problem: str) -> None:
        (tmp_path / "module.sql").write_text("-- name: one\nselect 1\n\n-- name: two\nselect 2\n")
        module = tmp_path / "module.py"
        module.write_text(code)
        assert any(problem in each for each in problems(module)), list(problems(module))


class TestColumns:
    """Columns are named: one that a migration adds must not change what a statement answers."""

    @pytest.mark.parametrize(
        "file", [*SQL, *ROUTINES], ids=lambda path: str(path.relative_to(BILLING))
    )
    def test_no_star(self, file: Path) -> None:
        code = _NO_CODE.sub("", file.read_text(encoding="utf-8"))
        assert [each[0] for each in _ALL_COLUMNS.finditer(code)] == []

    @pytest.mark.parametrize(
        "text",
        [
            "select * from t", "select distinct *", "returning *", "select (r).* from r",
            "select t.*", "select f(x).*", "returning d.*", 'select "T".*', "select a, * from t",
        ],
    )  # fmt: skip
    def test_what_is_noticed(self, text: str) -> None:
        assert _ALL_COLUMNS.search(text)

    @pytest.mark.parametrize("text", ["select count(*)", "select a * b", "select 2 * -1, (a) * 3"])
    def test_what_is_not(self, text: str) -> None:
        assert not _ALL_COLUMNS.search(text)


_CASED = re.compile(r"\b(?:lower|upper|initcap)\s*\(", re.IGNORECASE)


def cased_by_locale(code: str) -> Iterator[str]:
    """The calls of `lower` and the like whose argument does not end with `collate "C"`."""
    for found in _CASED.finditer(code):
        depth, at = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(code[at], 0)
            at += 1
        if not code[found.end() : at - 1].rstrip().endswith('collate "C"'):
            yield code[found.start() : at]


class TestLetters:
    """Small letters are the same in every locale: in Turkish, I becomes another letter than i."""

    @pytest.mark.parametrize(
        "file",
        [*SQL, *ROUTINES, *sorted(DATABASE.glob("tables/*.sql"))],
        ids=lambda path: str(path.relative_to(BILLING)),
    )
    def test_none_depends_on_the_locale(self, file: Path) -> None:
        code = _NO_CODE.sub("", file.read_text(encoding="utf-8"))
        assert list(cased_by_locale(code)) == []

    @pytest.mark.parametrize("text", ["lower(a)", 'lower(f(a collate "C"))', 'upper (a || "C")'])
    def test_what_is_noticed(self, text: str) -> None:
        assert list(cased_by_locale(text)) == [text]

    def test_what_is_not(self) -> None:
        assert not list(cased_by_locale('lower(coalesce(a, f(b)) collate "C"), lower_refused(c)'))
