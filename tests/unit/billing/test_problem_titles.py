"""Every problem code has a title of its own, and no title is left without a code."""

import ast
from collections.abc import Iterator
from pathlib import Path

from billing import errors
from billing.errors import TITLES, BillingError, Conflict, NotFound
from tests.unit.billing.test_errors import family
from tests.unit.cloudformation import ROOT
from tests.unit.source import BILLING, module, parse

KINDS = frozenset(kind.__name__ for kind in family())
SOURCES = sorted([*BILLING.rglob("*.py"), *ROOT.glob("functions/*/app.py")])
REFUSALS = module("billing.http.refusals")


def constants(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may have as its value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def calls(path: Path) -> Iterator[ast.expr]:
    """The `code` of each error that a module makes."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            callee = ast.unparse(node.func).rpartition(".")[2]
            for keyword in node.keywords:
                if keyword.arg == "code" and callee in KINDS | {"kind", "__init__"}:
                    yield keyword.value


def raised() -> dict[str, Path]:
    """Every code that an error can have, with the file that says so."""
    found = {code: path for path in SOURCES for value in calls(path) for code in constants(value)}
    for kind in ast.walk(parse(Path(errors.__file__))):
        if isinstance(kind, ast.ClassDef) and kind.name in KINDS:
            for node in ast.walk(kind):
                targets = node.targets if isinstance(node, ast.Assign) else []
                if "code" in (ast.unparse(each).removeprefix("self.") for each in targets):
                    found |= dict.fromkeys(constants(node.value), Path(errors.__file__))  # type: ignore[attr-defined]
    return found | dict.fromkeys(refusals(), REFUSALS)


def refusals() -> Iterator[str]:
    """The codes of refused usage. The code `conflict` is answered as `idempotency_conflict`."""
    (table,) = (
        node.value
        for node in parse(REFUSALS).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_REFUSALS"
    )
    assert isinstance(table, ast.Dict)
    for key in table.keys:
        assert isinstance(key, ast.Constant)
        yield str(key.value)


def test_every_code_has_a_title() -> None:
    """A code without a title would be answered with the title of another problem."""
    found = raised()
    # One of each kind of place, so that a search that finds nothing does not pass.
    assert {
        "internal_error", "billing_provider_error", "missing_scope", "limit_reached",
        "idempotency_conflict", "email_taken",
    } <= found.keys()  # fmt: skip
    assert {code: path.name for code, path in found.items() if code not in TITLES} == {}


def test_every_title_has_a_code() -> None:
    """A title whose code nobody raises is dead."""
    assert TITLES.keys() - raised().keys() == set()


def test_no_two_problems_share_a_title() -> None:
    """Two problems with one title could not be told apart by a person."""
    assert len(set(TITLES.values())) == len(TITLES)


def test_codes_are_written_out() -> None:
    """A code that is computed could not be found. Only `refusal` computes one, from its table."""
    computed = [
        (path, ast.unparse(value))
        for path in SOURCES
        for value in calls(path)
        if not list(constants(value)) and path.name not in ("refusals.py", "errors.py")
    ]
    assert computed == []


def test_the_title_follows_the_code() -> None:
    """The title, not the class, says what is the matter; a given detail stays."""
    error = NotFound("There is no user with this id.", code="unknown_user")
    assert (error.title, error.detail) == (TITLES["unknown_user"], "There is no user with this id.")
    assert NotFound().title == TITLES["not_found"]
    assert NotFound().detail == TITLES["not_found"]


def test_a_code_of_a_later_release() -> None:
    """The database may refuse with a code that this release does not know yet."""
    assert Conflict(code="invented_later").title == TITLES["conflict"]


def test_kinds_have_titles() -> None:
    """Whatever the class, the error has a title."""
    kinds = family(BillingError)
    assert len(kinds) > 10
    assert [kind.__name__ for kind in kinds if kind.code not in TITLES] == []
