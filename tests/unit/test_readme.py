"""The README says what is there: its verbs exist, its links lead somewhere."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_blocks() -> str:
    return "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


class TestReadme:
    def test_every_make_verb_is_one_that_make_lists(self) -> None:
        """Whatever the README tells to make, make can make."""
        named = set(re.findall(r"\bmake ([a-z-]+)", shell_blocks()))
        listed = subprocess.run(
            ["make"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert named >= {"run", "test", "deploy"}
        assert named <= set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE))

    def test_every_link_leads_to_a_file(self) -> None:
        """No link of the README is dead."""
        targets = re.findall(r"\]\(([^)#:]+)\)", README)
        assert targets
        assert [t for t in targets if not (ROOT / t).exists()] == []

    def test_every_place_it_names_exists(self) -> None:
        """The table of places is the tree."""
        table = README.split("## Where things are")[1].split("##")[0]
        named = re.findall(r"`([^`<]+?)(?:/<name>[^`]*)?`", table)
        places = [n for n in named if "/" in n or n.endswith((".yaml", ".toml"))]
        assert places
        assert [p for p in places if not (ROOT / p).exists()] == []
