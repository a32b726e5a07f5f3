"""The documents lead somewhere: their links, their anchors, the verbs they name."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def anchors(page: Path) -> set[str]:
    """As the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_is_one_of_the_makefile(page: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= verbs


def test_the_pipeline_to_copy_runs_verbs_that_are_there() -> None:
    """It asks nobody, stores no key, and deploys only what was tested."""
    path = ROOT / ".github" / "workflows" / "deploy.yml.example"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    deploy = jobs["deploy"]
    assert deploy["needs"] == "test"
    assert deploy["permissions"]["id-token"] == "write"
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert runs == [
        ".ci/run",
        "make deploy YES=1 ENVIRONMENT=$ENVIRONMENT",
        "make prune ENVIRONMENT=$ENVIRONMENT",
    ]
    assert not re.search(r"secrets\.|ACCESS_KEY", path.read_text(encoding="utf-8"))
