"""The pages lead where they say."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.unit.markdown import PAGES, ROOT, blocks, sections


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    """Other sites are not asked, nor are pictures, which `make bench` draws."""
    dead = []
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name) if name else page
        if not found.exists() or (anchor and anchor not in sections(found)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_of_sh(page: Path) -> None:
    """tests/e2e/test_guides.py runs those blocks, and no others."""
    command = r"^(\$|make|curl|python3?|git|docker|aws|sam|psql|export|\.venv/\S+) .*$"
    others = [block for block in blocks(page) if block.language not in ("sh", "sql")]
    assert [re.findall(command, b.text, re.MULTILINE) for b in others] == [[] for _ in others]


def test_the_pipeline_runs_no_code_that_can_be_exchanged() -> None:
    """Each action by its commit, and beside it which release that is."""
    text = (ROOT / ".github" / "workflows" / "deploy.yml.example").read_text(encoding="utf-8")
    used = re.findall(r"uses: (.+)", text)
    assert len(used) == 5
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_every_environment_that_is_named_is_in_samconfig() -> None:
    """In a page, or in the pipeline that is there to be copied."""
    pipeline = ROOT / ".github" / "workflows" / "deploy.yml.example"
    texts = [path.read_text(encoding="utf-8") for path in (*PAGES, pipeline)]
    named = {name for text in texts for name in re.findall(r"ENVIRONMENT=([a-z]+)", text)}
    named |= set(re.findall(r"'(\w+)' \|\| '(\w+)'", texts[-1])[0])
    config = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))
    assert named == {name for name in config if name != "version" and "deploy" in config[name]}
