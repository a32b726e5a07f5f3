"""The table in docs/security.md: complete, and each requirement that is met has its evidence."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.markdown import ROOT

PAGE = ROOT / "docs" / "security.md"
TESTS = ROOT / "tests"

# How many requirements of levels 1 and 2 each section has. They are the first ones of it.
SECTIONS = {
    "6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5, "6.6": 3, "6.8": 4,
    "7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 2, "7.6": 2,
    "8.1": 2, "8.2": 3, "8.3": 1, "8.4": 1,
    "9.1": 3, "9.2": 4,
    "14.1": 2, "14.2": 4, "14.3": 3,
}  # fmt: skip


class Row(NamedTuple):
    number: str
    status: str
    why: str

    @property
    def tests(self) -> list[str]:
        return re.findall(r"`([\w/]+\.py::[\w:]+)`", self.why)

    @property
    def pages(self) -> list[str]:
        return re.findall(r"\]\(([^)]*#[^)]+)\)", self.why)


def rows() -> list[Row]:
    text = PAGE.read_text(encoding="utf-8")
    return [
        Row(*each)
        for each in re.findall(r"^\| (\d+\.\d+\.\d+) \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    ]


def names_in(path: Path) -> Iterator[str]:
    """The tests of a file, those in classes with the name of their class."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef)
            )
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def test_every_requirement_is_there_once() -> None:
    wanted = [f"{section}.{n + 1}" for section, count in SECTIONS.items() for n in range(count)]
    assert [row.number for row in rows()] == wanted


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.number)
def test_a_requirement_has_its_evidence(row: Row) -> None:
    """Met: by a test or, where a document is asked for, by a page. Else the reason is said."""
    assert row.status in ("met", "n/a", "open")
    assert len(row.why) > 10
    if row.status == "met":
        assert row.tests or row.pages
    for test in row.tests:
        path, _, name = test.partition("::")
        assert name in set(names_in(TESTS / path)), test
