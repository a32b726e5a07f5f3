"""Pages as tests read them."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(
        ROOT / name
        for name in (
            "README.md",
            "CHANGELOG.md",
            "standin/README.md",
            "clients/python/README.md",
            "clients/typescript/README.md",
        )
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, the heading it stands under, and what its fence says it is (`sh`, ...)."""

    heading: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in its order."""
    parts = re.split(
        r"^( *)```(\w*)\n(.*?)^\1```$",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    found, heading = [], ""
    for prose, language, text in zip(parts[::4], parts[2::4], parts[3::4], strict=False):
        heading = (re.findall(r"^#{1,4} (.+)$", prose, re.MULTILINE) or [heading])[-1]
        found.append(Block(heading, language, textwrap.dedent(text)))
    return found


def sections(page: Path) -> dict[str, str]:
    """What is below each heading, by the anchor that GitHub gives it."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    parts = re.split(r"^#{1,4} (.+)$", text, flags=re.MULTILINE)[1:]
    return {anchor_of(title): body for title, body in zip(parts[::2], parts[1::2], strict=True)}


def anchor_of(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
