"""The types that the code knows are those of docs/events.md."""

import re

from billing.events.known_types import LIST_PATTERN, TYPES
from tests.unit.cloudformation import ROOT


def test_they_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    table = page.split("\n## The types\n")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| \[`([a-z_.]+)`\]", table, re.MULTILINE)) == TYPES


def test_each_has_a_schema_and_no_other_type_has() -> None:
    schemas = {file.stem for file in (ROOT / "docs" / "events").glob("*.json")}
    assert schemas == set(TYPES)


def test_a_list_has_these_and_no_other() -> None:
    assert re.fullmatch(LIST_PATTERN, ",".join(TYPES))
    for wrong in ("", "access", "access.ended,", "access.begun", "accessXended"):
        assert not re.fullmatch(LIST_PATTERN, wrong)
