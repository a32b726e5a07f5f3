"""Files of the pages: kept for a year under an address that changes with the content."""

import gzip
import re
from pathlib import Path

import pytest

from billing.errors import NotFound
from billing.pages.assets import Assets
from tests.unit.cloudformation import ROOT

OURS = ROOT / "functions" / "pages" / "assets"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.css").write_text("a{}", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("no file of a page", encoding="utf-8")
    return tmp_path


def test_the_address_changes_with_the_content(folder: Path) -> None:
    before = Assets(folder).address("app.css")
    assert Assets(folder).address("app.css") == before
    assert Assets(folder, theme="b{}").address("app.css") != before


def test_a_file_is_kept_for_a_year_and_an_old_address_is_not(folder: Path) -> None:
    assets = Assets(folder)
    name = assets.address("app.css").removeprefix("/assets/")
    found, kept = assets.served(name)
    assert (found.body, gzip.decompress(found.compressed)) == (b"a{}", b"a{}")
    assert kept == "public, max-age=31536000, immutable"
    assert assets.served("app.00000000.css") == (found, "no-cache")


@pytest.mark.parametrize("name", ["secret.txt", "app.js", "..", "../app.py", "", "app"])
def test_nothing_else_is_served(folder: Path, name: str) -> None:
    with pytest.raises(NotFound):
        Assets(folder).served(name)


def test_a_first_visit_stays_small() -> None:
    """The brief's budget: a style sheet of 5 KB and a script of 2 KB, both compressed."""
    assets = Assets(OURS)
    css, js = (
        assets.served(assets.address(name).removeprefix("/assets/"))[0]
        for name in ("app.css", "app.js")
    )
    assert len(css.compressed) <= 5 * 1024
    assert len(js.compressed) <= 2 * 1024


def test_the_style_sheet_has_no_rule_that_nothing_uses_and_is_small() -> None:
    sheet = (OURS / "app.css").read_text(encoding="utf-8")
    assert len(sheet.encode()) <= 18 * 1024
    used = "".join(
        file.read_text(encoding="utf-8")
        for file in (
            *sorted((OURS.parent / "templates").glob("*.html")),
            *sorted((ROOT / "layers/common/billing/pages").glob("*.py")),
            OURS / "app.js",
        )
    )
    selectors = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "{", sheet, flags=re.DOTALL)
    classes = set(re.findall(r"\.([a-z][\w-]*)", selectors))
    assert len(classes) > 50
    assert sorted(c for c in classes if not re.search(rf"(?<![\w-]){c}(?![\w-])", used)) == []
