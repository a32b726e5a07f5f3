"""docs/architecture.md names every module of the layer, in the row of its room."""

import re

import pytest

from tests.unit.markdown import ROOT

LAYER = ROOT / "layers" / "common" / "billing"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PART = PAGE.split("\n## The rooms of the layer\n", 1)[1].split("\n## ", 1)[0]
ROOMS = sorted(path.parent.name for path in LAYER.glob("*/__init__.py"))


def row(room: str) -> str:
    found = re.search(rf"^\| `{room}` \| (.+) \|$", PART, re.MULTILINE)
    assert found, f"no row for {room}"
    return found[1]


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_is_named(room: str) -> None:
    modules = {path.name for path in (LAYER / room).glob("*.py")} - {"__init__.py"}
    assert modules
    assert modules - set(re.findall(r"`([a-z_]+\.py)`", row(room))) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_in_the_picture(room: str) -> None:
    picture = PART.split("```mermaid", 1)[1].split("```", 1)[0]
    assert re.search(rf"\b{room}\b", picture)


def test_no_module_is_named_that_is_not_there() -> None:
    for room in ROOMS:
        named = set(re.findall(r"`([a-z_]+\.py)`", row(room)))
        assert named <= {path.name for path in (LAYER / room).glob("*.py")}
